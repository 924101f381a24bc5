//! A fast hash with a random seed: no file can be written so that its tokens collide.

use std::hash::{BuildHasher, Hasher, RandomState};

const K: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of a 128-bit product, folded.
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}

/// The seed of one table; also the `BuildHasher` of `HashMap`s.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64);

impl Default for Seed {
    fn default() -> Self {
        Seed(RandomState::new().build_hasher().finish() | 1)
    }
}

impl Seed {
    /// For tables that stay small whatever is put in.
    pub(crate) const FIXED: Seed = Seed(K);

    /// The hash of two words.
    #[inline]
    pub(crate) fn pair_of_words(self, a: u64, b: u64) -> u64 {
        fold(self.0 ^ a, K ^ b.rotate_left(32))
    }

    /// The hash of two numbers.
    #[inline]
    pub(crate) fn pair(self, a: u32, b: u32) -> u64 {
        fold(self.0 ^ (u64::from(a) << 32 | u64::from(b)), K)
    }

    /// The hash of some bytes.
    pub(crate) fn hash(self, bytes: &[u8]) -> u64 {
        let mut h = Mix(self.0);
        h.write(bytes);
        h.finish()
    }
}

impl BuildHasher for Seed {
    type Hasher = Mix;
    fn build_hasher(&self) -> Mix {
        Mix(self.0)
    }
}

/// The running hash.
#[derive(Debug)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word = chunk.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
            self.0 = fold(self.0 ^ word, K ^ self.0.rotate_left(32));
        }
        let tail = chunks.remainder().iter().rev().fold(bytes.len() as u64, |v, &b| v << 8 | u64::from(b));
        self.0 = fold(self.0 ^ tail, K ^ self.0.rotate_left(32));
    }

    fn write_u64(&mut self, v: u64) {
        self.0 = fold(self.0 ^ v, K ^ self.0.rotate_left(32));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
