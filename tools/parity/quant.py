#!/usr/bin/env python3
"""Tiny Llama GGUFs in every block format, with logits of the same weights dequantised and computed in float64.

usage: quant.py OUT [--ggml DIR_OF_LIBGGML_BASE] [--run LOGITS] [NAME ...]

OUT/NAME/: model.gguf, tokens.json (48 ids), ref.bin (logits [48, vocabulary], f32) and case.json.
  random_TYPE   every matrix is random block bytes with scales that keep the weights near 1/sqrt(inputs)
  rounded_TYPE  every matrix is a normal one, quantised by ggml's own code (--ggml)
  mix32, mix256 one small model each that holds every format of block 32 or 256, random bytes: what the project keeps
The reference is transformers' Llama in float64 over gguf-py's dequantisation. A runtime that quantises activations differs from
it by about 5e-4 (1.1e-3 for K formats) of normalised mean square. --run LOGITS prints what llama.cpp's is.
"""
import argparse, ctypes, json, subprocess, tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as T

# format: where the f16 scale and the f16 offset of a block lie, and the mean of the quants when the offset is a minimum
BLOCKS = {
    T.Q4_0: (0, None, 0), T.Q4_1: (0, 2, -7.5), T.Q5_0: (0, None, 0), T.Q5_1: (0, 2, -15.5), T.Q8_0: (0, None, 0),
    T.Q2_K: (80, 82, 1.5), T.Q3_K: (108, None, 0), T.Q4_K: (0, 2, 7.5), T.Q5_K: (0, 2, 15.5), T.Q6_K: (208, None, 0),
    T.IQ4_NL: (0, None, 0), T.IQ4_XS: (0, None, 0), T.MXFP4: (None, None, 0), T.TQ1_0: (52, None, 0), T.TQ2_0: (64, None, 0),
}
PROMPT = 48


def random_blocks(rng, kind, rows, cols, spread):
    """Block bytes whose dequantised values have a standard deviation near `spread`."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    scale, offset, mean = BLOCKS[kind]
    n = rows * cols // block
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)

    def put(at, values):
        data[:, at:at + 2] = values.astype("<f2").view(np.uint8).reshape(n, 2)

    if scale is None:                                   # MXFP4: the scale is a power of two
        data[:, 0] = 128
        e = np.log2(spread / gguf.quants.dequantize(data.reshape(1, -1), kind).std())
        data[:, 0] = 128 + np.round(e + rng.uniform(-0.8, 0.4, n))
    else:
        def fill(d):
            put(scale, d)
            if offset is not None:
                put(offset, d * mean)
        fill(np.ones(n))
        d = spread / gguf.quants.dequantize(data.reshape(1, -1), kind).std() * rng.uniform(0.6, 1.3, n)
        fill(d if offset is not None and size > 64 else d * rng.choice([-1.0, 1.0], n))     # K offsets are minima: both stay positive
    return data.reshape(rows, cols // block * size)


class Ggml:
    """ggml's quantiser, called in its shared library."""

    def __init__(self, folder):
        self.lib = ctypes.CDLL(str(Path(folder) / "libggml-base.so"))
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

    def quantise(self, kind, x):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        x = np.ascontiguousarray(x, np.float32)
        out = np.zeros((x.shape[0], x.shape[1] // block * size), np.uint8)
        weight = np.ones(x.shape[1], np.float32)
        assert self.lib.ggml_quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], weight.ctypes.data) == out.nbytes
        return out


def shapes(d):
    """(name, rows, columns) of every matrix."""
    hd = d["head"]
    yield "token_embd", d["vocab"], d["width"]
    yield "output", d["vocab"], d["width"]
    for i in range(d["layers"]):
        b = f"blk.{i}."
        yield b + "attn_q", d["heads"] * hd, d["width"]
        yield b + "attn_k", d["kv"] * hd, d["width"]
        yield b + "attn_v", d["kv"] * hd, d["width"]
        yield b + "attn_output", d["width"], d["heads"] * hd
        yield b + "ffn_gate", d["ff"], d["width"]
        yield b + "ffn_up", d["ff"], d["width"]
        yield b + "ffn_down", d["width"], d["ff"]


def unpermute(w, heads):
    """Rows from GGUF's neighbouring rotary pairs back to halves."""
    n = w.shape[0] // heads // 2
    return w.reshape(heads, n, 2, -1).swapaxes(1, 2).reshape(w.shape)


def write(path, d, tensors, kinds):
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(path.parent.name), w.add_context_length(256), w.add_embedding_length(d["width"]), w.add_block_count(d["layers"])
    w.add_feed_forward_length(d["ff"]), w.add_head_count(d["heads"]), w.add_head_count_kv(d["kv"]), w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0), w.add_key_length(d["head"]), w.add_value_length(d["head"]), w.add_rope_dimension_count(d["head"])
    w.add_vocab_size(d["vocab"]), w.add_tokenizer_model("none")
    for name, data in tensors.items():
        kind = kinds.get(name.removesuffix(".weight"), T.F32)
        w.add_tensor(name, data, raw_dtype=kind if kind != T.F32 else None)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def reference(d, plain, ids):
    """transformers' Llama in float64 over the plain weights."""
    c = transformers.LlamaConfig(vocab_size=d["vocab"], hidden_size=d["width"], intermediate_size=d["ff"], num_hidden_layers=d["layers"],
                                 num_attention_heads=d["heads"], num_key_value_heads=d["kv"], head_dim=d["head"], rms_norm_eps=1e-5,
                                 rope_parameters=dict(rope_type="default", rope_theta=10000.0), attn_implementation="eager")
    m = transformers.LlamaForCausalLM(c).double().eval()
    names = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    state = {}
    for name, w in plain.items():
        name = name.removesuffix(".weight")
        if name.startswith("blk."):
            _, i, part = name.split(".")
            if part in ("attn_q", "attn_k"):
                w = unpermute(w, d["heads"] if part == "attn_q" else d["kv"])
            name = f"model.layers.{i}.{parts[part]}"
        else:
            name = names[name]
        state[name + ".weight"] = torch.from_numpy(np.asarray(w, np.float64))
    m.load_state_dict(state)
    with torch.no_grad():
        return m(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def make(folder, d, kind_of, ggml=None, run=None):
    rng = np.random.default_rng(list(folder.name.encode()))
    folder.mkdir(parents=True, exist_ok=True)
    tensors, plain, kinds = {}, {}, {}
    for i, (name, rows, cols) in enumerate(shapes(d)):
        kind = kinds[name] = kind_of(i)
        spread = 1.0 if name == "token_embd" else 1.3 / cols**0.5
        if kind in BLOCKS and ggml is None:
            data = random_blocks(rng, kind, rows, cols, spread)
        else:
            x = (rng.standard_normal((rows, cols)) * spread).astype(np.float32)
            data = gguf.quants.quantize(x, kind) if kind not in BLOCKS else ggml.quantise(kind, x)
        tensors[name + ".weight"], plain[name + ".weight"] = data, gguf.quants.dequantize(data, kind)
    for name in ["output_norm"] + [f"blk.{i}.{n}" for i in range(d["layers"]) for n in ("attn_norm", "ffn_norm")]:
        tensors[name + ".weight"] = plain[name + ".weight"] = (1 + 0.2 * rng.standard_normal(d["width"])).astype(np.float32)
    ids = rng.integers(3, d["vocab"], PROMPT).tolist()
    ref = reference(d, plain, ids)
    assert np.isfinite(ref).all()
    write(folder / "model.gguf", d, tensors, kinds)
    ref.astype("<f4").tofile(folder / "ref.bin")
    (folder / "tokens.json").write_text(json.dumps(ids) + "\n")
    used = sorted({k.name for k in kinds.values()})
    info = dict(types=sorted({k.name for k in kinds.values()}), vocab=d["vocab"], max_logit=float(np.abs(ref).max()))
    line = f"{folder.name:16s} {(folder / 'model.gguf').stat().st_size / 1000:6.0f} kB  max|l| {info['max_logit']:7.3f}"
    if run:
        with tempfile.NamedTemporaryFile() as f:
            subprocess.run([run, str(folder / "model.gguf"), ",".join(map(str, ids)), f.name, "0"], check=True)
            got = np.fromfile(f.name, "<f4").reshape(ref.shape)
        info["llama_cpp_nmse"] = float(((got - ref) ** 2).mean() / (ref**2).mean())
        line += f"  llama.cpp nmse {info['llama_cpp_nmse']:.1e}"
    (folder / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    print(line, flush=True)


SMALL = dict(vocab=96, width=64, heads=4, kv=2, head=16, ff=96, layers=1)
WIDE = dict(vocab=64, width=256, heads=8, kv=1, head=32, ff=256, layers=1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", type=Path), p.add_argument("--ggml"), p.add_argument("--run"), p.add_argument("names", nargs="*")
    a = p.parse_intermixed_args()
    torch.set_num_threads(1)
    ggml = Ggml(a.ggml) if a.ggml else None
    by_size = {n: [k for k in BLOCKS if gguf.GGML_QUANT_SIZES[k][0] == n] + extra for n, extra in ((32, [T.F16, T.BF16]), (256, []))}
    rows = {f"mix{n}": (d, lambda i, k=by_size[n]: k[i % len(k)], None) for n, d in ((32, SMALL), (256, WIDE))}
    for k in BLOCKS:
        rows[f"random_{k.name}"] = ({**WIDE, "layers": 2, "kv": 2, "vocab": 128}, lambda i, k=k: k, None)
        if ggml:
            rows[f"rounded_{k.name}"] = ({**WIDE, "layers": 2, "kv": 4, "vocab": 128, "ff": 512}, lambda i, k=k: k, ggml)
    for name, (d, kind_of, lib) in rows.items():
        if not a.names or name in a.names:
            make(a.out / name, d, kind_of, lib, a.run)


if __name__ == "__main__":
    main()
