//! Q4_K: `f16` scale of scales, `f16` scale of minimums, 12 bytes of 6-bit scales and minimums, 128 bytes of nibbles.

use super::{Block, Range, nibbles, scale_min_6bit};
use crate::float::f16_at;

pub(crate) struct Q4K;

impl Block for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const CODES: Range = Range { low: 0, bits: 4 };
    const SCALES: bool = true;
    const GROUP: usize = 32;
    const HAS_MIN: bool = true;
    const NIBBLES: Option<usize> = Some(16);

    fn head(block: &[u8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        for (j, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
            (*scale, *min) = scale_min_6bit(&block[4..16], j);
        }
        [f16_at(block, 0), f16_at(block, 2)]
    }

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        for (packed, codes) in block[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            nibbles(packed, codes, |q| q as i8);
        }
        Self::head(block, scales, mins)
    }
}
