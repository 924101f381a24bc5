//! IQ4_XS: `f16` scale, 8 high bit pairs and 8 low nibbles of scales, 128 bytes of indices.

use super::{Block, Range, iq4_nl::VALUES, nibbles};
use crate::float::f16_at;

pub(crate) struct Iq4Xs;

impl Block for Iq4Xs {
    const BLOCK: usize = 256;
    const BYTES: usize = 136;
    const SCALES: bool = true;
    const GROUP: usize = 32;
    const CODES: Range = Range { low: -127, bits: 8 };
    const TABLE: Option<[i8; 16]> = Some(VALUES);

    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], _: &mut [i8]) -> [f32; 2] {
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (j, scale) in scales.iter_mut().enumerate() {
            let q = block[4 + j / 2] >> (j % 2 * 4) & 15 | ((high >> (2 * j) & 3) as u8) << 4;
            *scale = q as i8 - 32;
        }
        for (packed, codes) in block[8..].chunks_exact(16).zip(codes.chunks_exact_mut(32)) {
            nibbles(packed, codes, |q| q as i8);
        }
        [f16_at(block, 0), 0.0]
    }
}
