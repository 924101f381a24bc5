//! Q4_K: `f16` scale of scales, `f16` scale of minimums, 12 bytes of 6-bit scales and minimums, 128 bytes of nibbles.

use super::{Block, nibbles, ramp, scale_min_6bit};
use crate::float::f16_at;

pub(crate) struct Q4K;

impl Block for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const TABLE: Option<[i8; 16]> = Some(ramp(0, 15));
    const HAS_MIN: bool = true;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        for (j, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
            let (s, m) = scale_min_6bit(&block[4..16], j);
            (*scale, *min) = (d * s, dmin * m);
        }
        for (packed, codes) in block[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
            nibbles(packed, codes, |q| q as i8);
        }
    }
}
