//! Q2_K: 16 bytes of 4-bit scale and minimum, 64 bytes of 2-bit codes, `f16` scale of scales, `f16` scale of minimums.

use super::{Block, Range};
use crate::float::f16_at;

pub(crate) struct Q2K;

impl Block for Q2K {
    const BLOCK: usize = 256;
    const BYTES: usize = 84;
    const CODES: Range = Range { low: 0, bits: 2 };
    const SCALES: bool = true;
    const GROUP: usize = 16;
    const HAS_MIN: bool = true;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        for ((scale, min), &packed) in scales.iter_mut().zip(mins).zip(&block[..16]) {
            *scale = (packed & 15) as i8;
            *min = (packed >> 4) as i8;
        }
        two_bits(&block[16..80], codes);
        [f16_at(block, 80), f16_at(block, 82)]
    }
}

/// 256 codes 0..=3 out of 64 bytes: each 32 bytes hold four runs of 32, lowest bits first.
#[inline]
pub(super) fn two_bits(packed: &[u8], codes: &mut [i8]) {
    for (packed, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, &byte) in codes.iter_mut().zip(packed) {
                *code = (byte >> (2 * run) & 3) as i8;
            }
        }
    }
}
