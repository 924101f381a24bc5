#!/usr/bin/env python3
"""Writes crates/tensor/tests/data/quant.safetensors: random blocks of every tensor type and what gguf-py decodes.

    python tools/goldens_quant.py [--ggml libggml-base.so]

Needs numpy, gguf and safetensors. With --ggml the C library decodes the same blocks and 2,000 more of each type, and
must agree with gguf-py to the bit (NaNs count as equal).
"""

import argparse
import ctypes
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Byte offsets of the f16 fields in a block, and the C function.
TYPES = {
    T.F32: ([], None), T.F16: ([0], None), T.BF16: ([], None),
    T.Q4_0: ([0], "q4_0"), T.Q4_1: ([0, 2], "q4_1"), T.Q5_0: ([0], "q5_0"), T.Q5_1: ([0, 2], "q5_1"),
    T.Q8_0: ([0], "q8_0"), T.Q2_K: ([80, 82], "q2_K"), T.Q3_K: ([108], "q3_K"), T.Q4_K: ([0, 2], "q4_K"),
    T.Q5_K: ([0, 2], "q5_K"), T.Q6_K: ([208], "q6_K"), T.IQ4_NL: ([0], "iq4_nl"), T.IQ4_XS: ([0], "iq4_xs"),
    T.MXFP4: ([], "mxfp4"), T.TQ1_0: ([52], "tq1_0"), T.TQ2_0: ([64], "tq2_0"),
}
# Zero, minus zero, smallest and largest subnormal, largest, infinities, NaN.
SPECIAL = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0x7C00, 0xFC00, 0x7E01], np.uint16)


def blocks(rng, qtype, n, special):
    """n random blocks with finite scales, then one block for each special scale if asked for."""
    _, size = GGML_QUANT_SIZES[qtype]
    fields, _ = TYPES[qtype]
    out = rng.integers(0, 256, (n + (len(SPECIAL) if special else 0), size), dtype=np.uint8)
    for at in fields:
        scales = (rng.standard_normal(len(out)) * 2.0 ** rng.integers(-20, 8, len(out))).astype(np.float16)
        if special:
            scales[n:] = SPECIAL.view(np.float16)
        out[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if qtype == T.MXFP4:
        out[n:, 0] = [0, 1, 2, 3, 127, 253, 254, 255][: len(out) - n]
    return out


def same(a, b):
    """Equal to the bit, NaNs alike."""
    return np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b)))


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--ggml")
    ggml = args.parse_args().ggml
    lib = ggml and ctypes.CDLL(ggml)
    rng, golden = np.random.default_rng(7), {}
    for qtype, (_, c_name) in TYPES.items():
        plain = c_name is None
        small = blocks(rng, qtype, 64 if plain else 4, special=True)
        with np.errstate(all="ignore"):
            golden[f"{qtype.name}.bytes"] = small
            golden[f"{qtype.name}.f32"] = dequantize(small, qtype).reshape(len(small), -1).copy()
        if lib and not plain:
            for data in (small, blocks(rng, qtype, 2000, special=True)):
                with np.errstate(all="ignore"):
                    want = dequantize(data, qtype)
                got = np.empty_like(want)
                run = getattr(lib, f"dequantize_row_{c_name}")
                run(data.ctypes.data_as(ctypes.c_void_p), got.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(got.size))
                assert same(got, want), f"{qtype.name}: C and gguf-py disagree"
            print(f"{qtype.name}: C agrees")
    path = Path(__file__).parent.parent / "crates/tensor/tests/data/quant.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(golden, path)
    print(path.name, path.stat().st_size, "bytes")


main()
