//! WordPiece as llama.cpp does it: BERT's cleaning, then the longest tokens from the left of each word.
//! (Wu et al. 2016, arXiv:1609.08144)

use crate::unicode::{CONTROL, MARK, PUNCTUATION, SYMBOL, category, decomposed, is_chinese, lower};
use crate::vocab::{Prefixes, Vocab};

/// Calls `word` with each word and its tokens, which are none if the vocabulary cannot express it.
pub(super) fn encode<E>(
    vocab: &Vocab,
    pieces: &Prefixes,
    text: &str,
    lowercase: bool,
    strip_accents: bool,
    mut word: impl FnMut(&str, &[u32]) -> Result<(), E>,
) -> Result<(), E> {
    let mut tokens = Vec::new();
    let mut emit = |w: &mut String| {
        // Tokens that begin a word begin with U+2581.
        if w.len() > super::SPACE.len() {
            tokens.clear();
            let mut at = 0;
            while at < w.len() {
                let Some((len, id)) = pieces.of(vocab, &w.as_bytes()[at..]).last() else {
                    tokens.clear();
                    break;
                };
                tokens.push(id);
                at += len;
            }
            word(&w[super::SPACE.len()..], &tokens)?;
        }
        w.clear();
        w.push_str(super::SPACE);
        Ok(())
    };
    let mut now = String::from(super::SPACE);
    for c in text.chars() {
        let c = if strip_accents { decomposed(c) } else { c };
        let set = category(c);
        if c.is_whitespace() {
            emit(&mut now)?;
        } else if c == '\0' || c == '\u{fffd}' || set & CONTROL != 0 || strip_accents && set & MARK != 0 {
        } else {
            let alone = set & PUNCTUATION != 0 || (c as u32) < 0x7f && set & SYMBOL != 0 || is_chinese(c);
            if alone {
                emit(&mut now)?;
            }
            now.push(if lowercase { lower(c) } else { c });
            if alone {
                emit(&mut now)?;
            }
        }
    }
    emit(&mut now)
}
