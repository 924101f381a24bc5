//! Q4_1: `f16` scale, `f16` offset (added), 16 bytes of nibbles; codes 0..=15.

use super::{Block, nibbles, ramp};
use crate::float::f16_at;

pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const BLOCK: usize = 32;
    const BYTES: usize = 20;
    const TABLE: Option<[i8; 16]> = Some(ramp(0, 15));
    const HAS_MIN: bool = true;

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
        scales[0] = f16_at(block, 0);
        mins[0] = -f16_at(block, 2);
        nibbles(&block[4..20], codes, |q| q as i8);
    }
}
