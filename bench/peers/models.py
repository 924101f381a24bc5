"""GGUF files of real shapes with random weights, for measuring: speed does not depend on the values. Standard library only.

The mixes of types are those that llama-quantize makes; vocabularies are copied from files of llama.cpp's source package.
"""

import os
import random
import shutil
import struct
from pathlib import Path

# Name: GGUF's number, elements and bytes of a block, half-precision numbers that must be sane, by their place in it.
TYPES = {
    "F32": (0, 1, 4, {}),
    "F16": (1, 1, 2, {}),
    "Q4_0": (2, 32, 18, {0: 0.003}),
    "Q8_0": (8, 32, 34, {0: 0.0004}),
    "Q4_K": (12, 256, 144, {0: 0.0004, 2: 0.0}),
    "Q5_K": (13, 256, 176, {0: 0.0002, 2: 0.0}),
    "Q6_K": (14, 256, 210, {208: 0.00002}),
    "BF16": (30, 1, 2, {}),
}
# Name: type of most weights, of the output, of every third layer's values and second projections (and more at the ends).
MIXES = {
    "Q4_0": ("Q4_0", "Q6_K", "Q4_0"),
    "Q4_K_M": ("Q4_K", "Q6_K", "Q6_K"),
    "Q5_K_M": ("Q5_K", "Q6_K", "Q6_K"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0"),
    "F16": ("F16", "F16", "F16"),
    "BF16": ("BF16", "BF16", "BF16"),
}
SHAPES = {
    "tinyllama": dict(arch="llama", vocab="llama-spm", layers=22, d=2048, ff=5632, heads=32, kv=4, context=2048),
    "mistral-7b": dict(arch="llama", vocab="llama-spm", layers=32, d=4096, ff=14336, heads=32, kv=8, context=8192),
    "mamba-1.4b": dict(arch="mamba", vocab="gpt-neox", layers=48, d=2048, inner=4096, state=16, rank=128, taps=4, context=1 << 20),
    "mamba2-780m": dict(arch="mamba2", vocab="gpt-neox", layers=48, d=1536, inner=3072, state=128, rank=48, taps=4, groups=1, context=1 << 20),
    "distilgpt2": dict(arch="gpt2", vocab="gpt-2", layers=6, d=768, ff=3072, heads=12, kv=12, context=1024),
}
U32, F32, STRING, ARRAY = 4, 6, 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, U32: 4, 5: 4, F32: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


class Header:
    """What a GGUF file says of itself: `keys` (each with its bytes) and `tensors` (name, sizes, type's number)."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read(64 << 20)
        self.at = 8
        count, keys = self.take("Q"), self.take("Q")
        self.keys = {}
        for _ in range(keys):
            start, name = self.at, self.string()
            self.length = None
            self.skip(self.take("I"))
            self.keys[name] = (self.data[start : self.at], self.length)
        self.tensors = []
        for _ in range(count):
            name, sizes = self.string(), [self.take("Q") for _ in range(self.take("I"))]
            self.tensors.append((name, sizes, self.take("I")))
            self.take("Q")

    def take(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n : self.at].decode(errors="replace")

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            kind, self.length = self.take("I"), self.take("Q")
            for _ in range(self.length):
                self.skip(kind)
        else:
            self.at += WIDTHS[kind]


def work(path):
    """Bytes of weights that a decoded token reads, and products for a token of a prompt (whose logits nobody asks for)."""
    sizes = {number: (n, width) for number, n, width, _ in TYPES.values()}
    read = products = 0
    tensors = {name: (size, kind) for name, size, kind in Header(path).tensors if len(size) > 1}
    for name, (size, kind) in tensors.items():
        n = size[0] * size[1]
        block, width = sizes[kind]
        looked_up = name == "position_embd.weight" or name == "token_embd.weight" and "output.weight" in tensors
        read += 0 if looked_up else n // block * width
        products += n if name.startswith("blk.") else 0
    return read, products


def tensors(shape, mix):
    """Name, rows (0: a vector), columns and type of every tensor."""
    most, output, more = MIXES[mix]
    d, ff, n = shape["d"], shape.get("ff", 0), shape["layers"]
    kv = d // shape["heads"] * shape["kv"] if ff else 0
    gpt2 = shape["arch"] == "gpt2"

    def norm(name):
        return [(f"{name}.{part}", 0, d, "F32") for part in (["weight", "bias"] if gpt2 else ["weight"])]

    def linear(name, rows, cols, kind=most):
        return [(f"{name}.weight", rows, cols, kind)] + ([(f"{name}.bias", 0, rows, "F32")] if gpt2 else [])

    yield "token_embd.weight", shape["tokens"], d, most
    if gpt2:
        yield "position_embd.weight", shape["context"], d, "F32"
    else:
        yield "output.weight", shape["tokens"], d, output
    yield from norm("output_norm")
    for i in range(n):
        b = f"blk.{i}."
        better = more if i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 else most
        if not ff:
            yield from norm(b + "attn_norm")
            yield from state_space(b, shape, most)
            continue
        yield from norm(b + "attn_norm") + norm(b + "ffn_norm")
        if gpt2:
            yield from linear(b + "attn_qkv", 3 * d, d)
        else:
            yield from linear(b + "attn_q", d, d) + linear(b + "attn_k", kv, d) + linear(b + "attn_v", kv, d, better)
            yield from linear(b + "ffn_gate", ff, d)
        yield from linear(b + "attn_output", d, d) + linear(b + "ffn_up", ff, d) + linear(b + "ffn_down", d, ff, better)


def state_space(b, shape, kind):
    """The same of a layer of Mamba or Mamba-2, whose heads are GGUF's rank."""
    d, inner, state, rank, taps = (shape[k] for k in ("d", "inner", "state", "rank", "taps"))
    first, groups = shape["arch"] == "mamba", shape.get("groups", 0)
    conv = inner + 2 * groups * state
    yield b + "ssm_in.weight", 2 * inner if first else inner + conv + rank, d, kind
    yield b + "ssm_conv1d.weight", conv, taps, "F32"
    yield b + "ssm_conv1d.bias", 0, conv, "F32"
    if first:
        yield b + "ssm_x.weight", rank + 2 * state, inner, kind
        yield b + "ssm_dt.weight", inner, rank, kind
    else:
        yield b + "ssm_norm.weight", groups, inner // groups, "F32"
    yield b + "ssm_dt.bias", 0, inner if first else rank, "F32"
    yield b + "ssm_a", *((inner, state) if first else (rank, 1)), "F32"
    yield b + "ssm_d", *((0, inner) if first else (rank, 1)), "F32"
    yield b + "ssm_out.weight", d, inner, kind


def noise(kind):
    """About 4 MB of blocks of a type, whole ones, none with a scale that is no number."""
    _, _, width, halves = TYPES[kind]
    n = (4 << 20) // width
    data = bytearray(random.Random(7).randbytes(n * width))
    for at, value in halves.items():
        for i, byte in enumerate(struct.pack("<e", value)):
            data[at + i :: width] = bytes([byte]) * n
    # Floats: numbers of 1/64 to 1/32, of both signs.
    if kind == "F16":
        data[1::2] = bytes(0x24 | b & 0x83 for b in data[1::2])
    elif kind in ("BF16", "F32"):
        data[width - 2 :: width] = bytes(0x80 | b for b in data[width - 2 :: width])
        data[width - 1 :: width] = bytes(0x3C | b & 0x80 for b in data[width - 1 :: width])
    return bytes(data)


def make(name, folder, vocabularies):
    """The file of `SHAPE-MIX` in `folder`, written if it is not there."""
    path = Path(folder) / f"{name}.gguf"
    if path.exists():
        return path
    base, mix = name.rsplit("-", 1)
    words = Header(Path(vocabularies) / f"ggml-vocab-{SHAPES[base]['vocab']}.gguf").keys
    shape = dict(SHAPES[base], tokens=words["tokenizer.ggml.tokens"][1])
    arch, gpt2 = shape["arch"], shape["arch"] == "gpt2"
    keys = {"context_length": "context", "embedding_length": "d", "block_count": "layers", "feed_forward_length": "ff"}
    keys |= {"vocab_size": "tokens", "attention.head_count": "heads", "attention.head_count_kv": "kv"}
    keys |= {"ssm.inner_size": "inner", "ssm.state_size": "state", "ssm.time_step_rank": "rank", "ssm.conv_kernel": "taps"}
    keys |= {"ssm.group_count": "groups"}
    none = {"ff": 0, "heads": 0} if "inner" in shape else {}
    numbers = {k: (U32, "I", (none | shape)[v]) for k, v in keys.items() if v in none | shape}
    if gpt2:
        numbers["attention.layer_norm_epsilon"] = (F32, "f", 1e-5)
    else:
        numbers["attention.layer_norm_rms_epsilon"] = (F32, "f", 1e-5)
    if shape.get("heads") and not gpt2:
        numbers["rope.dimension_count"] = (U32, "I", shape["d"] // shape["heads"])
        numbers["rope.freq_base"] = (F32, "f", 10000.0)
    meta = [text(f"general.{k}") + struct.pack("<I", STRING) + text(v) for k, v in (("architecture", arch), ("name", f"random {name}"))]
    meta += [text(f"{arch}.{k}") + struct.pack(f"<I{code}", kind, v) for k, (kind, code, v) in numbers.items()]
    meta += [data for k, (data, _) in words.items() if k.startswith("tokenizer.")]
    rows, infos, end = [], [], 0
    for tensor, n, cols, kind in tensors(shape, mix):
        number, block, width, _ = TYPES[kind]
        sizes = [cols, n] if n else [cols]
        infos.append(text(tensor) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, end))
        size = max(n, 1) * cols // block * width
        # Decays that forget, else noise; vectors are ones.
        rows.append((n and not tensor.endswith("ssm_a"), kind, size, -1.0 if tensor.endswith("ssm_a") else 1.0))
        end += size + -size % 32
    if end + (1 << 30) > shutil.disk_usage(folder).free:
        raise OSError(f"{name} needs {end / 1e9:.1f} GB and one to spare in {folder}")
    patterns = {kind: noise(kind) for kind in {kind for n, kind, _, _ in rows if n}}
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with open(part, "wb") as f:
            f.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(meta)) + b"".join(meta) + b"".join(infos))
            f.write(bytes(-f.tell() % 32))
            for n, kind, size, value in rows:
                if n:
                    pattern = patterns[kind]
                    for at in range(0, size, len(pattern)):
                        f.write(pattern[: size - at])
                else:
                    f.write(struct.pack("<f", value) * (size // 4))
                f.write(bytes(-size % 32))
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return path
