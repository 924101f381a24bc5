//! The number formats: what a tensor's bytes mean.

use crate::float;
use crate::quant::{self, row};

/// The element type of a tensor. The discriminant is the row of [`FORMATS`].
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// 4 bits, one scale for 32.
    Q4_0,
    /// 4 bits, scale and offset for 32.
    Q4_1,
    /// 5 bits, one scale for 32.
    Q5_0,
    /// 5 bits, scale and offset for 32.
    Q5_1,
    /// 8 bits, one scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scale and minimum for 16, in blocks of 256.
    Q2K,
    /// 3 bits, 6-bit scale for 16, in blocks of 256.
    Q3K,
    /// 4 bits, 6-bit scale and minimum for 32, in blocks of 256.
    Q4K,
    /// 5 bits, 6-bit scale and minimum for 32, in blocks of 256.
    Q5K,
    /// 6 bits, 8-bit scale for 16, in blocks of 256.
    Q6K,
    /// 4-bit index into 16 uneven values, one scale for 32.
    IQ4NL,
    /// The values of `IQ4NL`, 6-bit scale for 32, in blocks of 256.
    IQ4XS,
    /// Microscaling FP4 (E2M1), one power of two for 32.
    MXFP4,
    /// Ternary, five to a byte, one scale for 256.
    TQ1_0,
    /// Ternary, four to a byte, one scale for 256.
    TQ2_0,
}

/// One number format: a row of [`FORMATS`].
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// The type this row describes.
    pub dtype: DType,
    /// The name GGUF files and tools use, such as `Q4_K`.
    pub name: &'static str,
    /// `ggml_type` in a GGUF file.
    pub gguf_id: u32,
    /// Elements in a block.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Decodes whole blocks; equal to the bit to ggml's `dequantize_row_*`.
    ///
    /// `out` holds `block` elements for each `bytes` of input; what does not pair up is left alone.
    pub decode: fn(&[u8], &mut [f32]),
    /// The integer view that kernels use; `None` for F32, F16 and BF16.
    pub codes: Option<Codes>,
}

/// A block as small integers: `x[i] = (d * scale[i / group]) * code[i] - dmin * min[i / group]`, where `code[i]` is first
/// looked up in `table` if there is one.
///
/// Evaluated in `f32` in just that order it equals [`Format::decode`] to the bit.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// Elements that share a scale: 16, 32 or 256.
    pub group: usize,
    /// No code (looked up) is smaller than this,
    pub low: i8,
    /// nor larger than `low + 2^bits - 1`.
    pub bits: u32,
    /// `Some`: codes are indices into these values.
    pub table: Option<[i8; 16]>,
    /// Whether groups have scales (and minimums) of their own; else those are all 1.
    pub has_scales: bool,
    /// Whether the format has minimums.
    pub has_min: bool,
    /// The type that `d` and `dmin` are exact in: F16 or BF16.
    pub scale: DType,
    /// Unpacks exactly one block: `bytes` in, `block` codes, `block / group` scales and as many minimums out.
    /// Returns `d` and `dmin`. Minimums mean nothing unless `has_min`.
    ///
    /// # Panics
    /// If a slice is shorter than that.
    pub unpack: Unpack,
    /// Where codes begin in a block, if they are nothing but nibbles: of each 16 bytes, or of each 32 in a block of more than 32
    /// elements, first the low ones, then the high ones.
    pub nibbles: Option<usize>,
    /// What `unpack` does but for codes; scales and minimums are written if `has_scales`.
    ///
    /// # Panics
    /// If a slice is shorter than that.
    pub head: Head,
}

/// Block bytes to scales and minimums, and `[d, dmin]`; see [`Codes::head`].
pub type Head = fn(block: &[u8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2];

/// Block bytes to codes, scales and minimums, and `[d, dmin]`; see [`Codes::unpack`].
pub type Unpack = fn(block: &[u8], codes: &mut [i8], scales: &mut [i8], mins: &mut [i8]) -> [f32; 2];

/// Every format, in the order of [`DType`]. Sizes, groups and tables of the block formats stand in their files.
pub static FORMATS: &[Format] = &[
    plain(DType::F32, "F32", 0, 4, float::decode_f32),
    plain(DType::F16, "F16", 1, 2, float::decode_f16),
    plain(DType::BF16, "BF16", 30, 2, float::decode_bf16),
    row::<quant::q4_0::Q4_0>(DType::Q4_0, "Q4_0", 2),
    row::<quant::q4_1::Q4_1>(DType::Q4_1, "Q4_1", 3),
    row::<quant::q5_0::Q5_0>(DType::Q5_0, "Q5_0", 6),
    row::<quant::q5_1::Q5_1>(DType::Q5_1, "Q5_1", 7),
    row::<quant::q8_0::Q8_0>(DType::Q8_0, "Q8_0", 8),
    row::<quant::q2_k::Q2K>(DType::Q2K, "Q2_K", 10),
    row::<quant::q3_k::Q3K>(DType::Q3K, "Q3_K", 11),
    row::<quant::q4_k::Q4K>(DType::Q4K, "Q4_K", 12),
    row::<quant::q5_k::Q5K>(DType::Q5K, "Q5_K", 13),
    row::<quant::q6_k::Q6K>(DType::Q6K, "Q6_K", 14),
    row::<quant::iq4_nl::Iq4Nl>(DType::IQ4NL, "IQ4_NL", 20),
    row::<quant::iq4_xs::Iq4Xs>(DType::IQ4XS, "IQ4_XS", 23),
    row::<quant::mxfp4::Mxfp4>(DType::MXFP4, "MXFP4", 39),
    row::<quant::tq1_0::Tq1_0>(DType::TQ1_0, "TQ1_0", 34),
    row::<quant::tq2_0::Tq2_0>(DType::TQ2_0, "TQ2_0", 35),
];

const fn plain(dtype: DType, name: &'static str, gguf_id: u32, bytes: usize, decode: fn(&[u8], &mut [f32])) -> Format {
    Format { dtype, name, gguf_id, block: 1, bytes, decode, codes: None }
}

impl DType {
    /// This type's row of [`FORMATS`].
    #[inline]
    pub fn format(self) -> &'static Format {
        &FORMATS[self as usize]
    }

    /// The name as GGUF writes it, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.format().name
    }

    /// The type with this `ggml_type`, if it is one of [`FORMATS`].
    pub fn from_gguf(id: u32) -> Option<DType> {
        FORMATS.iter().find(|f| f.gguf_id == id).map(|f| f.dtype)
    }

    /// Bytes that `elements` take; `None` if they are not a whole number of blocks or the size overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let f = self.format();
        elements.is_multiple_of(f.block).then(|| (elements / f.block).checked_mul(f.bytes))?
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_enum() {
        for (i, f) in FORMATS.iter().enumerate() {
            assert_eq!(f.dtype as usize, i);
            assert_eq!(DType::from_gguf(f.gguf_id), Some(f.dtype));
            assert_eq!(f.dtype.bytes_for(f.block * 3), Some(f.bytes * 3));
            if let Some(codes) = f.codes {
                assert_eq!(f.block % codes.group, 0);
            }
        }
        assert_eq!(DType::from_gguf(16), None);
        assert_eq!(DType::Q4K.bytes_for(255), None);
        assert_eq!(DType::F32.bytes_for(usize::MAX / 2), None);
    }
}
