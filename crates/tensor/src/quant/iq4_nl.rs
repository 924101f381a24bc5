//! IQ4_NL: `f16` scale, 16 bytes of indices into 16 uneven values.

use super::{Block, Range, nibbles};
use crate::float::f16_at;

pub(crate) struct Iq4Nl;

/// The values of IQ4_NL and IQ4_XS.
pub(super) const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Block for Iq4Nl {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const CODES: Range = Range { low: -127, bits: 8 };
    const TABLE: Option<[i8; 16]> = Some(VALUES);
    const NIBBLES: Option<usize> = Some(2);

    fn head(block: &[u8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        [f16_at(block, 0), 0.0]
    }

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        nibbles(&block[2..18], codes, |q| q as i8);
        Self::head(block, scales, mins)
    }
}
