//! Q5_0: `f16` scale, 32 fifth bits, 16 bytes of nibbles; codes -16..=15.

use super::{Block, Range, nibbles};
use crate::float::f16_at;

pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 22;
    const CODES: Range = Range { low: -16, bits: 5 };

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        five_bits(&block[2..6], &block[6..22], codes);
        codes.iter_mut().for_each(|q| *q -= 16);
        [f16_at(block, 0), 0.0]
    }
}

/// 32 codes 0..=31: nibbles with bit `i` of `high` as the fifth bit of code `i`.
#[inline]
pub(super) fn five_bits(high: &[u8], low: &[u8], codes: &mut [i8]) {
    nibbles(low, codes, |q| q as i8);
    for (codes, &high) in codes.as_chunks_mut::<8>().0.iter_mut().zip(high) {
        // Eight copies of the byte, of copy i bit i alone; adding 127 carries any bit into the top one, then down to 16.
        let spread = (u64::from(high) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
        let fifth = ((spread + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080) >> 3;
        for (code, bit) in codes.iter_mut().zip(fifth.to_le_bytes()) {
            *code |= bit as i8;
        }
    }
}
