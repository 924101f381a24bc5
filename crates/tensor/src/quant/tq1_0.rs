//! TQ1_0: 48 bytes of five ternary digits, 4 bytes of four, `f16` scale; codes -1, 0, 1.
//!
//! A byte is its digits as a base-3 fraction, first digit most significant, scaled to 256.

use super::{Block, Range};
use crate::float::f16_at;

pub(crate) struct Tq1_0;

impl Block for Tq1_0 {
    const BLOCK: usize = 256;
    const BYTES: usize = 54;
    const CODES: Range = Range { low: -1, bits: 2 };

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        let (first, rest) = codes.split_at_mut(160);
        let (second, third) = rest.split_at_mut(80);
        for (packed, codes) in [(&block[..32], first), (&block[32..48], second), (&block[48..52], third)] {
            let mut power = 1u8;
            for codes in codes.chunks_exact_mut(packed.len()) {
                for (code, &byte) in codes.iter_mut().zip(packed) {
                    *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
                }
                power = power.wrapping_mul(3);
            }
        }
        [f16_at(block, 52), 0.0]
    }
}
