//! TQ2_0: 64 bytes of 2-bit codes, `f16` scale; codes -1, 0, 1 (and 2, which no encoder writes).

use super::{Block, q2_k::two_bits, ramp};
use crate::float::f16_at;

pub(crate) struct Tq2_0;

impl Block for Tq2_0 {
    const BLOCK: usize = 256;
    const BYTES: usize = 66;
    const TABLE: Option<[i8; 16]> = Some(ramp(-1, 2));

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16_at(block, 64);
        two_bits(&block[..64], codes);
        codes.iter_mut().for_each(|q| *q -= 1);
    }
}
