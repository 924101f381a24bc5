//! Unigram language model: the split of a text whose tokens' log-probabilities have the highest sum, by Viterbi.
//! (Kudo 2018, arXiv:1804.10959, as SentencePiece computes it)

use crate::vocab::{Prefixes, Vocab};

/// A token in the text: `bytes[start..end]`; `id` is `None` where nothing in the vocabulary fits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) id: Option<u32>,
}

/// The best split of `text`, from left to right, into `out`. `score` gives a token's log-probability; a character
/// that no token covers alone costs `unknown`. `first_wins`: how the first of all ways to a place is chosen, by
/// being there (true) or by a score above the lowest f64 (false).
pub(crate) fn split(
    text: &str,
    vocab: &Vocab,
    pieces: &Prefixes,
    score: impl Fn(u32) -> f64,
    unknown: f64,
    out: &mut Vec<Piece>,
) {
    #[derive(Clone, Copy)]
    struct Best {
        score: f64,
        start: u32,
        id: u32,
    }
    const UNKNOWN: u32 = u32::MAX;
    const UNSEEN: u32 = u32::MAX;
    let bytes = text.as_bytes();
    let mut best = vec![Best { score: 0.0, start: UNSEEN, id: UNKNOWN }; bytes.len() + 1];
    for (at, c) in text.char_indices() {
        let here = best[at].score;
        let mut offer = |end: usize, score: f64, id: u32| {
            let there = &mut best[end];
            if there.start == UNSEEN || score > there.score {
                *there = Best { score, start: at as u32, id };
            }
        };
        let mut alone = false;
        for (len, id) in pieces.of(vocab, &bytes[at..]) {
            alone |= len == c.len_utf8();
            offer(at + len, here + score(id), id);
        }
        if !alone {
            offer(at + c.len_utf8(), here + unknown, UNKNOWN);
        }
    }
    let from = out.len();
    let mut end = bytes.len();
    while end > 0 {
        let Best { start, id, .. } = best[end];
        let start = if start == UNSEEN { 0 } else { start as usize };
        out.push(Piece { start, end, id: (id != UNKNOWN).then_some(id) });
        end = start;
    }
    out[from..].reverse();
}
