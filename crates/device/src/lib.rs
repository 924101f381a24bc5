//! Who runs a graph: the device interface and the CPU.
#![forbid(unsafe_code)]

mod batch;
pub use batch::{Batch, PAGE, Seq};
