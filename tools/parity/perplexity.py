#!/usr/bin/env python3
"""What quantised activations and packed weights do to perplexity: each model against the same weights in F32.

usage: perplexity.py ALULA TEXT MODEL.gguf ...

A twin of each model is made with gguf-py: its matrices dequantised to F32, which are then multiplied in single precision with
activations as they are. ALULA computes the perplexity of TEXT with both; more than 0.1 % between them is a failure.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

BOUND = 1e-3


def plain(source, target):
    """The same model with every tensor in F32."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for t in reader.tensors:
        values = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        writer.add_tensor(t.name, values.reshape(tuple(reversed(t.shape))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def perplexity(alula, model, text):
    command = [alula, "eval", "perplexity", model, text, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["perplexity"]


def main():
    alula, text, *models = sys.argv[1:]
    if not models:
        sys.exit(__doc__)
    bad = 0
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            twin = str(Path(folder) / "plain.gguf")
            plain(model, twin)
            got, want = perplexity(alula, model, text), perplexity(alula, twin, text)
        error = got / want - 1
        bad += abs(error) > BOUND
        print(f"{Path(model).stem:20} {got:10.4f} {want:10.4f} {100 * error:+8.3f} %", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
