//! Q5_0: `f16` scale, 32 fifth bits, 16 bytes of nibbles; codes -16..=15.

use super::{Block, nibbles};
use crate::float::f16_at;

pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 22;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16_at(block, 0);
        five_bits(&block[2..6], &block[6..22], codes);
        codes.iter_mut().for_each(|q| *q -= 16);
    }
}

/// 32 codes 0..=31: nibbles with bit `i` of `high` as the fifth bit of code `i`.
#[inline]
pub(super) fn five_bits(high: &[u8], low: &[u8], codes: &mut [i8]) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(low, codes, |q| q as i8);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high >> i & 1) as i8) << 4;
    }
}
