//! Q4_1: `f16` scale, `f16` offset (added), 16 bytes of nibbles; codes 0..=15.

use super::{Block, Range, nibbles};
use crate::float::f16_at;

pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 20;
    const CODES: Range = Range { low: 0, bits: 4 };
    const HAS_MIN: bool = true;
    const NIBBLES: Option<usize> = Some(4);

    fn head(block: &[u8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        [f16_at(block, 0), -f16_at(block, 2)]
    }

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        nibbles(&block[4..20], codes, |q| q as i8);
        Self::head(block, scales, mins)
    }
}
