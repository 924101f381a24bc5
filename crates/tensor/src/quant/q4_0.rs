//! Q4_0: `f16` scale, 16 bytes of nibbles; codes -8..=7.

use super::{Block, Range, nibbles};
use crate::float::f16_at;

pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const CODES: Range = Range { low: -8, bits: 4 };
    const NIBBLES: Option<usize> = Some(2);

    fn head(block: &[u8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        [f16_at(block, 0), 0.0]
    }

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        nibbles(&block[2..18], codes, |q| q as i8 - 8);
        Self::head(block, scales, mins)
    }
}
