#!/usr/bin/env python3
"""GGUF twins of the tiny models, written by llama.cpp's own converter, and what llama.cpp makes of them.

usage: convert.py LLAMA_CPP MODELS OUT [--type f32|f16|bf16] [--run LOGITS] [NAME ...]
       convert.py LLAMA_CPP MODELS --beside       the twins that cases.py asks for, as MODELS/NAME/model.gguf

LLAMA_CPP: llama.cpp's source folder (with conversion/ and gguf-py/). MODELS: a folder that make.py wrote.
OUT/NAME.gguf is written without a tokenizer (`tokenizer.ggml.model` = none): the converter's classes are used as they are,
only `set_vocab` is replaced, and two things that transformers 5 no longer saves are put back (GPT-2's n_ctx, Gemma 3's count of tokens).
--run LOGITS: a program `LOGITS model.gguf ids out.f32 64` built on llama.cpp (raw f32 logits of every position; greedy ids on stdout);
its answer for each twin is compared with ref.bin and greedy.json, and the verdict is printed. F32 twins only: llama.cpp rounds
activations to the type of the weights.
"""
import argparse, importlib, json, logging, os, subprocess, sys, tempfile
from pathlib import Path

import numpy as np
import torch

from cases import CASES


def converter(root):
    """(the converter's package, its gguf) imported from llama.cpp's source."""
    sys.path[:0] = [str(root), str(root / "gguf-py")]
    logging.disable(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")           # a progress bar a file
    return importlib.import_module("conversion"), importlib.import_module("gguf")


def convert(package, gguf, folder, path, kind, unsplit=False):
    base = importlib.import_module("conversion.base").ModelBase
    hparams = base.load_hparams(folder, False)
    if hparams.get("model_type") == "nomic_bert":        # transformers adds its own keys beside the hub's
        hparams = json.loads((folder / "config.json").read_text())
    # The converter knows the hub's names of layer types, not those that transformers makes of them.
    hub = {"linear_attention": "mamba", "full_attention": "attention"}
    if "linear_attention" in (types := hparams.get("layer_types") or []):
        hparams["layer_types"] = [hub[t] for t in types]
    found = package.get_model_class(package.get_model_architecture(hparams, package.ModelType.TEXT))

    class Twin(found):
        model_arch = found.model_arch

        def __init__(self, *a, **k):
            k["hparams"] = {**hparams, **({"n_ctx": hparams["n_positions"]} if "n_positions" in hparams else {})}
            super().__init__(*a, **k)

        def set_vocab(self):
            self._set_vocab_none()
            if "vocab_size" in self.hparams and not self.gguf_writer.kv_data[0].get(f"{gguf.MODEL_ARCH_NAMES[self.model_arch]}.vocab_size"):
                self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

        def set_gguf_parameters(self):
            super().set_gguf_parameters()
            if unsplit:
                kv, h = self.gguf_writer.kv_data[0], self.hparams
                for key, value in (("head_count_kv", h["num_attention_heads"]), ("key_length", h["qk_nope_head_dim"] + h["qk_rope_head_dim"]), ("value_length", h["v_head_dim"])):
                    kv[f"deepseek2.attention.{key}"].value = value
                del kv["deepseek2.attention.key_length_mla"], kv["deepseek2.attention.value_length_mla"]

        def modify_tensors(self, data, name, bid):
            whole = unsplit and name.endswith("kv_b_proj.weight")
            yield from (super(found, self) if whole else super()).modify_tensors(data, name, bid)

    ftype = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}[kind]
    with tempfile.TemporaryDirectory() as t:
        copy = Path(t) / folder.name
        copy.mkdir()
        for f in folder.iterdir():
            if f.suffix in (".json", ".safetensors"):
                (copy / f.name).symlink_to(f.resolve())
        (copy / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {str(i): i for i in range(hparams["vocab_size"])}}, "added_tokens": []}))
        with torch.inference_mode():
            Twin(copy, ftype, path, model_name=folder.name).write()


def verdict(program, path, folder):
    """How far llama.cpp's logits of `path` are from ref.bin, as a share of the largest, and whether its greedy ids agree."""
    ids = ",".join(map(str, json.loads((folder / "tokens.json").read_text())))
    with tempfile.NamedTemporaryFile() as f:
        r = subprocess.run([program, str(path), ids, f.name, "64"], capture_output=True, text=True)
        if r.returncode:
            return None, r.stderr.strip().splitlines()[-1] if r.stderr.strip() else f"exit code {r.returncode}"
        got = np.fromfile(f.name, "<f4")
    ref = np.fromfile(folder / "ref.bin", "<f4")
    greedy = json.loads((folder / "greedy.json").read_text())
    mine = [int(x) for x in r.stdout.split(",")]
    same = next((i for i, (a, b) in enumerate(zip(mine, greedy)) if a != b), 64)
    return float(np.abs(got - ref).max() / np.abs(ref).max()), f"greedy {same}/64"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("llama_cpp", type=Path), p.add_argument("models", type=Path), p.add_argument("out", type=Path, nargs="?")
    p.add_argument("--type", default="f32", choices=["f32", "f16", "bf16"])
    p.add_argument("--beside", action="store_true"), p.add_argument("--run"), p.add_argument("names", nargs="*")
    a = p.parse_intermixed_args()
    torch.set_num_threads(1)
    package, gguf = converter(a.llama_cpp)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
    for name in a.names or sorted(f.name for f in a.models.iterdir() if (f / "config.json").is_file()):
        if a.beside and not CASES[name].gguf:
            continue
        folder, kind = a.models / name, CASES[name].gguf if a.beside else a.type
        path = folder / "model.gguf" if a.beside else a.out / f"{name}.gguf"
        path.unlink(missing_ok=True)
        try:
            convert(package, gguf, folder, path, kind, name in CASES and CASES[name].unsplit)
            line = f"{path.stat().st_size / 1000:6.0f} kB"
            if a.run:
                error, more = verdict(a.run, path, folder)
                line += f"  {'DIFFERS' if error is None or error >= 1e-3 else 'agrees' if error < 1e-5 else 'close'}  {'' if error is None else f'{error:.1e}'}  {more}"
        except Exception as e:
            if os.environ.get("TRACE"):
                raise
            path.unlink(missing_ok=True)
            line = f"no twin: {type(e).__name__}: {e}"
        print(f"{name:24s} {line}", flush=True)


if __name__ == "__main__":
    main()
