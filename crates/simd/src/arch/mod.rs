//! One file per instruction set.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "x86_64"))]
mod no_amx;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_amx;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;
#[cfg(target_arch = "x86_64")]
mod x86_bf16;

#[cfg(target_arch = "aarch64")]
pub use neon::{DotProd, I8mm, Neon};
pub use scalar::{Scalar, f32_to_bf16, f32_to_f16};
#[cfg(target_arch = "x86_64")]
pub use x86_avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub use x86_avx512::{Avx512, Avx512Vnni};

#[cfg(not(target_arch = "x86_64"))]
pub use no_amx::{Amx, Dots, Tiles};
#[cfg(target_arch = "x86_64")]
pub use x86_amx::{Amx, Tiles};
#[cfg(target_arch = "x86_64")]
pub use x86_bf16::Dots;
