//! Q3_K: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, `f16` scale; codes -4..=3.

use super::{Block, q2_k::two_bits, ramp};
use crate::float::f16_at;

pub(crate) struct Q3K;

impl Block for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const TABLE: Option<[i8; 16]> = Some(ramp(-4, 3));

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let (high, packed, d) = (&block[..32], &block[96..108], f16_at(block, 108));
        // Four low bits of scale j: nibble j/8 of byte j%8; two high bits: pair j/4 of byte 8 + j%4.
        for (j, scale) in scales.iter_mut().enumerate() {
            let q = packed[j % 8] >> (j / 8 * 4) & 15 | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
            *scale = d * f32::from(q as i8 - 32);
        }
        two_bits(&block[32..96], codes);
        for (bit, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, &high) in codes.iter_mut().zip(high) {
                *code += ((high >> bit & 1) << 2) as i8 - 4;
            }
        }
    }
}
