//! Q4_0: `f16` scale, 16 bytes of nibbles; codes -8..=7.

use super::{Block, nibbles, ramp};
use crate::float::f16_at;

pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const TABLE: Option<[i8; 16]> = Some(ramp(-8, 7));

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16_at(block, 0);
        nibbles(&block[2..18], codes, |q| q as i8 - 8);
    }
}
