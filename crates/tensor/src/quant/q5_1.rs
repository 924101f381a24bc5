//! Q5_1: `f16` scale, `f16` offset (added), 32 fifth bits, 16 bytes of nibbles; codes 0..=31.

use super::{Block, Range, q5_0::five_bits};
use crate::float::f16_at;

pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 24;
    const CODES: Range = Range { low: 0, bits: 5 };
    const HAS_MIN: bool = true;

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        five_bits(&block[4..8], &block[8..24], codes);
        [f16_at(block, 0), -f16_at(block, 2)]
    }
}
