//! SIMD made safe: instruction-set tokens, detection and dispatch.
//!
//! Every instruction set is seen as the same machine: vectors of [`LANES`] = 16 numbers. A kernel is written once,
//! generic over [`Isa`], and gives the same bits on each of them, because each operation here is either exact,
//! correctly rounded, or defined to the bit by its documentation.
//!
//! Holding a token (`Avx2`, `Avx512`, …) is the proof that the machine has the instructions: tokens come only from
//! `detect`. [`Cpu`] is the value made once at start and passed along; [`Cpu::run`] enters a kernel at its level.
#![warn(unsafe_code)]

mod arch;
mod bf16;
mod cpu;
mod isa;
pub mod math;

pub use arch::{Amx, Dots, Scalar, Tiles, f32_to_bf16, f32_to_f16};
#[cfg(target_arch = "x86_64")]
pub use arch::{Avx2, Avx512, Avx512Vnni, AvxVnni};
#[cfg(target_arch = "aarch64")]
pub use arch::{DotProd, I8mm, Neon};
pub use bf16::{Bf16, Bf16Sums};
pub use cpu::{Cpu, IsaError, Level};
pub use isa::{Isa, Kernel, LANES};
