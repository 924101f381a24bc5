//! TQ2_0: 64 bytes of 2-bit codes, `f16` scale; codes -1, 0, 1 (and 2, which no encoder writes).

use super::{Block, Range, q2_k::two_bits};
use crate::float::f16_at;

pub(crate) struct Tq2_0;

impl Block for Tq2_0 {
    const BLOCK: usize = 256;
    const BYTES: usize = 66;
    const CODES: Range = Range { low: -1, bits: 2 };

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        two_bits(&block[..64], codes);
        codes.iter_mut().for_each(|q| *q -= 1);
        [f16_at(block, 64), 0.0]
    }
}
