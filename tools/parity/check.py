#!/usr/bin/env python3
"""Does the binary compute what transformers computes? For every model under FOLDER (see make.py, quant.py).

usage: check.py ALULA FOLDER [--gguf FOLDER_OF_TWINS] [NAME ...]

Runs `ALULA eval logits MODEL --ids ... --out F.safetensors` and `ALULA eval greedy MODEL --ids ... -n 64` on each folder with a
config.json, on each model.gguf beside it, and on FOLDER_OF_TWINS/NAME.gguf where there is one. Exit code 1 when anything fails:
  whole models    max |error| <= 1e-5 of max |logit|, and 64 of 64 greedy ids
  quantised ones  normalised mean square error <= 5e-4 (1.1e-3 with formats of block 256)
A twin that leaves out what its folder says (windows, parts of a RoPE scaling) cannot agree; those are named in NOT_IN_GGUF.
Needs numpy and safetensors.
"""
import argparse, json, subprocess, sys, tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

# what llama.cpp's converter does not write, so that the file holds another model than the folder
NOT_IN_GGUF = {
    "mistral_window": "window", "mistral_window_old": "window", "qwen2_window": "window", "qwen2_types": "window", "qwen3_window": "window",
    "llama_dynamic_long": "dynamic scaling", "llama_yarn_mscale": "mscale and truncate", "phi3_hub": "attention_factor",
    "gpt2_inverse": "scale by layer, n_inner, erf GELU", "gpt2_relu": "activation, scale", "phi_partial": "intermediate_size",
    "bert_types": "activation", "roberta_pad": "activation", "modernbert_bias": "biases, activation",
    "gemma2_old": "query_pre_attn_scalar", "gemma3_linear": "window pattern, query_pre_attn_scalar",
}


def ask(*command):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(f"exit code {r.returncode}: {(r.stderr.strip() or 'no message').splitlines()[-1][:150]}")
    return r.stdout


def compare(alula, model, folder):
    """(does it pass, what to print)."""
    ids = ",".join(map(str, json.loads((folder / "tokens.json").read_text())))
    ref = np.fromfile(folder / "ref.bin", "<f4")
    with tempfile.TemporaryDirectory() as t:
        out = Path(t) / "logits.safetensors"
        ask(alula, "eval", "logits", model, "--ids", ids, "--out", out)
        got = load_file(out)["logits"]
    if json.loads((folder / "case.json").read_text()).get("family", "").endswith("_cls"):
        got = got[:1]                                    # the text's scores are those of its first token
        if got.size != ref.size:
            return False, f"{got.size} scores, expected {ref.size}"
        error = np.abs(got.reshape(-1).astype(np.float64) - ref).max() / np.abs(ref).max()
        return bool(error <= 1e-5), f"error {error:.1e}"
    if got.size != ref.size or got.dtype != np.float32 or got.shape[0] != ids.count(",") + 1:
        return False, f"logits {got.dtype} {got.shape}, expected float32 [{ids.count(',') + 1}, {ref.size // (ids.count(',') + 1)}]"
    d = got.reshape(-1).astype(np.float64) - ref
    error, nmse = np.abs(d).max() / np.abs(ref).max(), (d**2).mean() / (ref.astype(np.float64) ** 2).mean()
    if not (folder / "greedy.json").exists() and not (folder / "case.json").read_text().count('"types"'):
        return bool(error <= 1e-5), f"error {error:.1e}"
    if not (folder / "greedy.json").exists():
        wide = any(k.endswith("_K") or k in ("IQ4_XS", "TQ1_0", "TQ2_0") for k in json.loads((folder / "case.json").read_text())["types"])
        return bool(nmse <= (1.1e-3 if wide else 5e-4)), f"nmse {nmse:.1e}"
    want = json.loads((folder / "greedy.json").read_text())
    mine = [int(x) for x in ask(alula, "eval", "greedy", model, "--ids", ids, "-n", 64).replace(",", " ").split()]
    same = next((i for i, (a, b) in enumerate(zip(mine, want)) if a != b), min(len(mine), 64))
    return bool(error <= 1e-5 and mine == want), f"error {error:.1e}  greedy {same}/64"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("alula"), p.add_argument("folder", type=Path), p.add_argument("--gguf", type=Path), p.add_argument("names", nargs="*")
    a = p.parse_intermixed_args()
    passed = failed = 0
    for folder in sorted(f.parent for f in a.folder.glob("*/tokens.json")):
        name = folder.name
        if a.names and name not in a.names:
            continue
        twins = [("gguf", folder / "model.gguf")] + ([("twin", a.gguf / f"{name}.gguf")] if a.gguf else [])
        if (folder / "types.json").is_file():
            print(f"{name:24s} has token types, which the command line does not take: see crates/model/tests/parity.rs", flush=True)
            continue
        rows = [("folder", folder)] if (folder / "config.json").is_file() else []
        rows += [(kind, path) for kind, path in twins if path.is_file() and name not in NOT_IN_GGUF]
        for kind, model in rows:
            try:
                good, text = compare(a.alula, model, folder)
            except (RuntimeError, OSError, KeyError, ValueError) as e:
                good, text = False, str(e)
            passed, failed = passed + good, failed + (not good)
            print(f"{name:24s} {kind:7s} {'ok  ' if good else 'FAIL'}  {text}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
