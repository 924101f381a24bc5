//! Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles; codes 0..=31.

use super::{Block, Range, nibbles, scale_min_6bit};
use crate::float::f16_at;

pub(crate) struct Q5K;

impl Block for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const CODES: Range = Range { low: 0, bits: 5 };
    const SCALES: bool = true;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        for (j, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
            (*scale, *min) = scale_min_6bit(&block[4..16], j);
        }
        for (packed, codes) in block[48..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            nibbles(packed, codes, |q| q as i8);
        }
        // Bit j of byte i is the fifth bit of element i of group j.
        for (bit, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, &high) in codes.iter_mut().zip(&block[16..48]) {
                *code |= ((high >> bit & 1) << 4) as i8;
            }
        }
        [f16_at(block, 0), f16_at(block, 2)]
    }
}
