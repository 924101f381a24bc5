//! Random numbers without state: the draw at a position is a function of (seed, position) and nothing else.

/// Multipliers and key increments of Philox-4x64.
const MULTIPLY: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
const BUMP: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];

/// Philox-4x64-10: the block of four random words that belongs to `counter` under `key`.
///
/// Integer arithmetic only, so the same on every machine. Salmon, Moraes, Dror, Shaw,
/// "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
pub fn philox(mut counter: [u64; 4], mut key: [u64; 2]) -> [u64; 4] {
    for _ in 0..10 {
        let [a, b] =
            [u128::from(counter[0]) * u128::from(MULTIPLY[0]), u128::from(counter[2]) * u128::from(MULTIPLY[1])];
        counter = [(b >> 64) as u64 ^ counter[1] ^ key[0], b as u64, (a >> 64) as u64 ^ counter[3] ^ key[1], a as u64];
        key = [key[0].wrapping_add(BUMP[0]), key[1].wrapping_add(BUMP[1])];
    }
    counter
}

/// A uniform number in [0, 1), a multiple of 2^-53, for the token at `position` of a sequence with this `seed`.
pub fn uniform(seed: u64, position: u64) -> f64 {
    let word = philox([position, 0, 0, 0], [seed, 0])[0];
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123 (kat_vectors, `philox4x64 10`), also those of numpy.random.Philox.
    #[test]
    fn known_answers() {
        const PI: [u64; 6] = [
            0x243f6a8885a308d3,
            0x13198a2e03707344,
            0xa4093822299f31d0,
            0x082efa98ec4e6c89,
            0x452821e638d01377,
            0xbe5466cf34e90c6c,
        ];
        let kat = [
            ([0; 4], [0; 2], [0x16554d9eca36314c, 0xdb20fe9d672d0fdc, 0xd7e772cee186176b, 0x7e68b68aec7ba23b]),
            (
                [u64::MAX; 4],
                [u64::MAX; 2],
                [0x87b092c3013fe90b, 0x438c3c67be8d0224, 0x9cc7d7c69cd777b6, 0xa09caebf594f0ba0],
            ),
            (
                [PI[0], PI[1], PI[2], PI[3]],
                [PI[4], PI[5]],
                [0xa528f45403e61d95, 0x38c72dbd566e9788, 0xa5a1610e72fd18b5, 0x57bd43b5e52b7fe6],
            ),
        ];
        for (counter, key, answer) in kat {
            assert_eq!(philox(counter, key), answer);
        }
    }

    #[test]
    fn uniform_is_uniform() {
        let n = 10_000;
        let mut buckets = [0; 20];
        for position in 0..n {
            let u = uniform(7, position);
            assert!((0.0..1.0).contains(&u));
            buckets[(u * 20.0) as usize] += 1;
        }
        let expected = n as f64 / 20.0;
        let chi2: f64 = buckets.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
        assert!(chi2 < 43.8, "19 degrees of freedom, p = 0.001: {chi2}");
        assert_ne!(uniform(7, 1), uniform(8, 1));
        assert_ne!(uniform(7, 1), uniform(7, 2));
    }
}
