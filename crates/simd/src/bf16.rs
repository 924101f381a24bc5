//! The units that multiply bfloat16, each of which rounds in its own way.
#![allow(unsafe_code)]

use crate::{Amx, Dots, Kernel, Tiles};

/// A unit for products of bfloat16.
#[derive(Clone, Copy, Debug)]
pub enum Bf16 {
    /// AMX.
    Tiles(Amx),
    /// AVX512_BF16.
    Dots(Dots),
}

impl Bf16 {
    /// Whether it is the fastest for weights of this kind: some are slower than products of bytes.
    pub fn pays(self, quantized: bool) -> bool {
        !quantized || matches!(self, Bf16::Tiles(_))
    }

    /// Runs a kernel at the level of the vectors beside it.
    pub fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Bf16::Tiles(amx) => amx.enter(kernel),
            Bf16::Dots(dots) => dots.enter(kernel),
        }
    }

    /// Makes it ready on this thread.
    pub fn begin(self) -> Bf16Sums {
        match self {
            Bf16::Tiles(amx) => Bf16Sums::Tiles(amx.configure(64)),
            Bf16::Dots(dots) => Bf16Sums::Dots(dots),
        }
    }

    /// Products in registers, the same number every turn. Returns the operations, two per product.
    pub fn work(self, turns: u64) -> u64 {
        match self {
            Bf16::Tiles(amx) => amx.work(true, turns),
            Bf16::Dots(dots) => dots.work(turns),
        }
    }
}

/// A unit that is ready on this thread, until it is dropped.
pub enum Bf16Sums {
    /// AMX, with tiles of 64 bytes a row.
    Tiles(Tiles),
    /// AVX512_BF16.
    Dots(Dots),
}

impl Bf16Sums {
    /// Adds `depth` tiles of products to four tiles of sums: see [`Tiles::add_bf16`] and [`Dots::add`].
    ///
    /// # Safety
    /// No other tiles were configured on this thread since. `depth` is not 0, and `x` and `w` point to as many tiles each.
    #[inline(always)]
    pub unsafe fn add(&self, x: [*const u8; 2], w: [*const u8; 2], depth: usize, sums: &mut [[[f32; 16]; 16]; 4]) {
        // SAFETY: by the contract.
        unsafe {
            match self {
                Bf16Sums::Tiles(tiles) => tiles.add_bf16(x, w, depth, sums),
                Bf16Sums::Dots(dots) => dots.add(x, w, depth, sums),
            }
        }
    }
}
