//! Byte-pair encoding: neighbours are joined, best pair first, until none is left to join.
//! A heap makes that n log n; pairs that tie are joined from the left. (Sennrich et al. 2016, arXiv:1508.07909)

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::Map;

/// The number of a symbol that is in no vocabulary.
pub(crate) const NONE: u32 = u32::MAX;

/// A piece of a word: `len` bytes from `start`, and its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub(crate) id: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
    prev: u32,
    next: u32,
}

/// The symbols of a word, and room to work; kept from word to word.
#[derive(Default, Debug)]
pub(crate) struct Word {
    symbols: Vec<Symbol>,
    /// (rank, left symbol, bytes of the pair, number of the joined symbol).
    queue: BinaryHeap<Reverse<(u32, u32, u32, u32)>>,
}

impl Word {
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol.
    pub(crate) fn push(&mut self, id: u32, start: usize, len: usize) {
        let n = self.symbols.len() as u32;
        self.symbols.push(Symbol { id, start: start as u32, len: len as u32, prev: n.wrapping_sub(1), next: n + 1 });
    }

    /// The symbols that are left.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len != 0)
    }

    /// Joins pairs, lowest rank first; `pair` gives the rank and the joined number of two neighbours that may join.
    pub(crate) fn merge(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let enter = |queue: &mut BinaryHeap<_>, symbols: &[Symbol], left: u32, right: u32| {
            if let (Some(l), Some(r)) = (symbols.get(left as usize), symbols.get(right as usize))
                && let Some((rank, id)) = pair(l, r)
            {
                queue.push(Reverse((rank, left, l.len + r.len, id)));
            }
        };
        for i in 1..self.symbols.len() as u32 {
            enter(&mut self.queue, &self.symbols, i - 1, i);
        }
        while let Some(Reverse((_, left, len, id))) = self.queue.pop() {
            let Some(&l) = self.symbols.get(left as usize) else { continue };
            let Some(&r) = self.symbols.get(l.next as usize) else { continue };
            // The pair may have changed since it was queued.
            if l.len == 0 || l.len + r.len != len {
                continue;
            }
            self.symbols[l.next as usize].len = 0;
            self.symbols[left as usize] = Symbol { id, len, next: r.next, ..l };
            if let Some(after) = self.symbols.get_mut(r.next as usize) {
                after.prev = left;
            }
            enter(&mut self.queue, &self.symbols, l.prev, left);
            enter(&mut self.queue, &self.symbols, left, r.next);
        }
    }
}

/// The pairs that may be joined: (left, right) to (rank, joined number).
#[derive(Clone, Debug, Default)]
pub(crate) struct Merges(Map<u64, (u32, u32)>);

impl Merges {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Merges(Map::with_capacity_and_hasher(n, Default::default()))
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << 32 | u64::from(right)
    }

    /// Adds a pair; of equal pairs the first counts.
    pub(crate) fn add(&mut self, left: u32, right: u32, rank: u32, joined: u32) {
        self.0.entry(Self::key(left, right)).or_insert((rank, joined));
    }

    /// Joins the symbols of a word.
    pub(crate) fn apply(&self, word: &mut Word) {
        word.merge(
            |l, r| if l.id == NONE || r.id == NONE { None } else { self.0.get(&Self::key(l.id, r.id)).copied() },
        );
    }
}

/// The rank of a score where the highest score comes first; NaN comes last.
pub(crate) fn rank_of_score(score: f32) -> u32 {
    if score.is_nan() {
        return u32::MAX;
    }
    let bits = (score + 0.0).to_bits(); // -0 is 0
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

/// Words that were tokenized before, with their ids, for as long as one text lasts.
#[derive(Default, Debug)]
pub(crate) struct Cache {
    words: Map<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
}

impl Cache {
    const MAX_WORD: usize = 48;
    const MAX_WORDS: usize = 1 << 16;

    /// Appends the ids of `word` to `out`; `make` finds them if the word is new.
    pub(crate) fn ids(&mut self, word: &[u8], out: &mut Vec<u32>, make: impl FnOnce(&mut Vec<u32>)) {
        if word.len() > Self::MAX_WORD {
            return make(out);
        }
        if let Some(&(start, end)) = self.words.get(word) {
            return out.extend_from_slice(self.ids.get(start as usize..end as usize).unwrap_or(&[]));
        }
        let before = out.len();
        make(out);
        if self.words.len() < Self::MAX_WORDS {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&out[before..]);
            self.words.insert(word.into(), (start, self.ids.len() as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_rank_from_high_to_low() {
        let scores = [f32::INFINITY, 3.5, 1e-30, 0.0, -1e-30, -2.0, -1e9, f32::NEG_INFINITY, f32::NAN];
        assert!(scores.windows(2).all(|w| rank_of_score(w[0]) < rank_of_score(w[1])));
        assert_eq!(rank_of_score(0.0), rank_of_score(-0.0));
    }

    #[test]
    fn ties_join_from_the_left_and_long_words_take_no_time() {
        let mut merges = Merges::default();
        merges.add(0, 0, 0, 1); // a a -> aa
        merges.add(1, 1, 1, 2); // aa aa -> aaaa
        let mut word = Word::default();
        (0..7).for_each(|i| word.push(0, i, 1));
        merges.apply(&mut word);
        assert_eq!(
            word.symbols().map(|s| (s.id, s.start, s.len)).collect::<Vec<_>>(),
            [(2, 0, 4), (1, 4, 2), (0, 6, 1)]
        );
        word.clear();
        (0..1 << 20).for_each(|i| word.push(0, i, 1));
        let start = std::time::Instant::now();
        merges.apply(&mut word);
        assert_eq!(word.symbols().count(), 1 << 18);
        assert!(start.elapsed().as_secs() < 20);
    }
}
