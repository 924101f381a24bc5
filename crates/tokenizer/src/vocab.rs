//! Token texts in one arena, and the way back from a text to its number.

use crate::hash::Seed;

/// Texts numbered 0, 1, …; a number may be a hole. Looking up a text gives the last number that was given to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    /// Where each text ends in `bytes`; it begins where the one before ends.
    ends: Vec<u32>,
    /// Open addressing: a number + 1, or 0 where free. Its length is a power of two, at least twice the texts.
    slots: Vec<u32>,
    /// Numbers without a text, sorted.
    holes: Vec<u32>,
    /// Some text has more than one number.
    doubled: bool,
    seed: Seed,
}

impl Vocab {
    /// An empty one that will hold about `n` texts.
    pub(crate) fn with_capacity(n: usize) -> Self {
        let slots = vec![0; (n * 2).next_power_of_two().max(16)];
        Vocab { ends: Vec::with_capacity(n), slots, ..Vocab::default() }
    }

    /// How many numbers are given out, holes included.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text of a number; empty for holes and beyond the end.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let start = if i == 0 { 0 } else { self.ends.get(i - 1).copied().unwrap_or(0) };
        self.ends.get(i).and_then(|&end| self.bytes.get(start as usize..end as usize)).unwrap_or(&[])
    }

    /// Whether a number has a text.
    pub(crate) fn has(&self, id: u32) -> bool {
        (id as usize) < self.len() && self.holes.binary_search(&id).is_err()
    }

    /// The number of a text.
    pub(crate) fn get(&self, text: &[u8]) -> Option<u32> {
        match self.slots.get(self.slot(text))? {
            0 => None,
            id => Some(id - 1),
        }
    }

    /// Gives the next number to `text`, which then answers to that number. `None` if 4 GB are full.
    pub(crate) fn push(&mut self, text: &[u8]) -> Option<u32> {
        let id = self.append(text)?;
        if self.len() * 2 > self.slots.len() {
            self.grow();
        }
        let slot = self.slot(text);
        self.doubled |= self.slots[slot] != 0;
        self.slots[slot] = id + 1;
        Some(id)
    }

    /// The number of `text`, a new one if it has none.
    pub(crate) fn intern(&mut self, text: &[u8]) -> Option<u32> {
        self.get(text).or_else(|| self.push(text))
    }

    /// The same, quicker if it is `guess` or the next.
    pub(crate) fn intern_near(&mut self, text: &[u8], guess: u32) -> Option<u32> {
        let near = [guess, guess.saturating_add(1)].into_iter().find(|&id| !self.doubled && self.text(id) == text);
        near.or_else(|| self.intern(text))
    }

    /// Uses up a number without a text.
    pub(crate) fn push_hole(&mut self) -> Option<u32> {
        let id = self.append(&[])?;
        self.holes.push(id);
        Some(id)
    }

    fn append(&mut self, text: &[u8]) -> Option<u32> {
        let id = u32::try_from(self.len()).ok().filter(|&id| id < u32::MAX - 1)?;
        let end = u32::try_from(self.bytes.len() + text.len()).ok()?;
        self.bytes.extend_from_slice(text);
        self.ends.push(end);
        Some(id)
    }

    /// Where `text` is in `slots`, or the free place where it would be.
    fn slot(&self, text: &[u8]) -> usize {
        let mask = self.slots.len().wrapping_sub(1);
        let mut i = self.seed.hash(text) as usize & mask;
        while let Some(&id) = self.slots.get(i).filter(|&&id| id != 0) {
            if self.text(id - 1) == text {
                break;
            }
            i = (i + 1) & mask;
        }
        i
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![0; (old.len() * 2).max(16)];
        for id in old.into_iter().filter(|&id| id != 0) {
            let slot = self.slot(self.text(id - 1));
            self.slots[slot] = id;
        }
    }
}

/// Texts in byte order, to find all that begin at a place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prefixes {
    sorted: Vec<u32>,
    /// Where texts that begin with byte `b` lie in `sorted`: `first[b]..first[b + 1]`.
    first: Vec<u32>,
}

impl Prefixes {
    /// Of these numbers' texts (empty ones are left out; of equal ones the last number counts).
    pub(crate) fn new(vocab: &Vocab, ids: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = ids.filter(|&id| !vocab.text(id).is_empty()).collect();
        sorted.sort_by(|&a, &b| vocab.text(a).cmp(vocab.text(b)).then(b.cmp(&a)));
        sorted.dedup_by(|b, a| vocab.text(*a) == vocab.text(*b));
        let begin =
            |b: usize| sorted.partition_point(|&id| (vocab.text(id).first().copied().unwrap_or(0) as usize) < b);
        let first = (0..=256).map(|b| begin(b) as u32).collect();
        Prefixes { sorted, first }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// For each byte whether a text begins with it.
    pub(crate) fn first_bytes(&self) -> [bool; 256] {
        std::array::from_fn(|b| self.first.get(b) < self.first.get(b + 1))
    }

    /// How many bytes `bytes` share with the text that shares most.
    pub(crate) fn shared(&self, vocab: &Vocab, bytes: &[u8]) -> usize {
        let at = self.sorted.partition_point(|&id| vocab.text(id) < bytes);
        let with = |i: usize| {
            self.sorted.get(i).map_or(0, |&id| vocab.text(id).iter().zip(bytes).take_while(|(a, b)| a == b).count())
        };
        with(at).max(at.checked_sub(1).map_or(0, with))
    }

    /// The texts that `bytes` begin with, shortest first, with their lengths.
    pub(crate) fn of<'a>(&'a self, vocab: &'a Vocab, bytes: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let b = bytes.first().map_or(256, |&b| usize::from(b));
        let place = |b: usize| self.first.get(b).map_or(0, |&i| i as usize);
        let (mut lo, mut hi) = (place(b.min(255)), if b < 256 { place(b + 1) } else { place(255) });
        if b == 256 {
            hi = lo;
        }
        let mut len = 1; // all of sorted[lo..hi] share the first `len` bytes with `bytes`
        std::iter::from_fn(move || {
            while lo < hi {
                let range = self.sorted.get(lo..hi)?;
                let id = *range.first()?;
                if vocab.text(id).len() == len {
                    // The one that ends here comes first; go on behind it.
                    let found = (len, id);
                    lo += 1;
                    return Some(found);
                }
                let Some(&next) = bytes.get(len) else { break };
                let byte = |id: &u32| vocab.text(*id).get(len).copied().unwrap_or(0);
                // Narrow; often all of them go on alike.
                if byte(&id) != next || range.last().is_some_and(|l| byte(l) != next) {
                    let from = range.partition_point(|id| byte(id) < next);
                    let to = from + range.get(from..)?.partition_point(|id| byte(id) == next);
                    (lo, hi) = (lo + from, lo + to);
                }
                len += 1;
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts() {
        let mut v = Vocab::with_capacity(0);
        for i in 0..1000u32 {
            assert_eq!(v.push(format!("t{i}").as_bytes()), Some(i));
        }
        assert_eq!((v.get(b"t999"), v.get(b"t1000"), v.get(b"")), (Some(999), None, None));
        assert_eq!(v.push(b"t5"), Some(1000));
        assert_eq!(
            (v.get(b"t5"), v.intern(b"t5"), v.text(1000), v.text(1001)),
            (Some(1000), Some(1000), &b"t5"[..], &b""[..])
        );
        assert_eq!((v.push_hole(), v.has(1001), v.has(1000), v.has(1002)), (Some(1001), false, true, false));
    }

    #[test]
    fn prefixes_are_all_found() {
        let mut v = Vocab::default();
        for t in ["a", "ab", "abc", "abd", "b", "", "zz", "z", "ab", "\u{ff}"] {
            v.push(t.as_bytes());
        }
        let p = Prefixes::new(&v, 0..v.len() as u32);
        let of = |t: &str| p.of(&v, t.as_bytes()).collect::<Vec<_>>();
        assert_eq!(of("abdx"), [(1, 0), (2, 8), (3, 3)]);
        assert_eq!(of("zzz"), [(1, 7), (2, 6)]);
        assert_eq!(of("\u{ff}"), [(2, 9)]);
        assert!(of("").is_empty() && of("x").is_empty());
    }
}
