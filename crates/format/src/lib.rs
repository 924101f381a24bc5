//! Files to tensors and metadata: GGUF, safetensors, Hugging Face folders.
//!
//! Files are mapped, never copied: a [`Tensor`](alula_tensor::Tensor) is a view of the file's pages. Every reader takes hostile input:
//! sizes are checked before anything is allocated, and whatever is wrong comes back as an [`Error`] that names file,
//! field and byte and says what to do.
#![forbid(unsafe_code)]

mod catalog;
mod error;
mod json;

pub mod gguf;
pub mod hf;
pub mod safetensors;

pub use catalog::TensorInfo;
pub use error::{Error, ErrorKind, clip_to};
