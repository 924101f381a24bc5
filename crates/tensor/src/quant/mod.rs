//! Block formats: a run of elements that shares scales, packed into a fixed number of bytes.
//!
//! A format is one file that says how a block unpacks into [`Codes`]; decoding to `f32` follows from it.
//! Layouts and values are ggml's (`ggml-common.h`, `ggml-quants.c`). All numbers are little-endian.

use crate::dtype::{Codes, DType, Format};

pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod mxfp4;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;

/// The most elements and the most scales that any block has.
const MAX_BLOCK: usize = 256;
const MAX_GROUPS: usize = 16;

/// The codes that a format has: from `low`, `2^bits` of them at most.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) low: i8,
    pub(crate) bits: u32,
}

/// One block format; see [`Codes`] for what the members mean.
pub(crate) trait Block {
    /// Elements in a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements that share a scale.
    const GROUP: usize = Self::BLOCK;
    /// The codes, looked up.
    const CODES: Range;
    /// What codes that `unpack` gives are indices into, where values are not all of a range.
    const TABLE: Option<[i8; 16]> = None;
    /// Whether `scales` is written; else they are 1.
    const SCALES: bool = false;
    /// Whether there are minimums. They are written if scales are; else they are 1.
    const HAS_MIN: bool = false;
    /// The type of the numbers that `unpack` returns.
    const SCALE: DType = DType::F16;
    /// Where codes begin, if they are nibbles as [`nibbles`] reads them, of 16 bytes or of 32 at a time.
    const NIBBLES: Option<usize> = None;
    /// The scales of one block of exactly `BYTES` bytes, as `unpack` gives them; of use where there are `NIBBLES`.
    fn head(block: &[u8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
        Self::unpack(block, &mut [0; MAX_BLOCK][..Self::BLOCK], scales, mins)
    }
    /// Unpacks one block of exactly `BYTES` bytes. Returns the scale of scales and that of minimums.
    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2];
}

/// The row of a block format for the table.
pub(crate) const fn row<B: Block>(dtype: DType, name: &'static str, gguf_id: u32) -> Format {
    assert!(B::BLOCK <= MAX_BLOCK && B::BLOCK / B::GROUP <= MAX_GROUPS);
    let codes = Codes {
        group: B::GROUP,
        low: B::CODES.low,
        bits: B::CODES.bits,
        table: B::TABLE,
        has_scales: B::SCALES,
        has_min: B::HAS_MIN,
        scale: B::SCALE,
        unpack: unpack::<B>,
        nibbles: B::NIBBLES,
        head: head::<B>,
    };
    Format { dtype, name, gguf_id, block: B::BLOCK, bytes: B::BYTES, decode: decode::<B>, codes: Some(codes) }
}

/// Cuts the slices to size once, so that the bodies need no bounds checks.
fn unpack<B: Block>(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
    let groups = B::BLOCK / B::GROUP;
    let (scales, mins) = (&mut scales[..groups], &mut mins[..groups]);
    if !B::SCALES {
        scales.fill(1);
        mins.fill(1);
    }
    B::unpack(&block[..B::BYTES], &mut codes[..B::BLOCK], scales, mins)
}

/// The same for scales alone.
fn head<B: Block>(block: &[u8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2] {
    let groups = B::BLOCK / B::GROUP;
    B::head(&block[..B::BYTES], &mut scales[..groups], &mut mins[..groups])
}

fn decode<B: Block>(bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len() / B::BYTES, out.len() / B::BLOCK);
    let (mut codes, mut scales, mut mins) = ([0i8; MAX_BLOCK], [0i8; MAX_GROUPS], [0i8; MAX_GROUPS]);
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::BLOCK)) {
        let [d, dmin] = unpack::<B>(block, &mut codes, &mut scales, &mut mins);
        if let Some(table) = B::TABLE {
            codes[..B::BLOCK].iter_mut().for_each(|code| *code = table[usize::from(*code as u8 & 15)]);
        }
        let groups = out.chunks_exact_mut(B::GROUP).zip(codes.chunks_exact(B::GROUP));
        for ((out, codes), (&scale, &min)) in groups.zip(scales.iter().zip(&mins)) {
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            for (out, &code) in out.iter_mut().zip(codes) {
                let product = scale * f32::from(code);
                *out = if B::HAS_MIN { product - min } else { product };
            }
        }
    }
}

/// Low nibbles to the first half of `codes`, high nibbles to the second, each mapped by `code`.
#[inline]
fn nibbles(packed: &[u8], codes: &mut [i8], code: impl Fn(u8) -> i8) {
    let (low, high) = codes.split_at_mut(packed.len());
    for ((&byte, low), high) in packed.iter().zip(low).zip(high) {
        *low = code(byte & 15);
        *high = code(byte >> 4);
    }
}

/// Scale and minimum of group `j` (of 8) out of the twelve bytes of Q4_K and Q5_K, six bits each.
#[inline]
fn scale_min_6bit(packed: &[u8], j: usize) -> (i8, i8) {
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    (scale as i8, min as i8)
}
