//! Special tokens in a text.

use super::{Engine, attr};
use crate::vocab::Vocab;

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    Token(u32),
}

/// Cuts the text at its special tokens. The longest token comes first, everywhere in the text, then the next; not the
/// leftmost first. Control and unknown tokens only if `all`; user-defined ones always.
pub(super) fn partition<'a>(engine: &Engine, vocab: &Vocab, text: &'a str, all: bool) -> Vec<Piece<'a>> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut pieces = vec![Piece::Text(text)];
    if engine.special_index.is_empty() {
        return pieces;
    }
    // One pass finds which of the (often thousands of) tokens occur at all.
    let begins = engine.special_index.first_bytes();
    let mut occurs = Vec::new();
    for (at, _) in text.bytes().enumerate().filter(|&(at, b)| begins[usize::from(b)] && text.is_char_boundary(at)) {
        for (_, id) in engine.special_index.of(vocab, &text.as_bytes()[at..]) {
            if occurs.is_empty() {
                occurs = vec![false; engine.attrs.len()];
            }
            occurs[id as usize] = true;
        }
    }
    if occurs.is_empty() {
        return pieces;
    }
    for &id in engine.specials.iter().filter(|&&id| occurs[id as usize]) {
        let a = engine.attrs[id as usize];
        if !all && a & (attr::CONTROL | attr::UNKNOWN) != 0 {
            continue;
        }
        let Ok(token) = std::str::from_utf8(vocab.text(id)) else { continue };
        let mut cut = Vec::with_capacity(pieces.len() + 2);
        for piece in pieces {
            match piece {
                Piece::Token(_) => cut.push(piece),
                Piece::Text(mut rest) => {
                    while let Some((left, right)) = rest.split_once(token) {
                        let left = if a & attr::LSTRIP != 0 { left.trim_end_matches(is_space) } else { left };
                        let right = if a & attr::RSTRIP != 0 { right.trim_start_matches(is_space) } else { right };
                        cut.extend((!left.is_empty()).then_some(Piece::Text(left)));
                        cut.push(Piece::Token(id));
                        rest = right;
                    }
                    cut.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
                }
            }
        }
        pieces = cut;
    }
    pieces
}

/// White space as C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}
