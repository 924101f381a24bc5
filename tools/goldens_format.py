#!/usr/bin/env python3
"""Writes crates/format/tests/data: small files by gguf-py and safetensors-py, and what they hold.

    python tools/goldens_format.py

Needs numpy, gguf and safetensors.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFEndian, GGUFValueType as V
from gguf.quants import dequantize
from safetensors.numpy import save_file

OUT = Path(__file__).parent.parent / "crates/format/tests/data"
rng = np.random.default_rng(11)

# Key, type, value; the arrays of every item type too.
SCALARS = [
    ("u8", V.UINT8, 255), ("i8", V.INT8, -128), ("u16", V.UINT16, 65535), ("i16", V.INT16, -32768),
    ("u32", V.UINT32, 4294967295), ("i32", V.INT32, -2147483648), ("f32", V.FLOAT32, 0.5), ("bool", V.BOOL, True),
    ("string", V.STRING, "grüße, 世界 🐦"), ("empty", V.STRING, ""), ("u64", V.UINT64, 2**64 - 1),
    ("i64", V.INT64, -(2**63)), ("f64", V.FLOAT64, 1e300),
]
NESTED = [[1, 2, 3], [4], [5, 6]]


def metadata(writer):
    for key, vtype, value in SCALARS:
        writer.add_key_value(f"test.{key}", value, vtype)
    for key, vtype, value in SCALARS:
        if key != "empty":
            writer.add_key_value(f"test.{key}.array", [value] * 3, V.ARRAY, vtype)
    writer.add_key_value("test.nested", NESTED, V.ARRAY, V.ARRAY)
    writer.add_key_value("test.tokens", ["<s>", "", "▁a", "\n"], V.ARRAY, V.STRING)


def block_data(qtype, rows, cols):
    """Random rows of a type, finite scales wherever they stand."""
    block, size = GGML_QUANT_SIZES[qtype]
    while True:
        data = rng.integers(0, 256, (rows, cols // block * size), dtype=np.uint8)
        if qtype == T.IQ2_XS or np.isfinite(dequantize(data, qtype)).all():
            return data


def all_types(writer):
    """One tensor of each type, of 1 to 4 dimensions, and one type that Alula does not read."""
    names = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 TQ1_0 TQ2_0 IQ2_XS".split()
    want = {}
    for i, name in enumerate(names):
        qtype = T[name]
        block, size = GGML_QUANT_SIZES[qtype]
        outer = [(), (2,), (1, 2), (2, 1, 1)][i % 4]
        shape = (*outer, max(block, 8))
        data = block_data(qtype, int(np.prod(outer)), shape[-1])
        if qtype != T.IQ2_XS:
            want[f"t.{name}"] = dequantize(data, qtype).reshape(shape).copy()
        data = data.reshape(*outer, -1)
        if name in ("F32", "F16"):
            writer.add_tensor(f"t.{name}", data.view({"F32": np.float32, "F16": np.float16}[name]))
        else:
            writer.add_tensor(f"t.{name}", data, raw_dtype=qtype)
    return want


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)

    writer = gguf.GGUFWriter(OUT / "all.gguf", "llama")
    writer.add_custom_alignment(64)
    metadata(writer)
    want = all_types(writer)
    finish(writer)
    save_file(want, OUT / "all.safetensors")
    version2 = bytearray((OUT / "all.gguf").read_bytes())
    version2[4] = 2  # the layouts of 2 and 3 are the same for little-endian files
    (OUT / "version2.gguf").write_bytes(version2)

    writer = gguf.GGUFWriter(OUT / "big.gguf", "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("t", np.ones(8, np.float32))
    finish(writer)

    writer = gguf.GGUFWriter(OUT / "vocab.gguf", "llama")
    writer.add_token_list(["a", "b"])
    finish(writer)

    writer = gguf.GGUFWriter(OUT / "split.gguf", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.arange(8, dtype=np.float32) + 10 * i)
    finish(writer)

    folder = OUT / "hf"
    folder.mkdir()
    shards = [{"a": np.arange(6, dtype=np.float32).reshape(2, 3), "half": np.array([0.5, -2], np.float16)},
              {"b": np.arange(4, dtype=np.float32) / 3, "ids": np.arange(3, dtype=np.int64), "scalar": np.array(7, np.float32)}]
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    size = sum(t.nbytes for s in shards for t in s.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {"model_type": "llama", "rope_theta": 10000.0, "time_step_limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config, indent=2))  # writes a bare Infinity
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    templates = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "{{ messages }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    for path in sorted(OUT.rglob("*")):
        if path.is_file():
            print(path.relative_to(OUT), path.stat().st_size)


main()
