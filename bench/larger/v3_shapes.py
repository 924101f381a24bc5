#!/usr/bin/env python3
"""Writes a GGUF file with the shapes of DeepSeek-V3 (671B, Q4_K): 380 GB that take half a gigabyte on a disk, as most
of it is a hole, which reads as zeros. Norms are 1, and routers and the embeddings of the first tokens are random, so that
tokens go to different experts. It shows what such a model takes, not what it says.

    python3 v3_shapes.py OUT [LAYERS]         needs numpy; LAYERS: 61 or fewer
"""

import struct
import sys

import numpy as np

F32, F16, Q4_K = 0, 1, 12
BLOCK = {F32: (1, 4), F16: (1, 2), Q4_K: (256, 144)}
WIDTH, HEADS, EXPERTS, INNER, VOCAB, KNOWN = 7168, 128, 256, 2048, 129280, 4096
ALIGN = 4096


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def value(v):
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    return struct.pack("<I", 8) + text(v)


def tensors(layers):
    yield "token_embd.weight", [WIDTH, VOCAB], F16
    for i in range(layers):
        b = f"blk.{i}."
        yield b + "attn_norm.weight", [WIDTH], F32
        yield b + "attn_q_a.weight", [WIDTH, 1536], Q4_K
        yield b + "attn_q_a_norm.weight", [1536], F32
        yield b + "attn_q_b.weight", [1536, HEADS * 192], Q4_K
        yield b + "attn_kv_a_mqa.weight", [WIDTH, 576], Q4_K
        yield b + "attn_kv_a_norm.weight", [512], F32
        # Rows of 128 inputs are no whole blocks of Q4_K.
        yield b + "attn_k_b.weight", [128, 512, HEADS], F16
        yield b + "attn_v_b.weight", [512, 128, HEADS], Q4_K
        yield b + "attn_output.weight", [HEADS * 128, WIDTH], Q4_K
        yield b + "ffn_norm.weight", [WIDTH], F32
        if i < 3:
            yield b + "ffn_gate.weight", [WIDTH, 18432], Q4_K
            yield b + "ffn_up.weight", [WIDTH, 18432], Q4_K
            yield b + "ffn_down.weight", [18432, WIDTH], Q4_K
            continue
        yield b + "ffn_gate_inp.weight", [WIDTH, EXPERTS], F32
        yield b + "exp_probs_b.bias", [EXPERTS], F32
        yield b + "ffn_gate_exps.weight", [WIDTH, INNER, EXPERTS], Q4_K
        yield b + "ffn_up_exps.weight", [WIDTH, INNER, EXPERTS], Q4_K
        yield b + "ffn_down_exps.weight", [INNER, WIDTH, EXPERTS], Q4_K
        yield b + "ffn_gate_shexp.weight", [WIDTH, INNER], Q4_K
        yield b + "ffn_up_shexp.weight", [WIDTH, INNER], Q4_K
        yield b + "ffn_down_shexp.weight", [INNER, WIDTH], Q4_K
    yield "output_norm.weight", [WIDTH], F32
    yield "output.weight", [WIDTH, VOCAB], Q4_K


def main():
    out, layers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 61
    a = "deepseek2."
    meta = {
        "general.architecture": "deepseek2", "general.name": "DeepSeek-V3 shapes", "general.alignment": ALIGN,
        a + "block_count": layers, a + "context_length": 163840, a + "embedding_length": WIDTH,
        a + "feed_forward_length": 18432, a + "attention.head_count": HEADS, a + "attention.head_count_kv": 1,
        a + "rope.freq_base": 10000.0, a + "attention.layer_norm_rms_epsilon": 1e-6, a + "expert_used_count": 8,
        a + "expert_group_count": 8, a + "expert_group_used_count": 4, a + "leading_dense_block_count": 3,
        a + "vocab_size": VOCAB, a + "attention.q_lora_rank": 1536, a + "attention.kv_lora_rank": 512,
        a + "attention.key_length": 576, a + "attention.value_length": 512, a + "attention.key_length_mla": 192,
        a + "attention.value_length_mla": 128, a + "expert_feed_forward_length": INNER, a + "expert_count": EXPERTS,
        a + "expert_shared_count": 1, a + "expert_weights_scale": 2.5, a + "expert_weights_norm": True,
        a + "expert_gating_func": 2, a + "rope.dimension_count": 64, a + "rope.scaling.type": "yarn",
        a + "rope.scaling.factor": 40.0, a + "rope.scaling.original_context_length": 4096,
        a + "rope.scaling.yarn_log_multiplier": 0.1,
    }
    places, at = [], 0
    for name, shape, kind in tensors(layers):
        block, size = BLOCK[kind]
        places.append((name, shape, kind, at))
        at = (at + int(np.prod(shape)) // block * size + ALIGN - 1) // ALIGN * ALIGN
    head = b"GGUF" + struct.pack("<IQQ", 3, len(places), len(meta))
    head += b"".join(text(k) + value(v) for k, v in meta.items())
    for name, shape, kind, start in places:
        dims = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in shape)
        head += text(name) + dims + struct.pack("<IQ", kind, start)
    first = (len(head) + ALIGN - 1) // ALIGN * ALIGN
    rng = np.random.default_rng(3)
    with open(out, "wb") as f:
        f.write(head)
        f.truncate(first + at)
        for name, shape, kind, start in places:
            f.seek(first + start)
            if name == "token_embd.weight":
                f.write(rng.standard_normal((KNOWN, WIDTH), dtype=np.float32).astype(np.float16).tobytes())
            elif name.endswith("gate_inp.weight"):
                f.write((rng.standard_normal(EXPERTS * WIDTH, dtype=np.float32) * 0.02).tobytes())
            elif name.endswith("norm.weight"):
                f.write(np.ones(shape, dtype=np.float32).tobytes())
    print(f"{first + at} bytes in {len(places)} tensors")


main()
