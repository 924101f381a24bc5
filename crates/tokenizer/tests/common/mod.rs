//! A GGUF file that holds nothing but metadata, and random numbers that are the same every time.
#![allow(dead_code)]

use alula_format::gguf::Gguf;
use alula_tokenizer::{Error, Tokenizer};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Any text, of characters from everywhere and of pieces that tokenizers treat specially.
    pub(crate) fn text(&mut self, most: usize) -> String {
        const PIECES: [&str; 24] = [
            " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "123", "a", "the ", "Hello", "<s>", "</s>", "▁", "e\u{301}",
            "漢字", "😀", "\u{200d}", ".", "<0x41>", "\u{a0}", "ﬁ", "\u{0}", "\u{fffd}",
        ];
        let mut out = String::new();
        for _ in 0..self.below(most) {
            match self.below(3) {
                0 => out.push(char::from_u32(self.below(0x11_0000) as u32).unwrap_or('x')),
                1 => out.push(char::from_u32(self.below(0x800) as u32).unwrap_or('y')),
                _ => out.push_str(PIECES[self.below(PIECES.len())]),
            }
        }
        out
    }
}

/// A metadata value.
#[derive(Clone, Debug)]
pub(crate) enum Val {
    U32(u32),
    Bool(bool),
    Str(String),
    Strs(Vec<Vec<u8>>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    U8s(Vec<u8>),
}

/// The bytes of a file with these keys under `tokenizer.ggml.` (or as they are, if they have a dot at the front).
pub(crate) fn gguf(keys: &[(&str, Val)]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(0u64.to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, s: &[u8]| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s);
    };
    let array = |out: &mut Vec<u8>, kind: u32, n: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    for (key, value) in keys {
        let key = key.strip_prefix('.').map_or_else(|| format!("tokenizer.ggml.{key}"), str::to_owned);
        text(&mut out, key.as_bytes());
        match value {
            Val::U32(v) => {
                out.extend(4u32.to_le_bytes());
                out.extend(v.to_le_bytes());
            }
            Val::Bool(v) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*v));
            }
            Val::Str(v) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, v.as_bytes());
            }
            Val::Strs(v) => {
                array(&mut out, 8, v.len());
                v.iter().for_each(|s| text(&mut out, s));
            }
            Val::F32s(v) => {
                array(&mut out, 6, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Val::I32s(v) => {
                array(&mut out, 5, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Val::U8s(v) => {
                array(&mut out, 0, v.len());
                out.extend(v);
            }
        }
    }
    out
}

/// The tokenizer of such a file.
pub(crate) fn load(keys: &[(&str, Val)]) -> Result<Tokenizer, Error> {
    let gguf = Gguf::from_bytes(gguf(keys), "test.gguf").expect("a well-formed file");
    Tokenizer::from_gguf(&gguf.metadata, "test.gguf")
}

/// Texts as bytes.
pub(crate) fn strs<S: AsRef<str>>(of: impl IntoIterator<Item = S>) -> Val {
    Val::Strs(of.into_iter().map(|s| s.as_ref().as_bytes().to_vec()).collect())
}

/// GPT-2's character for a byte.
pub(crate) fn byte_char(b: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(b) {
        char::from(b)
    } else {
        char::from_u32(256 + (0..b).filter(|&b| !printable(b)).count() as u32).expect("a character")
    }
}

/// A SentencePiece vocabulary with all bytes.
pub(crate) fn sentencepiece() -> Vec<(&'static str, Val)> {
    let words = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
    let more = ["▁", "t", "h", "e", "th", "the", "▁the", "▁t", "H", "l", "o", "ll", "llo", "a", "▁a", "é", "漢"]
        .map(str::to_owned);
    let tokens: Vec<String> = words.chain(bytes).chain(more).collect();
    let n = tokens.len();
    let types = (0..n)
        .map(|i| {
            if i == 0 {
                2
            } else if i < 3 {
                3
            } else if i < 259 {
                6
            } else {
                1
            }
        })
        .collect();
    let scores = (0..n).map(|i| -(i as f32)).collect();
    vec![
        ("model", Val::Str("llama".into())),
        ("tokens", strs(&tokens)),
        ("scores", Val::F32s(scores)),
        ("token_type", Val::I32s(types)),
    ]
}

/// A byte-level BPE vocabulary.
pub(crate) fn byte_level(pre: &str) -> Vec<(&'static str, Val)> {
    let mut tokens: Vec<String> = (0..=255).map(|b| byte_char(b).to_string()).collect();
    let merges = ["t h", "th e", "Ġ the", "l l", "ll o", "Ġ Ġ", "ĠĠ ĠĠ", "1 2", "12 3", "' s", "Ċ Ċ"];
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    tokens.extend(["<|endoftext|>", "<|im_end|>"].map(str::to_owned));
    let n = tokens.len();
    let types = (0..n).map(|i| if i + 2 < n { 1 } else { 3 }).collect();
    vec![
        ("model", Val::Str("gpt2".into())),
        ("pre", Val::Str(pre.into())),
        ("tokens", strs(&tokens)),
        ("merges", strs(merges)),
        ("token_type", Val::I32s(types)),
        ("bos_token_id", Val::U32(n as u32 - 2)),
        ("eos_token_id", Val::U32(n as u32 - 2)),
    ]
}

/// A WordPiece vocabulary.
pub(crate) fn wordpiece() -> Vec<(&'static str, Val)> {
    let tokens =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁a", "b", "▁b", "a", "▁,", "▁.", "▁'", "▁s", "▁漢", "▁hello"];
    let types = (0..tokens.len()).map(|i| if i < 4 { 3 } else { 1 }).collect();
    vec![
        ("model", Val::Str("bert".into())),
        ("tokens", strs(tokens)),
        ("token_type", Val::I32s(types)),
        ("bos_token_id", Val::U32(2)),
        ("unknown_token_id", Val::U32(1)),
        ("seperator_token_id", Val::U32(3)),
    ]
}

/// A Unigram vocabulary.
pub(crate) fn unigram() -> Vec<(&'static str, Val)> {
    let tokens = ["<pad>", "</s>", "<unk>", "▁", "▁the", "the", "t", "h", "e", "he", "▁a", "a", "<extra>", "漢"];
    let types = (0..tokens.len()).map(|i| [3, 3, 2].get(i).copied().unwrap_or(if i == 12 { 4 } else { 1 })).collect();
    let scores = (0..tokens.len()).map(|i| -(i as f32) / 2.0).collect();
    vec![
        ("model", Val::Str("t5".into())),
        ("tokens", strs(tokens)),
        ("token_type", Val::I32s(types)),
        ("scores", Val::F32s(scores)),
        ("add_space_prefix", Val::Bool(true)),
        ("remove_extra_whitespaces", Val::Bool(true)),
    ]
}
