//! Q8_0: `f16` scale, 32 signed bytes.

use super::{Block, Range};
use crate::float::f16_at;

pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;
    const CODES: Range = Range { low: -128, bits: 8 };

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        for (code, &byte) in codes.iter_mut().zip(&block[2..34]) {
            *code = byte as i8;
        }
        [f16_at(block, 0), 0.0]
    }
}
