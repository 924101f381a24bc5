#!/usr/bin/env python3
"""Write crates/tokenizer/src/unicode.bin: the Unicode facts that tokenizers depend on.

Run with a Python whose `unicodedata` is Unicode 15.1 (Python 3.13), the version that llama.cpp's own tables hold.
Scripts come from the `regex` package, given as JSON by a second interpreter when this one lacks it:

    python3.13 tools/unicode.py [PYTHON_WITH_REGEX]

Layout, little endian: u16 number of category blocks, u16 number of script blocks, u32 number of decompositions;
then 4352 block numbers and the 256-byte blocks of general categories; the same for scripts;
then, sorted, pairs of u32: a code point and the first code point of its canonical decomposition (Hangul left out).
"""
import json, struct, subprocess, sys, unicodedata

# The order of both lists is that of the constants in crates/tokenizer/src/unicode.rs.
CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
SCRIPTS = """Unknown Common Inherited Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah
Batak Bengali Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham
Cherokee Coptic Cuneiform Cypriot Cyrillic Deseret Devanagari Duployan Egyptian_Hieroglyphs Elbasan Ethiopic Georgian
Glagolitic Gothic Grantha Greek Gujarati Gurmukhi Han Hangul Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic
Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kayah_Li Kharoshthi Khmer Khojki Khudawadi
Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic Manichaean Marchen Meetei_Mayek
Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean New_Tai_Lue Newa
Nko Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya
Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra
Sharada Shavian Siddham SignWriting Sinhala Sora_Sompeng Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham
Tai_Viet Takri Tamil Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi""".split()
N = 0x110000


def scripts():
    """One script number for each code point."""
    import regex
    out = bytearray(N)
    for number, name in enumerate(SCRIPTS[1:], 1):
        find = regex.compile(r"\p{Script=%s}" % name)
        for c in range(N):
            if not 0xD800 <= c < 0xE000 and find.match(chr(c)):
                out[c] = number
    return bytes(out)


def blocks(table):
    """The two stages of a table of bytes, equal blocks shared."""
    seen, first = {}, bytearray()
    for i in range(0, N, 256):
        first.append(seen.setdefault(table[i:i + 256], len(seen)))
    return bytes(first), list(seen)


def main():
    if sys.argv[1:] == ["--scripts"]:
        return sys.stdout.buffer.write(scripts())
    assert unicodedata.unidata_version == "15.1.0", unicodedata.unidata_version
    category = bytes(CATEGORIES.index(unicodedata.category(chr(c))) for c in range(N))
    script = subprocess.run([sys.argv[1], __file__, "--scripts"], check=True, stdout=subprocess.PIPE).stdout if sys.argv[1:] else scripts()
    base = []
    for c in range(N):
        if 0xAC00 <= c < 0xD7A4 or 0xD800 <= c < 0xE000:
            continue
        d = ord(unicodedata.normalize("NFD", chr(c))[0])
        if d != c:
            base.append((c, d))
    (c1, c2), (s1, s2) = blocks(category), blocks(script)
    with open("crates/tokenizer/src/unicode.bin", "wb") as f:
        f.write(struct.pack("<HHI", len(c2), len(s2), len(base)) + c1 + b"".join(c2) + s1 + b"".join(s2))
        f.write(b"".join(struct.pack("<II", *p) for p in base))
    print(len(c2), "category blocks,", len(s2), "script blocks,", len(base), "decompositions")


main()
