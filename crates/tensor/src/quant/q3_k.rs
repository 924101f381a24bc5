//! Q3_K: 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, `f16` scale; codes -4..=3.

use super::{Block, Range, q2_k::two_bits};
use crate::float::f16_at;

pub(crate) struct Q3K;

impl Block for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const CODES: Range = Range { low: -4, bits: 3 };
    const SCALES: bool = true;
    const GROUP: usize = 16;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        let (high, packed) = (&block[..32], &block[96..108]);
        // Four low bits of scale j: nibble j/8 of byte j%8; two high bits: pair j/4 of byte 8 + j%4.
        for (j, scale) in scales.iter_mut().enumerate() {
            let q = packed[j % 8] >> (j / 8 * 4) & 15 | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
            *scale = q as i8 - 32;
        }
        two_bits(&block[32..96], codes);
        for (bit, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, &high) in codes.iter_mut().zip(high) {
                *code += ((high >> bit & 1) << 2) as i8 - 4;
            }
        }
        [f16_at(block, 108), 0.0]
    }
}
