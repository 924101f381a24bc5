//! How byte-level BPE vocabularies cut a text into words, by the names in `tokenizer.ggml.pre`: a row for each way.
//!
//! The patterns are those that llama.cpp runs, which is not always what the model's own tokenizer says (it knows no
//! sub-categories of letters, for one); vocabularies in GGUF are read as llama.cpp reads them.

use super::split::{
    L, LEAD, LLAMA3 as LLAMA3_SPLIT, Letters, M, N, NEWLINE, Newlines, P, S, SIGN, SLASH, SPACE, Split, Suffix,
};
use crate::regex::{Regex, TooSlow};

/// One cut; each piece of the cut before is cut again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Matches are pieces, and so is what lies between them.
    At(&'static str),
    /// The same, matched by hand; the tests hold it to the pattern.
    By(#[cfg_attr(not(test), expect(dead_code, reason = "says what the split does"))] &'static str, Split),
    /// Runs of numbers, cut into threes from the right; what lies before a run stays with its first digits, as llama.cpp
    /// has it.
    Thousands,
    /// Runs of the digits 0-9, cut into threes from the right where at least three are left.
    AsciiThousands,
}

/// A way to cut, and what llama.cpp presumes with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Words that are tokens are not put together from pairs.
    pub(super) ignore_merges: bool,
    /// BOS is added unless the file says otherwise.
    pub(super) add_bos: bool,
    /// BOS is added whatever the file says.
    pub(super) force_bos: bool,
    /// There is no BOS unless the file names one.
    pub(super) no_bos: bool,
    /// Tokens hold plain UTF-8, not GPT-2's alphabet; unknown bytes are `<0xXX>`.
    pub(super) plain: bool,
    /// Spaces are written as U+2581 in tokens.
    pub(super) escape: bool,
    /// Runs of newlines that are tokens are not put together from pairs.
    pub(super) whole_newlines: bool,
}

/// Numbers alone.
macro_rules! numbers {
    ($pattern:literal, $most:expr) => {
        Cut::By($pattern, Split { numbers: $most, ..Split::NOTHING })
    };
}

const DEFAULT: Pre = Pre {
    names: &["default", ""],
    cuts: &[Cut::At(r"[\p{P}$+<=>^~|]+"), GPT2, numbers!(r"\p{N}+", usize::MAX), Cut::At("[0-9][0-9][0-9]")],
    ignore_merges: false,
    add_bos: false,
    force_bos: false,
    no_bos: false,
    plain: false,
    escape: false,
    whole_newlines: false,
};

macro_rules! suffixes {
    () => {
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}
macro_rules! llama3_like {
    ($number:literal) => {
        concat!(
            suffixes!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
/// Words by case: `$upper` then `$lower` letters, with what may follow.
macro_rules! cased {
    ($upper:literal, $lower:literal, $suffix:expr, $number:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $suffix,
            "|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
macro_rules! maybe_suffix {
    () => {
        concat!("(?:", suffixes!(), ")?")
    };
}
macro_rules! deepseek3_tail {
    ($newlines:literal) => {
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"##,
            $newlines,
            r"|\s+(?!\S)|\s+"
        )
    };
}

const GPT2: Cut = Cut::By(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    Split {
        suffix: Suffix::Lower,
        lead: SPACE,
        numbers: usize::MAX,
        number_lead: SPACE,
        after: 0,
        newlines: Newlines::White,
        ..LLAMA3_SPLIT
    },
);
const LLAMA3: Cut = Cut::By(llama3_like!(r"\p{N}{1,3}"), LLAMA3_SPLIT);
const QWEN2_SPLIT: Split = Split { numbers: 1, ..LLAMA3_SPLIT };
const QWEN2: Cut = Cut::By(llama3_like!(r"\p{N}"), QWEN2_SPLIT);
const BLOOM: &str = r" ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+";
const LINES: &str = r"[^\n]+|\n+";
const CJK_KANA: &str = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
/// Latin, Greek, Cyrillic and other letters that have case.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373",
    r"\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f",
    r"\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77",
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-",
    r"\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec",
    r"\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-",
    r"\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3",
    r"\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17",
    r"\uff21-\uff3a\uff41-\uff5a\x{10400}-\x{1044f}\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}",
    r"\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}",
    r"]+"
);
const DEEPSEEK3_SPLIT: Split = Split {
    suffix: Suffix::No,
    tags: true,
    lead: LEAD & !(P | S) | N,
    letters: L | M,
    numbers: 0,
    signs: P | S,
    ..LLAMA3_SPLIT
};
const DEEPSEEK3_TAIL: Cut = Cut::By(deepseek3_tail!(r"[\r\n]*|\s*[\r\n]+"), DEEPSEEK3_SPLIT);
const CASED: Split = Split { suffix: Suffix::Joined, words: Letters::Cased, after: NEWLINE | SLASH, ..LLAMA3_SPLIT };
const GPT4O: Cut = Cut::By(cased!(r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]", maybe_suffix!(), r"\p{N}{1,3}"), CASED);
/// Ideographs as llama.cpp has them; the macro is for use inside of classes.
macro_rules! han {
    () => {
        r"\u4e00-\u9fff\u3400-\u4dbf\x{20000}-\x{2a6df}\x{2a700}-\x{2ebef}\uf900-\ufaff\x{2f800}-\x{2fa1f}"
    };
}

/// One row for each way to cut.
#[rustfmt::skip]
const ROWS: &[Pre] = &[
    DEFAULT,
    Pre { names: &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        cuts: &[LLAMA3], ignore_merges: true, add_bos: true, ..DEFAULT },
    Pre { names: &["dbrx", "smaug-bpe"], cuts: &[LLAMA3], ..DEFAULT },
    Pre { names: &["chatglm-bpe"], cuts: &[LLAMA3], no_bos: true, ..DEFAULT },
    Pre { names: &["glm4", "glm5"], cuts: &[LLAMA3], no_bos: true, ignore_merges: true, ..DEFAULT },
    Pre { names: &["jais-2"], cuts: &[Cut::By(concat!(suffixes!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)",
        r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"),
        Split { powers: true, ..LLAMA3_SPLIT })], ..DEFAULT },
    Pre { names: &["minicpm5"], cuts: &[numbers!(r"\p{N}{1,3}", 3), Cut::By(llama3_like!(r"\p{N}+"), Split { numbers: usize::MAX, ..LLAMA3_SPLIT })], ignore_merges: true, ..DEFAULT },
    Pre { names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        cuts: &[QWEN2], ..DEFAULT },
    Pre { names: &["ufakzeka"],
        cuts: &[Cut::By(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            Split { suffix: Suffix::No, ..QWEN2_SPLIT })], ..DEFAULT },
    Pre { names: &["laguna"], cuts: &[Cut::At(LINES), QWEN2], ..DEFAULT },
    Pre { names: &["qwen35"], cuts: &[Cut::By(concat!(suffixes!(),
        r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        Split { letters: L | M, signs: SIGN & !M, ..QWEN2_SPLIT })], ..DEFAULT },
    Pre { names: &["seed-coder"], cuts: &[Cut::By(concat!(suffixes!(),
        r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"), Split { after: 0, ..QWEN2_SPLIT })], ..DEFAULT },
    Pre { names: &["bailingmoe", "bailingmoe2", "llada-moe"], cuts: &[Cut::By(
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        QWEN2_SPLIT)], ..DEFAULT },
    Pre { names: &["exaone-moe"], cuts: &[Cut::By(concat!(suffixes!(),
        r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"),
        Split { words: Letters::Phrase, after: NEWLINE | SLASH, after_most: 1, ..QWEN2_SPLIT })], ..DEFAULT },
    Pre { names: &["gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
        "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"],
        cuts: &[GPT2], ..DEFAULT },
    Pre { names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: &[numbers!(r"\p{N}", 1), GPT2], ..DEFAULT },
    Pre { names: &["falcon"], cuts: &[Cut::At(r"[\p{P}$+<=>^~|`]+"), GPT2, Cut::At("[0-9][0-9][0-9]")], ..DEFAULT },
    Pre { names: &["bloom", "gpt3-finnish", "poro-chat"], cuts: &[Cut::At(BLOOM)], ..DEFAULT },
    Pre { names: &["viking"], cuts: &[Cut::At(BLOOM), numbers!(r"\p{N}", 1)], ..DEFAULT },
    Pre { names: &["deepseek-llm"], cuts: &[Cut::At(r"[\r\n]"), Cut::At(DEEPSEEK_LETTERS),
        Cut::At(r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001-\u3002]+"), Cut::At(r"\s+$"), Cut::At(r"[[\u0800-\u9fa5\uac00-\ud7ff]&&\S]+"), numbers!(r"\p{N}+", usize::MAX)], ..DEFAULT },
    Pre { names: &["deepseek-coder"], cuts: &[Cut::At(r"[\r\n]"), Cut::At(r"\s?\p{L}+"), Cut::At(r"\s?\p{P}+"),
        Cut::At(r"[[\u0800-\u9fa5\uac00-\ud7ff]&&\S]+"), numbers!(r"\p{N}", 1)], ..DEFAULT },
    Pre { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[numbers!(r"\p{N}{1,3}", 3), Cut::At(CJK_KANA), DEEPSEEK3_TAIL], ..DEFAULT },
    Pre { names: &["spark2_5"], cuts: &[numbers!(r"\p{N}{1,3}", 3), Cut::At(CJK_KANA), Cut::By(deepseek3_tail!(r"|[\r\n]"),
            Split { after: 0, newlines: Newlines::One, ..DEEPSEEK3_SPLIT }),
        numbers!(r"\p{N}", 1)], ..DEFAULT },
    Pre { names: &["afmoe"], cuts: &[Cut::Thousands, Cut::At(r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"), DEEPSEEK3_TAIL], ..DEFAULT },
    Pre { names: &["youtu"], cuts: &[
        Cut::At(r"[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        Cut::By(cased!(r"[\p{L}\p{M}]", r"[\p{L}\p{M}]", maybe_suffix!(), r"\p{N}"),
            Split { words: Letters::Run, letters: L | M, numbers: 1, ..CASED })], ignore_merges: true, ..DEFAULT },
    Pre { names: &["tekken"], cuts: &[Cut::By(cased!(r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]", "", r"\p{N}"),
        Split { suffix: Suffix::No, numbers: 1, ..CASED })],
        ignore_merges: true, add_bos: true, ..DEFAULT },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], cuts: &[GPT4O], ..DEFAULT },
    Pre { names: &["granite-embed-multi-97m"], cuts: &[Cut::By(
        cased!(r"[[\p{L}\p{M}]&&[^a-z]]", r"[[\p{L}\p{M}]&&[^A-Z]]", maybe_suffix!(), r"\p{N}{1,3}"),
        Split { letters: L | M, ..CASED })], ignore_merges: true, ..DEFAULT },
    Pre { names: &["tiny_aya", "cohere2moe"], cuts: &[Cut::Thousands,
        Cut::By(cased!(r"[\p{L}\p{M}]", r"[\p{L}\p{M}]", maybe_suffix!(), r"\p{N}{1,3}"),
            Split { words: Letters::Run, letters: L | M, ..CASED })], ..DEFAULT },
    Pre { names: &["kimi-k2"], cuts: &[Cut::By(concat!("[", han!(), r"]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^", han!(), "]]+",
        maybe_suffix!(), r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        Split { ideographs: true, suffix: Suffix::Joined, ..LLAMA3_SPLIT })], ..DEFAULT },
    Pre { names: &["superbpe"], cuts: &[numbers!(r"\p{N}+", usize::MAX), Cut::AsciiThousands], ..DEFAULT },
    Pre { names: &["chameleon"], cuts: &[Cut::At("<sentinel:[0-9]+>"), Cut::At("IMGIMG[A-I]{1,4}Z"), Cut::At(r"[\t\n]|    |  "),
        numbers!(r"\p{N}", 1), Cut::At(r"[\p{P}!-/:-@\[-`{-~]"), GPT2], add_bos: true, ..DEFAULT },
    Pre { names: &["gemma4", "granite-embed-multi-311m"], cuts: &[Cut::At(LINES)],
        force_bos: true, plain: true, escape: true, whole_newlines: true, ..DEFAULT },
    Pre { names: &["sarvam-moe"], cuts: &[Cut::At(LINES)], plain: true, escape: true, ..DEFAULT },
    Pre { names: &["whitespace"], cuts: &[Cut::At(r"\S+")], plain: true, ..DEFAULT },
];

impl Pre {
    /// The row of a name.
    pub(super) fn named(name: &str) -> Option<&'static Pre> {
        ROWS.iter().find(|row| row.names.contains(&name))
    }

    /// Whether the vocabulary may come without pairs to join.
    pub(super) fn no_merges(&self) -> bool {
        self.names.contains(&"kimi-k2")
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        ROWS.iter().flat_map(|row| row.names).filter(|n| !n.is_empty()).copied().collect::<Vec<_>>().join(", ")
    }
}

/// The compiled cuts of a row.
#[derive(Clone, Debug)]
pub(super) struct Cutter(Vec<(Cut, Option<Regex>)>);

impl Cutter {
    pub(super) fn new(pre: &Pre) -> Result<Cutter, String> {
        let compile =
            |&cut: &Cut| Ok((cut, if let Cut::At(pattern) = cut { Some(Regex::new(pattern)?) } else { None }));
        pre.cuts.iter().map(compile).collect::<Result<_, _>>().map(Cutter)
    }

    /// Calls `word` with the end of each word of `text`. The error is the pattern that took too long.
    pub(super) fn cut(&self, text: &str, mut word: impl FnMut(usize)) -> Result<(), &'static str> {
        cut(&self.0, text, (0, text.len()), &mut word)
    }
}

/// Cuts a part of the text, and each piece of it by the cuts that come behind the first.
fn cut<F: FnMut(usize)>(
    cuts: &[(Cut, Option<Regex>)],
    text: &str,
    (start, end): (usize, usize),
    word: &mut F,
) -> Result<(), &'static str> {
    let Some(((cut, regex), finer)) = cuts.split_first() else {
        word(end);
        return Ok(());
    };
    let piece = &text[start..end];
    if let (Cut::By(_, split), []) = (cut, finer) {
        split.cut(piece, |end| word(start + end));
        return Ok(());
    }
    let (mut from, mut done) = (start, Ok(()));
    let mut at = |place: usize| {
        if from < start + place && done.is_ok() {
            done = self::cut(finer, text, (from, start + place), word);
            from = start + place;
        }
    };
    match (cut, regex) {
        (Cut::At(pattern), Some(regex)) => {
            let found = regex.find_all(piece, |a, b| {
                at(a);
                at(b);
            });
            found.map_err(|TooSlow| *pattern)?;
        }
        (Cut::By(_, split), _) => split.cut(piece, &mut at),
        (Cut::AsciiThousands, _) => thousands(
            piece,
            |c| c.is_ascii_digit(),
            |start, end| {
                ((start..=end).rev().step_by(3)).skip(1).collect::<Vec<_>>().into_iter().rev().for_each(&mut at);
            },
        ),
        _ => thousands(
            piece,
            |c| crate::unicode::category(c) & crate::unicode::NUMBER != 0,
            |start, end| {
                let places: Vec<usize> =
                    piece[start..end].char_indices().map(|(i, _)| start + i).chain([end]).collect();
                let n = places.len() - 1;
                (1..=n).filter(|i| (n - i).is_multiple_of(3)).for_each(|i| at(places[i]));
            },
        ),
    }
    at(piece.len());
    done
}

/// Calls `run` for each run of characters that are `numbers`.
fn thousands(text: &str, number: impl Fn(char) -> bool, mut run: impl FnMut(usize, usize)) {
    let mut begin = None;
    for (i, c) in text.char_indices().chain([(text.len(), '\n')]) {
        match (number(c), begin) {
            (true, None) => begin = Some(i),
            (false, Some(start)) => {
                run(start, i);
                begin = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(pre: &str, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        let mut start = 0;
        let cutter = Cutter::new(Pre::named(pre).expect("known")).expect("compiles");
        let done = cutter.cut(text, |end| {
            words.push(&text[start..end]);
            start = end;
        });
        done.expect("in time");
        words
    }

    #[test]
    fn every_row_compiles_and_no_name_comes_twice() {
        let mut seen = std::collections::HashSet::new();
        for row in ROWS {
            Cutter::new(row).unwrap_or_else(|e| panic!("{:?}: {e}", row.names));
            assert!(row.names.iter().all(|n| seen.insert(n)), "{:?}", row.names);
        }
        assert_eq!(seen.len(), 92); // and the empty name
    }

    #[test]
    fn words_by_name() {
        assert_eq!(words("gpt-2", "I'm  12a, ok "), ["I", "'m", " ", " 12", "a", ",", " ok", " "]);
        assert_eq!(words("llama-bpe", "I'M 12345\n\n x"), ["I", "'M", " ", "123", "45", "\n\n", " x"]);
        assert_eq!(words("afmoe", "a1234567 ٣٣٣٣"), ["a", "1", "234", "567", " ", "٣", "٣٣٣"]);
        assert_eq!(words("afmoe", "\n \u{a0}٣٣"), ["\n", " ", "\u{a0}", "٣٣"]);
        assert_eq!(words("superbpe", "a1234 123456 b"), ["a", "1", "234", " ", "123", "456", " b"]);
        assert_eq!(words("gpt-4o", "HelloWORLDwide's"), ["Hello", "WORLDwide's"]);
        assert_eq!(words("kimi-k2", "漢字abc 漢x"), ["漢字", "abc", " ", "漢", "x"]);
        assert_eq!(words("gemma4", "a b\n\nc"), ["a b", "\n\n", "c"]);
    }

    /// What is newer than our table of Unicode and not than the regular expressions'.
    fn newer(c: char) -> bool {
        static ASSIGNED: std::sync::LazyLock<Regex> =
            std::sync::LazyLock::new(|| Regex::new(r"\P{Cn}").expect("valid"));
        let mut found = false;
        ASSIGNED.find_all(c.encode_utf8(&mut [0; 4]), |_, _| found = true).expect("in time");
        found && crate::unicode::category(c) == 1
    }

    /// The same row with regular expressions only.
    fn by_pattern(pre: &Pre) -> Cutter {
        let cuts = pre.cuts.iter().map(|&cut| match cut {
            Cut::At(pattern) | Cut::By(pattern, _) => (Cut::At(pattern), Some(Regex::new(pattern).expect("compiles"))),
            other => (other, None),
        });
        Cutter(cuts.collect())
    }

    fn ends(cutter: &Cutter, text: &str) -> Vec<usize> {
        let mut ends = Vec::new();
        cutter.cut(text, |end| ends.push(end)).expect("in time");
        ends
    }

    /// The rows that are cut by hand, and the same by pattern.
    fn cutters() -> Vec<(&'static Pre, Cutter, Cutter)> {
        let by_hand = ROWS.iter().filter(|row| row.cuts.iter().any(|cut| matches!(cut, Cut::By(..))));
        by_hand.map(|row| (row, Cutter::new(row).expect("compiles"), by_pattern(row))).collect()
    }

    fn same(cutters: &[(&Pre, Cutter, Cutter)], text: &str) {
        for (pre, by_hand, by_pattern) in cutters {
            let (got, want) = (ends(by_hand, text), ends(by_pattern, text));
            if got != want {
                let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
                let from = at.checked_sub(1).map_or(0, |i| got[i]);
                let near: String = text[from..].chars().take(20).collect();
                panic!("{:?} {near:?} at {from}: to {:?}, want {:?}", pre.names, got.get(at), want.get(at));
            }
        }
    }

    #[test]
    fn splits_are_their_patterns_on_every_kind_of_character() {
        let cutters = cutters();
        let mut text = String::new();
        let mut last = 0;
        // Where the category changes, and some between.
        let some = ('\0'..=char::MAX).filter(|&c| {
            let changes = std::mem::replace(&mut last, crate::unicode::category(c)) != last;
            (changes || c < '\u{180}' || (c as u32).is_multiple_of(61)) && !newer(c)
        });
        for c in some {
            // Before and behind letters, signs, numbers, white space and itself.
            text.extend([
                c, ' ', c, 'a', c, '.', c, '1', c, '\n', c, c, 'É', c, '\'', 's', c, '漢', c, 'A', c, ' ', ' ',
            ]);
            if text.len() > 1 << 14 {
                same(&cutters, &text);
                text.clear();
            }
        }
        same(&cutters, &text);
    }

    #[test]
    fn splits_are_their_patterns_on_random_text() {
        let cutters = cutters();
        let mut state = 7u64;
        let mut below = move |n: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % n
        };
        let few: Vec<char> = concat!(
            "    \n\n\r\t'''sStTdDmMllLrRvVeEzZaabcXYÉéß\u{1c5}\u{2b0}ſΣ漢字かな한\u{fafe}\u{2a6de}0129٣½Ⅷ.,!?//_-$+<>|~`(\\",
            "\u{301}\u{302}\u{903}\u{20dd}😀👍\u{200d}\u{fe0f}\u{a0}\u{3000}\u{85}\u{2028}\u{1680}\u{378}\u{e000}\0\u{7f}\u{feff}«“”",
        )
        .chars()
        .collect();
        for round in 0..4000 {
            let some: Vec<char> = (0..1 + below(6)).map(|_| few[below(few.len())]).collect();
            let mut text = String::new();
            for _ in 0..below(40) {
                let c = match round % 4 {
                    0 => some[below(some.len())],
                    1 | 2 => few[below(few.len())],
                    _ => char::from_u32(below(0x3_2000) as u32).filter(|&c| !newer(c)).unwrap_or(' '),
                };
                let times = match below(40) {
                    0 => below(1200),
                    1..4 => below(12),
                    _ => 1,
                };
                text.extend(std::iter::repeat_n(c, times));
            }
            same(&cutters, &text);
        }
    }

    #[test]
    fn long_runs_take_no_time() {
        let units =
            [" ", "\n", "\u{3000}", " \n", "\r\n", "A", "é", "É", "漢", "7", "!", "'", "a ", "\u{301}", "a\u{301} "];
        for (row, cutter, _) in cutters() {
            for unit in units {
                let text = unit.repeat((1 << 21) / unit.len());
                let start = std::time::Instant::now();
                assert!(!ends(&cutter, &text).is_empty());
                assert!(start.elapsed().as_secs() < 10, "{:?} {unit:?} {:?}", row.names, start.elapsed());
            }
        }
    }

    #[test]
    fn hostile_texts_take_no_time() {
        for row in ROWS {
            let cutter = Cutter::new(row).expect("compiles");
            for unit in ["a", "A", " ", "\n", "7", "'", "é", "漢", "a ", "\u{301}", "\r", "!", "Aa", " \n", "IMG"] {
                let text = unit.repeat((1 << 18) / unit.len());
                let start = std::time::Instant::now();
                cutter.cut(&text, |_| ()).unwrap_or_else(|e| panic!("{unit:?}: {e}"));
                assert!(start.elapsed().as_secs() < 15, "{:?} {unit:?} {:?}", row.names, start.elapsed());
            }
        }
    }
}
