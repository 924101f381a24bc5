//! The tokenizers that GGUF files describe, as llama.cpp reads them.

use std::convert::Infallible;

mod load;
mod pre;
mod special;
mod split;
mod wordpiece;

use crate::bpe::{Cache, Merges, NONE, Neighbours, Word, rank_of_score};
use crate::charsmap::Charsmap;
use crate::error::{Error, clip};
use crate::framed::{Framed, shares};
use crate::unicode::{byte_char, byte_token, char_byte};
use crate::unigram;
use crate::vocab::{Prefixes, Vocab};
use crate::{Parts, unicode};

pub(crate) use load::load;

/// What a token is; several may hold.
pub(crate) mod attr {
    pub(crate) const UNKNOWN: u8 = 1;
    pub(crate) const UNUSED: u8 = 2;
    pub(crate) const NORMAL: u8 = 4;
    pub(crate) const CONTROL: u8 = 8;
    pub(crate) const USER: u8 = 16;
    pub(crate) const BYTE: u8 = 32;
    /// Takes the white space before it out of the text.
    pub(crate) const LSTRIP: u8 = 64;
    /// Takes the white space behind it out of the text.
    pub(crate) const RSTRIP: u8 = 128;
}

/// A space in the tokens of SentencePiece.
pub(crate) const SPACE: &str = "\u{2581}";

/// A tokenizer out of GGUF metadata.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    file: String,
    model: Model,
    attrs: Vec<u8>,
    /// Tokens that are found in a text before all else, longest first.
    specials: Vec<u32>,
    special_index: Prefixes,
    add_space_prefix: bool,
    /// A space is U+2581 in tokens.
    escape: bool,
    add_bos: bool,
    add_eos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    sep: Option<u32>,
    unk: Option<u32>,
    /// There are two ends between two texts (RoBERTa).
    two_ends: bool,
    /// Decoding removes the spaces that WordPiece puts before punctuation.
    pub(crate) clean_spaces: bool,
}

#[derive(Clone, Debug)]
enum Model {
    SentencePiece { ranks: Vec<u32>, neighbours: Neighbours },
    Bpe(Box<Bpe>),
    WordPiece { pieces: Prefixes, lowercase: bool, strip_accents: bool },
    Unigram(Box<Unigram>),
}

#[derive(Clone, Debug)]
struct Bpe {
    pre: &'static pre::Pre,
    cutter: pre::Cutter,
    merges: Merges,
    /// All texts that can come out of pairs; the vocabulary's come first, with the same numbers.
    symbols: Vocab,
    /// The symbol of each byte in GPT-2's alphabet.
    bytes: Vec<u32>,
    /// Where tokens are plain text, words are long.
    neighbours: Option<Neighbours>,
    /// The token of each byte where a symbol is no token.
    fallback: Vec<Option<u32>>,
    /// Words are what lies between white space, which is lost; `Some(true)` also lowers case.
    between_spaces: Option<bool>,
}

#[derive(Clone, Debug)]
struct Unigram {
    pieces: Prefixes,
    user_defined: Prefixes,
    scores: Vec<f32>,
    unknown: f64,
    charsmap: Option<Charsmap>,
    merge_spaces: bool,
}

impl Engine {
    pub(crate) fn kind(&self) -> &'static str {
        match self.model {
            Model::SentencePiece { .. } => "sentencepiece",
            Model::Bpe(_) => "bpe",
            Model::WordPiece { .. } => "wordpiece",
            Model::Unigram(_) => "unigram",
        }
    }

    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        let word_piece = matches!(self.model, Model::WordPiece { .. });
        if add_special && (self.add_bos || word_piece) {
            out.extend(self.bos);
        }
        let mut cache = Cache::new(text.len());
        // A space goes before the text and behind special tokens.
        let mut after_special = true;
        for piece in special::partition(self, vocab, text, parse_special) {
            match piece {
                special::Piece::Token(id) => {
                    out.push(id);
                    after_special = true;
                }
                special::Piece::Text(text) => {
                    self.encode_text(vocab, text, after_special, &mut cache, &mut out)?;
                    after_special = false;
                }
            }
        }
        if add_special {
            match word_piece {
                true => out.extend(self.sep),
                false if self.add_eos => out.extend(self.eos),
                false => {}
            }
        }
        Ok(out)
    }

    pub(crate) fn frame(
        &self,
        vocab: &Vocab,
        first: &str,
        second: Option<&str>,
        longest: usize,
    ) -> Result<Framed, Error> {
        let word_piece = matches!(self.model, Model::WordPiece { .. });
        let (begin, end) = match word_piece {
            true => (self.bos, self.sep),
            false => (self.bos.filter(|_| self.add_bos), self.eos.filter(|_| self.add_eos)),
        };
        let between = end.filter(|_| self.two_ends && second.is_some());
        let a = self.encode(vocab, first, false, true)?;
        let b = second.map(|text| self.encode(vocab, text, false, true)).transpose()?;
        let ends = (1 + usize::from(b.is_some())) * usize::from(end.is_some());
        let around = usize::from(begin.is_some()) + ends + usize::from(between.is_some());
        let all = a.len() + b.as_ref().map_or(0, Vec::len);
        let (of_a, of_b) = shares(a.len(), all - a.len(), longest.saturating_sub(around));
        let mut ids: Vec<u32> = begin.into_iter().chain(a.into_iter().take(of_a)).chain(end).chain(between).collect();
        let mut types = vec![0; ids.len()];
        if let Some(b) = b {
            ids.extend(b.into_iter().take(of_b).chain(end));
            types.resize(ids.len(), u32::from(word_piece));
        }
        Ok(Framed { ids, types, cut: all - of_a - of_b })
    }

    fn encode_text(
        &self,
        vocab: &Vocab,
        text: &str,
        first: bool,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        match &self.model {
            Model::SentencePiece { ranks, neighbours } => {
                let space = if self.add_space_prefix && first { SPACE } else { "" };
                let text = space.to_owned() + &text.replace(' ', SPACE);
                let (mut word, mut start) = (Word::default(), 0);
                neighbours.split(&text, |end| {
                    let part = &text[start..end];
                    let make = |out: &mut _| self.sentence_piece(vocab, ranks, part, &mut word, out);
                    let done = cache.ids(text.as_bytes(), (start, end), out, make);
                    start = end;
                    done
                })
            }
            Model::Bpe(bpe) => {
                let slow = |pattern: &str| Error::Slow { file: self.file.clone(), pattern: clip(pattern) };
                match (bpe.between_spaces, self.escape) {
                    (Some(lower), _) => {
                        for word in text.split_whitespace() {
                            let lowered: String;
                            let word = if lower {
                                lowered = word.chars().map(unicode::lower).collect();
                                &lowered
                            } else {
                                word
                            };
                            bpe.encode(vocab, word, cache, out).map_err(slow)?;
                        }
                        Ok(())
                    }
                    (None, true) => bpe.encode(vocab, &text.replace(' ', SPACE), cache, out).map_err(slow),
                    (None, false) => bpe.encode(vocab, text, cache, out).map_err(slow),
                }
            }
            Model::WordPiece { pieces, lowercase, strip_accents } => {
                wordpiece::encode(vocab, pieces, text, *lowercase, *strip_accents, |word, tokens| {
                    match (tokens.is_empty(), self.unk) {
                        (false, _) => {
                            out.extend_from_slice(tokens);
                            Ok(())
                        }
                        (true, Some(unk)) => {
                            out.push(unk);
                            Ok(())
                        }
                        (true, None) => Err(self.unknown(word)),
                    }
                })
            }
            Model::Unigram(unigram) => {
                let text = unigram.normalize(vocab, text, self.add_space_prefix, self.escape);
                let score = |id: u32| match self.attrs.get(id as usize).map_or(0, |a| a & attr::USER) {
                    0 => f64::from(unigram.scores.get(id as usize).copied().unwrap_or(0.0)),
                    _ => 0.0,
                };
                let mut pieces = Vec::new();
                unigram::split(&text, vocab, &unigram.pieces, score, unigram.unknown, &mut pieces);
                let mut after_unknown = false;
                for piece in pieces {
                    let id = piece.id.or(self.unk).ok_or_else(|| self.unknown(&text[piece.start..piece.end]))?;
                    let unknown = Some(id) == self.unk;
                    if !(unknown && after_unknown) {
                        out.push(id);
                    }
                    after_unknown = unknown;
                }
                Ok(())
            }
        }
    }

    /// Joins the neighbours whose joined text is the token of the highest score, until there are none.
    fn sentence_piece(
        &self,
        vocab: &Vocab,
        ranks: &[u32],
        text: &str,
        word: &mut Word,
        out: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let bytes = text.as_bytes();
        word.clear();
        text.char_indices().for_each(|(i, c)| word.push(NONE, i, c.len_utf8()));
        word.merge(|l, r| {
            let id = vocab.get(bytes.get(l.start as usize..(l.start + l.len + r.len) as usize)?)?;
            Some((*ranks.get(id as usize)?, id))
        });
        for s in word.symbols() {
            let text = &text[s.start as usize..(s.start + s.len) as usize];
            if let Some(id) = vocab.get(text.as_bytes()) {
                out.push(id);
                continue;
            }
            for b in text.bytes() {
                let id = vocab.get(format!("<0x{b:02X}>").as_bytes()).or_else(|| vocab.get(&[b])).or(self.unk);
                out.push(id.ok_or_else(|| self.unknown(text))?);
            }
        }
        Ok(())
    }

    fn unknown(&self, text: &str) -> Error {
        Error::Unknown { file: self.file.clone(), text: clip(text) }
    }

    /// Whether decoding takes one space off the front of a text.
    pub(crate) fn strips_first_space(&self) -> bool {
        self.add_space_prefix
    }

    /// Whether a token is left out when special tokens are.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.attrs.get(id as usize).is_some_and(|a| a & (attr::CONTROL | attr::UNKNOWN) != 0)
    }

    /// Appends the bytes that a token stands for.
    pub(crate) fn piece(&self, vocab: &Vocab, id: u32, out: &mut Vec<u8>) {
        let a = self.attrs.get(id as usize).copied().unwrap_or(0);
        let text = vocab.text(id);
        if a & (attr::CONTROL | attr::UNKNOWN | attr::USER) != 0 {
            out.extend_from_slice(text);
        } else if a & attr::NORMAL != 0 {
            match (&self.model, self.escape, std::str::from_utf8(text)) {
                // Tokens that are not in the alphabet, such as Command R's emoji, are their own text.
                (Model::Bpe(bpe), false, Ok(text)) if !bpe.pre.plain => {
                    out.extend(
                        text.chars().map(char_byte).collect::<Option<Vec<u8>>>().as_deref().unwrap_or(text.as_bytes()),
                    );
                }
                (Model::Bpe(_), false, _) => out.extend_from_slice(text),
                (_, _, Ok(text)) => out.extend_from_slice(text.replace(SPACE, " ").as_bytes()),
                (_, _, Err(_)) => out.extend_from_slice(text),
            }
        } else if a & attr::BYTE != 0 {
            out.extend(byte_token(text));
        }
    }
}

impl Bpe {
    fn encode(&self, vocab: &Vocab, text: &str, cache: &mut Cache, out: &mut Vec<u32>) -> Result<(), &'static str> {
        let (mut word, mut encoded, mut start) = (Word::default(), String::new(), 0);
        self.cutter.cut(text, |end| {
            let from = std::mem::replace(&mut start, end);
            let Ok(()) = match &self.neighbours {
                None => cache.ids(text.as_bytes(), (from, end), out, |out| {
                    self.word(vocab, &text[from..end], &mut word, &mut encoded, out);
                    Ok::<_, Infallible>(())
                }),
                Some(neighbours) => self.parts(vocab, &text[from..end], neighbours, &mut word, cache, out),
            };
        })
    }

    /// The ids of a word that may be long, in parts.
    fn parts(
        &self,
        vocab: &Vocab,
        piece: &str,
        neighbours: &Neighbours,
        word: &mut Word,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) -> Result<(), Infallible> {
        if self.pre.whole_newlines
            && piece.bytes().all(|b| b == b'\n')
            && let Some(id) = vocab.get(piece.as_bytes())
        {
            out.push(id);
            return Ok(());
        }
        let mut start = 0;
        neighbours.split(piece, |end| {
            let from = std::mem::replace(&mut start, end);
            cache.ids(piece.as_bytes(), (from, end), out, |out| {
                word.clear();
                for (i, c) in piece[from..end].char_indices() {
                    let at = from + i;
                    let id = self.symbols.get(&piece.as_bytes()[at..at + c.len_utf8()]).unwrap_or(NONE);
                    word.push(id, i, c.len_utf8());
                }
                self.join(vocab, &piece[from..end], word, out);
                Ok(())
            })
        })
    }

    fn word(&self, vocab: &Vocab, piece: &str, word: &mut Word, encoded: &mut String, out: &mut Vec<u32>) {
        if self.pre.ignore_merges {
            encoded.clear();
            encoded.extend(piece.bytes().map(byte_char));
            if let Some(id) = vocab.get(encoded.as_bytes()) {
                return out.push(id);
            }
        }
        word.clear();
        piece.bytes().enumerate().for_each(|(i, b)| word.push(self.bytes[usize::from(b)], i, 1));
        self.join(vocab, piece, word, out);
    }

    /// Joins the symbols of a piece.
    fn join(&self, vocab: &Vocab, piece: &str, word: &mut Word, out: &mut Vec<u32>) {
        self.merges.apply(word, piece.as_bytes());
        for s in word.symbols() {
            if (s.id as usize) < vocab.len() {
                out.push(s.id);
                continue;
            }
            // A text that pairs lead to but that is no token: its bytes, as far as they are tokens.
            let bytes = &piece.as_bytes()[s.start as usize..(s.start + s.len) as usize];
            out.extend(bytes.iter().filter_map(|&b| self.fallback[usize::from(b)]));
        }
    }
}

impl Unigram {
    /// Applies the rules of the character map and SentencePiece's treatment of spaces.
    fn normalize(&self, vocab: &Vocab, text: &str, add_space: bool, escape: bool) -> String {
        let space = if escape { SPACE } else { " " };
        let mut out = Vec::with_capacity(text.len() * 3);
        let (mut space_added, mut in_word) = (false, false);
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let (taken, put) = self.rule(vocab, rest);
            for &b in put {
                if b != b' ' {
                    if !in_word {
                        in_word = true;
                        if add_space && !space_added || self.merge_spaces {
                            out.extend_from_slice(space.as_bytes());
                            space_added = true;
                        }
                    }
                    out.push(b);
                } else {
                    in_word = false;
                    if !self.merge_spaces {
                        out.extend_from_slice(space.as_bytes());
                    }
                }
            }
            at += taken;
        }
        String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// What the text begins with (bytes taken) and what that becomes.
    fn rule<'a>(&'a self, vocab: &Vocab, rest: &'a str) -> (usize, &'a [u8]) {
        let bytes = rest.as_bytes();
        let char_len = rest.chars().next().map_or(1, char::len_utf8);
        // What user-defined tokens begin with stays as it is.
        let mut kept = self.user_defined.shared(vocab, bytes);
        while !rest.is_char_boundary(kept) {
            kept -= 1;
        }
        if kept > 0 {
            return (kept, &bytes[..kept]);
        }
        let rule = self.charsmap.as_ref().and_then(|map| map.rules(bytes).last());
        match rule {
            Some((len, put)) if rest.is_char_boundary(len) => (len, put),
            _ => (char_len, &bytes[..char_len]),
        }
    }
}

/// The ranks of scores, for the heap.
fn ranks(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|&s| rank_of_score(s)).collect()
}

/// What the loader hands to [`crate::Tokenizer`].
type Loaded = (Parts, Engine);
