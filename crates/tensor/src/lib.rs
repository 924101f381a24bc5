//! What data is: element types, block formats, storage.
//!
//! [`FORMATS`] is the table of number formats, one row each; a quantised format is one file under `quant/`.
//! A [`Tensor`] is a shape over bytes somebody else owns ([`Storage`]: a mapped file, memory or the binary itself).
//! Nothing here computes.
#![deny(unsafe_code)]

mod dtype;
mod float;
mod quant;
mod storage;
mod tensor;

pub use dtype::{Codes, DType, FORMATS, Format, Head, Unpack};
pub use float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
pub use storage::{Stamp, Storage};
pub use tensor::{ShapeError, Tensor};
