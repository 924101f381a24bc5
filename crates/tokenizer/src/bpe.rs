//! Byte-pair encoding: neighbours are joined, best pair first, until none is left to join.
//! Pairs that tie are joined from the left. A heap makes that n log n; short words are faster without one.
//! (Sennrich et al. 2016, arXiv:1508.07909)

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hash::Seed;

/// The number of a symbol that is in no vocabulary.
pub(crate) const NONE: u32 = u32::MAX;

/// The most symbols of a short word.
const SHORT: usize = 32;

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
        match self.symbols.len() {
            0..=SHORT => self.merge_short(pair),
            _ => self.merge_long(pair),
        }
    }

    /// Looks at all pairs for the best each time.
    fn merge_short(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let symbols = &mut self.symbols;
        // The pair of i and i + 1 at i; the joined number is NONE where there is no pair.
        let (mut ranks, mut joined) = ([u32::MAX; SHORT], [NONE; SHORT]);
        for (i, two) in symbols.windows(2).enumerate() {
            (ranks[i], joined[i]) = pair(&two[0], &two[1]).unwrap_or((u32::MAX, NONE));
        }
        let mut n = symbols.len();
        while n > 1 {
            let best = ranks[..n - 1].iter().copied().min().unwrap_or(u32::MAX);
            let is_best = |i: &usize| ranks[*i] == best && joined[*i] != NONE;
            let Some(left) = (0..n - 1).find(is_best) else { break };
            symbols[left].id = joined[left];
            symbols[left].len += symbols[left + 1].len;
            for i in left + 1..n - 1 {
                symbols[i] = symbols[i + 1];
                (ranks[i - 1], joined[i - 1]) = (ranks[i], joined[i]);
            }
            n -= 1;
            for i in left.saturating_sub(1)..(left + 1).min(n - 1) {
                (ranks[i], joined[i]) = pair(&symbols[i], &symbols[i + 1]).unwrap_or((u32::MAX, NONE));
            }
        }
        symbols.truncate(n);
    }

    fn merge_long(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
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
pub(crate) struct Merges {
    /// Open addressing: left + 1, right, rank, joined, or zeros where free. Its length is a power of two, and at least
    /// one is free.
    slots: Vec<[u32; 4]>,
    pairs: usize,
    seed: Seed,
    /// A bit for each hash of a pair: most neighbours are none, and this table is small enough to stay near.
    filter: Vec<u64>,
    /// Pairs of single bytes, which all words begin with: (rank + 1, joined), or zeros.
    of_bytes: Vec<[u32; 2]>,
}

impl Merges {
    pub(crate) fn with_capacity(n: usize) -> Self {
        let slots = (n * 3 / 2 + 1).next_power_of_two();
        Merges { slots: vec![[0; 4]; slots], filter: vec![0; slots.div_ceil(8)], ..Merges::default() }
    }

    /// Where a pair with this hash is in `slots`, or the free place where it would be.
    #[inline]
    fn slot(&self, hash: u64, left: u32, right: u32) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        let mut i = hash as usize & mask;
        while let Some(&[l, r, ..]) = self.slots.get(i)
            && l != 0
            && (l, r) != (left + 1, right)
        {
            i = (i + 1) & mask;
        }
        i
    }

    /// The place of a hash in `filter`, and its bit.
    #[inline]
    fn bit(&self, hash: u64) -> (usize, u64) {
        ((hash >> 38) as usize & self.filter.len().wrapping_sub(1), 1 << (hash >> 32 & 63))
    }

    /// Adds pairs as (left, right, rank, joined); of equal pairs the first counts.
    pub(crate) fn add(&mut self, pairs: &[[u32; 4]]) {
        if (self.pairs + pairs.len()) * 4 > self.slots.len() * 3 {
            let old = std::mem::replace(self, Merges::with_capacity(self.slots.len() + pairs.len()));
            self.of_bytes = old.of_bytes;
            for [left, right, rank, joined] in old.slots.into_iter().filter(|s| s[0] != 0) {
                self.insert([left - 1, right, rank, joined]);
            }
        }
        // What insertion will read, so that the memory's answers come all at once.
        let first = |&[left, right, ..]: &[u32; 4]| {
            self.slots.get(self.seed.pair(left, right) as usize & (self.slots.len() - 1)).map_or(0, |s| s[0])
        };
        std::hint::black_box(pairs.iter().fold(0, |seen, pair| seen ^ first(pair)));
        pairs.iter().for_each(|&pair| self.insert(pair));
    }

    fn insert(&mut self, [left, right, rank, joined]: [u32; 4]) {
        let hash = self.seed.pair(left, right);
        let slot = self.slot(hash, left, right);
        if self.slots[slot][0] == 0 {
            self.slots[slot] = [left + 1, right, rank, joined];
            let (word, bit) = self.bit(hash);
            self.filter[word] |= bit;
            self.pairs += 1;
        }
    }

    /// Adds a pair of bytes, which [`Merges::add`] is told too.
    pub(crate) fn add_bytes(&mut self, left: u8, right: u8, rank: u32, joined: u32) {
        if self.of_bytes.is_empty() {
            self.of_bytes = vec![[0; 2]; 1 << 16];
        }
        let place = &mut self.of_bytes[usize::from(left) << 8 | usize::from(right)];
        if place[0] == 0 {
            *place = [rank + 1, joined];
        }
    }

    /// Joins the symbols of a word, of the text `bytes` where symbols of one byte are known by it.
    pub(crate) fn apply(&self, word: &mut Word, bytes: &[u8]) {
        word.merge(|l, r| {
            if l.id == NONE || r.id == NONE {
                return None;
            }
            if l.len + r.len == 2 && !self.of_bytes.is_empty() {
                let two = bytes.get(l.start as usize..).and_then(<[u8]>::first_chunk::<2>)?;
                return match self.of_bytes[usize::from(two[0]) << 8 | usize::from(two[1])] {
                    [0, _] => None,
                    [rank, joined] => Some((rank - 1, joined)),
                };
            }
            let hash = self.seed.pair(l.id, r.id);
            let (word, bit) = self.bit(hash);
            if self.filter.get(word)? & bit == 0 {
                return None;
            }
            match *self.slots.get(self.slot(hash, l.id, r.id))? {
                [0, ..] => None,
                [_, _, rank, joined] => Some((rank, joined)),
            }
        });
    }
}

/// Which bytes come behind which in the texts of symbols. Where two neighbours of a text do not, no joined pair can
/// reach across, so what lies on either side can be joined alone.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours(Vec<u64>);

impl Neighbours {
    /// In these texts.
    pub(crate) fn new<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut bits = vec![0; 1024];
        for two in texts.flat_map(|text| text.windows(2)) {
            bits[usize::from(two[0]) << 2 | usize::from(two[1] >> 6)] |= 1u64 << (two[1] & 63);
        }
        Neighbours(bits)
    }

    /// Calls `part` with the ends of parts that can be joined alone.
    pub(crate) fn split<E>(&self, text: &str, mut part: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        for (i, two) in text.as_bytes().windows(2).enumerate() {
            let seen = self.0[usize::from(two[0]) << 2 | usize::from(two[1] >> 6)] >> (two[1] & 63) & 1 != 0;
            if !seen && text.is_char_boundary(i + 1) {
                part(i + 1)?;
            }
        }
        part(text.len())
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

/// Short words that were tokenized before, with their ids, for as long as one text lasts. A word can be in two places
/// of the table; others may drive it out.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Pairs of: the bytes and the length of a word; how many ids it has, and up to three ids, or where they are in
    /// `ids`.
    places: Vec<[[u64; 4]; 2]>,
    ids: Vec<u32>,
}

impl Cache {
    const MAX_WORD: usize = 15;
    const MAX_IDS: usize = 1 << 20;

    /// For a text of so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Cache { places: vec![[[0; 4]; 2]; (bytes / 16).next_power_of_two().clamp(8, 1 << 13)], ids: Vec::new() }
    }

    /// Appends the ids of the word `text[start..end]` to `out`; `make` finds them if the word is new.
    #[inline]
    pub(crate) fn ids<E>(
        &mut self,
        text: &[u8],
        (start, end): (usize, usize),
        out: &mut Vec<u32>,
        make: impl FnOnce(&mut Vec<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let len = end - start;
        if len > Self::MAX_WORD {
            return make(out);
        }
        let bytes = match text.get(start..).and_then(<[u8]>::first_chunk) {
            Some(&sixteen) => u128::from_le_bytes(sixteen),
            None => text[start..].iter().rev().fold(0, |v, &b| v << 8 | u128::from(b)),
        };
        let key = bytes & ((1 << (8 * len)) - 1) | (len as u128) << 120;
        let (low, high) = (key as u64, (key >> 64) as u64);
        let at = Seed::FIXED.pair_of_words(low, high) as usize & (self.places.len() - 1);
        let [new, old] = self.places[at];
        let found = if (new[0], new[1]) == (low, high) { new } else { old };
        if (found[0], found[1]) == (low, high) {
            let [.., first, more] = found;
            match first as u32 {
                1 => out.push((first >> 32) as u32),
                2 => out.extend([(first >> 32) as u32, more as u32]),
                3 => out.extend([(first >> 32) as u32, more as u32, (more >> 32) as u32]),
                n => out.extend_from_slice(&self.ids[more as usize..][..n as usize]),
            }
            return Ok(());
        }
        let before = out.len();
        make(out)?;
        let ids = &out[before..];
        let id = |i: usize| u64::from(ids.get(i).copied().unwrap_or(0));
        let more = match ids.len() {
            1..=3 => id(1) | id(2) << 32,
            _ if self.ids.len() > Self::MAX_IDS => return Ok(()),
            _ => self.ids.len() as u64,
        };
        if ids.len() > 3 {
            self.ids.extend_from_slice(ids);
        }
        self.places[at] = [[low, high, ids.len() as u64 | id(0) << 32, more], new];
        Ok(())
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
    fn short_words_parts_and_cached_words_are_as_the_heap_says() {
        let mut state = 1u64;
        let mut below = move |n: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) as usize % n
        };
        for _ in 0..200 {
            // Symbols 0..6 are the letters; some pairs of symbols make more, often with the same rank.
            let mut texts: Vec<Vec<u8>> = (b'a'..b'g').map(|b| vec![b]).collect();
            let mut merges = Merges::default();
            for _ in 0..below(20) {
                let (left, right) = (below(texts.len()), below(texts.len()));
                merges.add(&[[left as u32, right as u32, below(8) as u32, texts.len() as u32]]);
                texts.push([&texts[left][..], &texts[right]].concat());
            }
            let neighbours = Neighbours::new(texts.iter().map(|t| &t[..]));
            let text: String = (0..below(300)).map(|_| char::from(b'a' + below(6) as u8)).collect();
            let symbols = |part: &str| {
                let mut word = Word::default();
                part.bytes().enumerate().for_each(|(i, b)| word.push(u32::from(b - b'a'), i, 1));
                word
            };
            let pair =
                |l: &Symbol, r: &Symbol| match merges.slots[merges.slot(merges.seed.pair(l.id, r.id), l.id, r.id)] {
                    [0, ..] => None,
                    [_, _, rank, joined] => Some((rank, joined)),
                };
            let ids = |word: &Word| word.symbols().map(|s| s.id).collect::<Vec<_>>();
            let by_heap = |part: &str| {
                let mut word = symbols(part);
                word.merge_long(pair);
                ids(&word)
            };
            if merges.slots.is_empty() {
                continue;
            }
            let short = &text[..text.len().min(SHORT)];
            let mut word = symbols(short);
            word.merge_short(pair);
            assert_eq!(ids(&word), by_heap(short), "{short:?} {texts:?}");
            let (mut cache, mut out, mut start) = (Cache::new(text.len()), Vec::new(), 0);
            let done = neighbours.split(&text, |end| {
                let from = std::mem::replace(&mut start, end);
                cache.ids(text.as_bytes(), (from, end), &mut out, |out| {
                    let mut word = symbols(&text[from..end]);
                    merges.apply(&mut word, &[]);
                    out.extend(ids(&word));
                    Ok::<_, ()>(())
                })
            });
            assert_eq!((done, out), (Ok(()), by_heap(&text)), "{text:?} {texts:?}");
        }
    }

    #[test]
    fn cached_words_keep_their_ids() {
        let words: Vec<String> =
            (0..3000).map(|i| format!("{:.*}", i % 17, "abcdefghijklmnopqrstuv") + &i.to_string()).collect();
        let text = words.concat();
        for size in [0, text.len()] {
            let (mut cache, mut made) = (Cache::new(size), 0);
            for _ in 0..3 {
                let mut start = 0;
                for (i, word) in words.iter().enumerate() {
                    let want: Vec<u32> = (0..i as u32 % 7).map(|n| n + i as u32).collect();
                    let mut out = vec![9];
                    let done = cache.ids(text.as_bytes(), (start, start + word.len()), &mut out, |out| {
                        made += 1;
                        out.extend(&want);
                        Ok::<_, ()>(())
                    });
                    assert_eq!((done, &out[1..]), (Ok(()), &want[..]), "{word}");
                    start += word.len();
                }
            }
            assert!(size == 0 || made < 2 * words.len(), "{made}");
        }
    }

    #[test]
    fn ties_join_from_the_left_and_long_words_take_no_time() {
        let mut merges = Merges::with_capacity(1);
        merges.add(&[[0, 0, 0, 1]]); // a a -> aa
        merges.add(&[[1, 1, 1, 2]]); // aa aa -> aaaa
        let mut word = Word::default();
        (0..7).for_each(|i| word.push(0, i, 1));
        merges.apply(&mut word, &[]);
        assert_eq!(
            word.symbols().map(|s| (s.id, s.start, s.len)).collect::<Vec<_>>(),
            [(2, 0, 4), (1, 4, 2), (0, 6, 1)]
        );
        word.clear();
        (0..1 << 20).for_each(|i| word.push(0, i, 1));
        let start = std::time::Instant::now();
        merges.apply(&mut word, &[]);
        assert_eq!(word.symbols().count(), 1 << 18);
        assert!(start.elapsed().as_secs() < 20);
    }
}
