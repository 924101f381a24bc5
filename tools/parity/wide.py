#!/usr/bin/env python3
"""A small trained Llama as GGUFs of width 256 in every type, for `perplexity.py`: blocks of 256 need rows as long.

usage: wide.py MODEL.gguf OUT --ggml DIR_OF_LIBGGML_BASE

MODEL is a Llama in F32 of 64 inputs, as stories260k. Its states are turned into a space of 256 by a matrix with orthonormal
columns, which norms do not notice once their weights are multiplied into the matrices behind them; values of heads
likewise, into 32. Some neurons are there twice, with half the weight each. So rows are full, and OUT/F32.gguf computes what
MODEL does. The other files are that one, quantised by ggml's own code.
"""
import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

from quant import BLOCKS, Ggml

WIDTH, HEAD = 256, 32


def widened(reader):
    """The matrices in the new space, and what the header says of them."""
    key = lambda name: reader.fields["llama." + name].contents()
    old = {t.name: np.asarray(t.data, np.float64).reshape(tuple(reversed(t.shape))) for t in reader.tensors}
    width, heads, kv, neurons = key("embedding_length"), key("attention.head_count"), key("attention.head_count_kv"), key("feed_forward_length")
    head = width // heads
    rng = np.random.default_rng(1)
    turn = lambda big, small: np.linalg.qr(rng.standard_normal((big, small)))[0]
    q = turn(WIDTH, width)
    # Means are taken over more values, so states behind a norm are longer.
    longer = (WIDTH / width) ** 0.5
    behind = lambda name, norm: old[name + ".weight"] * old[norm + ".weight"] / longer @ q.T
    new = {"token_embd": old["token_embd.weight"] @ q.T, "output_norm": np.ones(WIDTH)}
    old.setdefault("output.weight", old["token_embd.weight"])
    new["output"] = behind("output", "output_norm")
    twice = np.concatenate([np.arange(neurons), np.arange(WIDTH - neurons)])
    share = 1 / np.bincount(twice)[twice]
    for i in range(key("block_count")):
        b = f"blk.{i}."
        new[b + "attn_norm"] = new[b + "ffn_norm"] = np.ones(WIDTH)

        def headed(part, scale):
            w = behind(b + part, b + "attn_norm").reshape(-1, head, WIDTH) * scale
            return np.concatenate([w, np.zeros((len(w), HEAD - head, WIDTH))], 1).reshape(-1, WIDTH)

        # Scores are divided by the root of the head's width.
        new[b + "attn_q"], new[b + "attn_k"] = headed("attn_q", (HEAD / head) ** 0.5), headed("attn_k", 1)
        turns = [turn(HEAD, head) for _ in range(kv)]
        values = behind(b + "attn_v", b + "attn_norm").reshape(kv, head, WIDTH)
        new[b + "attn_v"] = np.concatenate([r @ v for r, v in zip(turns, values)])
        out = old[b + "attn_output.weight"].reshape(width, heads, head)
        new[b + "attn_output"] = q @ np.concatenate([out[:, h] @ turns[h * kv // heads].T for h in range(heads)], 1)
        for part in ("ffn_gate", "ffn_up"):
            new[b + part] = behind(b + part, b + "ffn_norm")[twice]
        new[b + "ffn_down"] = q @ old[b + "ffn_down.weight"][:, twice] * share
    eps = key("attention.layer_norm_rms_epsilon") / longer**2
    says = dict(embedding_length=WIDTH, feed_forward_length=WIDTH, key_length=HEAD, value_length=HEAD, layer_norm_rms_eps=eps)
    return new, says


def write(path, reader, tensors, says, kind, stored):
    w = gguf.GGUFWriter(path, "llama")
    changed = {"general.architecture", "general.file_type", "llama.embedding_length", "llama.feed_forward_length", "llama.attention.layer_norm_rms_epsilon"}
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in changed:
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            w.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for name, value in says.items():
        getattr(w, "add_" + name)(value)
    for name, x in tensors.items():
        x = x.astype(np.float32)
        plain = kind == T.F32 or x.ndim == 1
        w.add_tensor(name + ".weight", x if plain else stored(x), raw_dtype=None if plain else kind)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model"), p.add_argument("out", type=Path), p.add_argument("--ggml", required=True)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    reader, ggml = gguf.GGUFReader(args.model), Ggml(args.ggml)
    tensors, says = widened(reader)
    for kind in (T.F32, T.F16, T.BF16, *BLOCKS):
        stored = lambda x: ggml.quantise(kind, x) if kind in BLOCKS else gguf.quants.quantize(x, kind)
        write(args.out / f"{kind.name}.gguf", reader, tensors, says, kind, stored)


if __name__ == "__main__":
    main()
