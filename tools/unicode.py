#!/usr/bin/env python3
"""Write crates/tokenizer/src/unicode.bin: the Unicode facts that tokenizers depend on.

Run with a Python whose `unicodedata` is Unicode 15.1 (Python 3.13), the version that llama.cpp's own tables hold.

    python3.13 tools/unicode.py

Layout, little endian: u32 number of category blocks, u32 number of decompositions; then 4352 block numbers and the
256-byte blocks of general categories; then, sorted, pairs of u32: a code point and the first code point of its
canonical decomposition (Hangul left out).
"""
import struct, unicodedata

# The order is that of the constants in crates/tokenizer/src/unicode.rs.
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
N = 0x110000


def blocks(table):
    """The two stages of a table of bytes, equal blocks shared."""
    seen, first = {}, bytearray()
    for i in range(0, N, 256):
        first.append(seen.setdefault(table[i:i + 256], len(seen)))
    return bytes(first), list(seen)


def main():
    assert unicodedata.unidata_version == "15.1.0", unicodedata.unidata_version
    category = bytes(CATEGORIES.index(unicodedata.category(chr(c))) for c in range(N))
    base = []
    for c in range(N):
        if 0xAC00 <= c < 0xD7A4 or 0xD800 <= c < 0xE000:
            continue
        d = ord(unicodedata.normalize("NFD", chr(c))[0])
        if d != c:
            base.append((c, d))
    first, second = blocks(category)
    with open("crates/tokenizer/src/unicode.bin", "wb") as f:
        f.write(struct.pack("<II", len(second), len(base)) + first + b"".join(second))
        f.write(b"".join(struct.pack("<II", *p) for p in base))
    print(len(second), "category blocks,", len(base), "decompositions")


main()
