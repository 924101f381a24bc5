//! A fast hash with a random seed: no file can be written so that its tokens collide.

use std::hash::{BuildHasher, Hasher, RandomState};

const K: u64 = 0x9e37_79b9_7f4a_7c15;

/// Both halves of a 128-bit product, folded.
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}

/// The seed of one table.
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

    /// The hash of some bytes.
    #[inline]
    pub(crate) fn hash(self, bytes: &[u8]) -> u64 {
        let (mut hash, mut rest) = (self.0, bytes);
        let mut take = |word| hash = fold(hash ^ word, K ^ hash.rotate_left(32));
        while let Some((&eight, more)) = rest.split_first_chunk().filter(|(_, more)| !more.is_empty()) {
            take(u64::from_le_bytes(eight));
            rest = more;
        }
        // The last eight bytes, of which some may have been taken, or all there are.
        let last = match (bytes.last_chunk(), bytes.first_chunk(), bytes.last_chunk(), bytes) {
            (Some(&eight), ..) => u64::from_le_bytes(eight),
            (_, Some(&left), Some(&right), _) => {
                u64::from(u32::from_le_bytes(left)) << 32 | u64::from(u32::from_le_bytes(right))
            }
            (.., &[first, .., last]) => {
                u64::from(first) << 16 | u64::from(bytes[bytes.len() / 2]) << 8 | u64::from(last)
            }
            (.., &[one]) => u64::from(one),
            _ => 0,
        };
        take(last ^ (bytes.len() as u64).rotate_right(8));
        hash
    }

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
}
