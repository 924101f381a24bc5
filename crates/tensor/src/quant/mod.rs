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

/// One block format; see [`Codes`] for what the members mean.
pub(crate) trait Block {
    /// Elements in a block.
    const BLOCK: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Elements that share a scale.
    const GROUP: usize = Self::BLOCK;
    /// The values that codes take, where there are at most 16.
    const TABLE: Option<[i8; 16]> = None;
    /// Whether `mins` is written.
    const HAS_MIN: bool = false;
    /// Unpacks one block of exactly `BYTES` bytes.
    fn unpack(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]);
}

/// The row of a block format for the table.
pub(crate) const fn row<B: Block>(dtype: DType, name: &'static str, gguf_id: u32) -> Format {
    assert!(B::BLOCK <= MAX_BLOCK && B::BLOCK / B::GROUP <= MAX_GROUPS);
    Format {
        dtype,
        name,
        gguf_id,
        block: B::BLOCK,
        bytes: B::BYTES,
        decode: decode::<B>,
        codes: Some(Codes { group: B::GROUP, table: B::TABLE, has_min: B::HAS_MIN, unpack: unpack::<B> }),
    }
}

/// Cuts the slices to size once, so that the bodies need no bounds checks.
fn unpack<B: Block>(block: &[u8], codes: &mut [i8], scales: &mut [f32], mins: &mut [f32]) {
    let groups = B::BLOCK / B::GROUP;
    let mins = if B::HAS_MIN { &mut mins[..groups] } else { mins };
    B::unpack(&block[..B::BYTES], &mut codes[..B::BLOCK], &mut scales[..groups], mins);
}

fn decode<B: Block>(bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len() / B::BYTES, out.len() / B::BLOCK);
    let (mut codes, mut scales, mut mins) = ([0i8; MAX_BLOCK], [0f32; MAX_GROUPS], [0f32; MAX_GROUPS]);
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::BLOCK)) {
        unpack::<B>(block, &mut codes, &mut scales, &mut mins);
        let groups = out.chunks_exact_mut(B::GROUP).zip(codes.chunks_exact(B::GROUP));
        for ((out, codes), (&scale, &min)) in groups.zip(scales.iter().zip(&mins)) {
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

/// The table `from, from + 1, ..., to`, its last value repeated to fill it.
const fn ramp(from: i8, to: i8) -> [i8; 16] {
    let mut table = [to; 16];
    let mut i = 0;
    while from + i < to {
        table[i as usize] = from + i;
        i += 1;
    }
    table
}

/// Scale and minimum of group `j` (of 8) out of the twelve bytes of Q4_K and Q5_K, six bits each.
#[inline]
fn scale_min_6bit(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = match j {
        0..4 => (packed[j] & 63, packed[j + 4] & 63),
        _ => (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4),
    };
    (f32::from(scale), f32::from(min))
}
