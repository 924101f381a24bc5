//! Names and sizes of the GGUF tensor types that Alula does not compute with, so that such files can still be listed.

use std::borrow::Cow;

use alula_tensor::DType;

/// `ggml_type`, name, elements in a block, bytes of a block; 0 where the layout is gone from the format.
const OTHERS: &[(u32, &str, usize, usize)] = &[
    (4, "Q4_2", 0, 0),
    (5, "Q4_3", 0, 0),
    (9, "Q8_1", 32, 36),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (31, "Q4_0_4_4", 0, 0),
    (32, "Q4_0_4_8", 0, 0),
    (33, "Q4_0_8_8", 0, 0),
    (36, "IQ4_NL_4_4", 0, 0),
    (37, "IQ4_NL_4_8", 0, 0),
    (38, "IQ4_NL_8_8", 0, 0),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

/// A tensor type of a file.
pub(super) struct Type {
    pub(super) dtype: Option<DType>,
    pub(super) name: Cow<'static, str>,
    /// Elements in a block and its bytes, where known.
    pub(super) block: Option<(usize, usize)>,
}

pub(super) fn of(id: u32) -> Type {
    if let Some(dtype) = DType::from_gguf(id) {
        let f = dtype.format();
        return Type { dtype: Some(dtype), name: f.name.into(), block: Some((f.block, f.bytes)) };
    }
    match OTHERS.iter().find(|row| row.0 == id) {
        Some(&(_, name, block, bytes)) => {
            Type { dtype: None, name: name.into(), block: (block > 0).then_some((block, bytes)) }
        }
        None => Type { dtype: None, name: format!("number {id}").into(), block: None },
    }
}
