//! MXFP4: a power-of-two scale (E8M0), 16 bytes of E2M1 floats; codes are their doubles, so the scale is halved.
//! Source: OCP Microscaling Formats (MX) 1.0. The NaN scale 255 reads as 2^127, as ggml reads it.

use super::{Block, Range, nibbles};
use crate::DType;

pub(crate) struct Mxfp4;

const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Block for Mxfp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const CODES: Range = Range { low: -12, bits: 8 };
    const TABLE: Option<[i8; 16]> = Some(VALUES);
    const SCALE: DType = DType::BF16;

    fn unpack(block: &[u8], codes: &mut [i8], _: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        // 2^(e - 128); below e = 2 the result is subnormal.
        let d = f32::from_bits(match block[0] {
            e @ 0..2 => 0x0020_0000 << e,
            e => u32::from(e - 1) << 23,
        });
        nibbles(&block[1..17], codes, |q| q as i8);
        [d, 0.0]
    }
}
