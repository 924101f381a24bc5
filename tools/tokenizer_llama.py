#!/usr/bin/env python3
"""Write a folder of vocabularies with what llama.cpp makes of random texts, for `ALULA_LLAMA_SUITE`.

    cc tools/tokenizer_llama.c -Illama.cpp/include -Illama.cpp/ggml/include -Lllama.cpp/build/bin -lllama -o ref
    python tools/tokenizer_llama.py ./ref llama.cpp/models OUT

Every `ggml-vocab-*.gguf` as it is, and GPT-2's (Gemma 4's where tokens are plain UTF-8) with each name of `pre` in turn.
A run of the whole takes minutes and a gigabyte; OUT/NAME.gguf, OUT/NAME.out and OUT/texts.json are what the test reads.
"""
import json, pathlib, random, re, struct, subprocess, sys

PLAIN = {"gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"}
PARTS = ["   ", "\r\n", "'s", "'LL", "'ſ", "É", "e\u0301", "123", "1234567", "٣٤", "½", "...", "?!", "_", "漢字", "かな", "한글", "<s>", "</s>",
         "<|endoftext|>", "<mask>", "[MASK]", "[CLS]", "<unk>", "▁", "<0x41>", "\u200d", "😀", "ﬁ", "ǅ", "\u3000", "ß", "ΑΣ", "HTTPServer", "<|im_end|>",
         "\x85", "\xa0", "\u1680", "\n\n\n", "\t", "IMGIMGABZ", "<sentinel:12>", "/", "//\n", "!\n", "$+<=>^~|`", "¿", "“", "，", "。", "a b c", "ไทย"]
RANGES = [(32, 127), (0x80, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xE80), (0x1000, 0x1200), (0x1E00, 0x2100), (0x2190, 0x2C00),
          (0x3000, 0x3100), (0x3130, 0x3190), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFFFE), (0x10000, 0x20000), (0x1F300, 0x1F700),
          (0x20000, 0x32000), (0xE0000, 0xE0200), (0x30, 0x3A), (0x660, 0x66A)]


def texts(seed, n):
    r = random.Random(seed)
    out = ["", " ", "  ", "\n", " a", "a ", "1234567", "a" * 300, " " * 700, "\n" * 40, "Ab" * 50]
    for _ in range(n):
        kind, t = r.random(), ""
        for _ in range(r.randrange(1, 30)):
            if kind < 0.4:
                t += chr(r.randrange(*r.choice(RANGES)))
            elif kind < 0.8:
                t += r.choice(PARTS + [" "] * 8 + list("abcXYZ019.,'-"))
            else:
                t += r.choice(["the ", "Hello", " World", ", ", "isn't", " 42", "\n", " it's", "fooBar", "(", ")"])
        out.append(t)
    return out


def with_pre(blob, name):
    """The file with another name under tokenizer.ggml.pre (these files hold no tensors, so nothing else moves)."""
    key = b"tokenizer.ggml.pre" + struct.pack("<I", 8)
    at = blob.index(key) + len(key)
    (n,) = struct.unpack_from("<Q", blob, at)
    return blob[:at] + struct.pack("<Q", len(name)) + name.encode() + blob[at + 8 + n:]


def main(ref, models, out):
    models, out = pathlib.Path(models), pathlib.Path(out)
    out.mkdir(exist_ok=True)
    source = (models.parent / "src" / "llama-vocab.cpp").read_text()
    part = source[source.index("if (tokenizer_pre.empty())"):source.index("unknown pre-tokenizer type")]
    pres = sorted(set(re.findall(r'tokenizer_pre == "([^"]+)"', part)))
    sample = texts(7, 500)
    (out / "texts.json").write_text(json.dumps(sample))
    with open(out / "texts.bin", "wb") as f:
        f.write(struct.pack("<I", len(sample)))
        for t in sample:
            f.write(struct.pack("<I", len(t.encode())) + t.encode())
    files = {p.stem: p.read_bytes() for p in models.glob("ggml-vocab-*.gguf")}
    gpt2, gemma = files["ggml-vocab-gpt-2"], files["ggml-vocab-gemma-4"]
    files |= {f"pre-{name}": with_pre(gpt2, name) for name in pres if name not in PLAIN}
    # "gemma4" as a model fixes the way to cut; "gpt2" lets a name choose, and "whitespace" cuts at spaces.
    kv = lambda key, value: struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    model, pre = b"tokenizer.ggml.model", b"tokenizer.ggml.pre"
    for name in sorted(PLAIN):
        kind = b"whitespace" if name == "whitespace" else b"gpt2"
        head = gemma[:16] + struct.pack("<Q", struct.unpack_from("<Q", gemma, 16)[0] + 1) + kv(pre, name.encode())
        files[f"pre-{name}"] = head + gemma[24:].replace(kv(model, b"gemma4"), kv(model, kind), 1)
    for name, blob in sorted(files.items()):
        path = out / f"{name}.gguf"
        path.write_bytes(blob)
        done = subprocess.run([ref, path, out / "texts.bin"], stdout=subprocess.PIPE)
        if done.returncode:
            print(name, "is refused by llama.cpp")
            path.unlink()
        else:
            (out / f"{name}.out").write_bytes(done.stdout)
    (out / "texts.bin").unlink()


main(*sys.argv[1:])
