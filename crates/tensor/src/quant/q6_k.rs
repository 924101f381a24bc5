//! Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed 8-bit scales, `f16` scale; codes -32..=31.

use super::{Block, Range, nibbles, q2_k::two_bits};
use crate::float::f16_at;

pub(crate) struct Q6K;

impl Block for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const CODES: Range = Range { low: -32, bits: 6 };
    const SCALES: bool = true;
    const GROUP: usize = 16;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        for (scale, &packed) in scales.iter_mut().zip(&block[192..208]) {
            *scale = packed as i8;
        }
        let mut low = [0i8; 256];
        for (packed, low) in block[..128].chunks_exact(64).zip(low.chunks_exact_mut(128)) {
            nibbles(packed, low, |q| q as i8);
        }
        two_bits(&block[128..192], codes);
        for (code, low) in codes.iter_mut().zip(&low) {
            *code = (*code << 4 | low) - 32;
        }
        [f16_at(block, 208), 0.0]
    }
}
