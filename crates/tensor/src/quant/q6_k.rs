//! Q6_K: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed 8-bit scales, `f16` scale; codes -32..=31.

use super::{Block, nibbles, q2_k::two_bits};
use crate::float::f16_at;

pub(crate) struct Q6K;

impl Block for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16_at(block, 208);
        for (scale, &packed) in scales.iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(packed as i8);
        }
        let mut low = [0i8; 256];
        for (packed, low) in block[..128].chunks_exact(64).zip(low.chunks_exact_mut(128)) {
            nibbles(packed, low, |q| q as i8);
        }
        two_bits(&block[128..192], codes);
        for (code, low) in codes.iter_mut().zip(low) {
            *code = (*code << 4 | low) - 32;
        }
    }
}
