//! AVX512_BF16: products of pairs of bfloat16 by vectors.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::{Avx512Vnni, Isa, Kernel};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Dot products of bfloat16 beside AVX-512 with VNNI, where they are faster than multiply-adds of floats.
#[derive(Clone, Copy, Debug)]
pub struct Dots(Avx512Vnni);

/// Rows whose sums are in registers, for two panels.
const ROWS: usize = 8;

impl Dots {
    /// The token, if the machine has the instruction and it pays: AMD's (Zen 4 on) does twice the work of a multiply-add
    /// in its time, Intel's half as much.
    pub fn detect() -> Option<Self> {
        let name = __cpuid(0);
        let amd = [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes).concat() == *b"AuthenticAMD";
        if amd && is_x86_feature_detected!("avx512bf16") { Avx512Vnni::detect().map(Dots) } else { None }
    }

    /// Runs a kernel at the level of the other vectors.
    pub fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.enter(kernel)
    }

    /// Products in registers, `turns` times 16. Returns the operations, two per product.
    pub fn work(self, turns: u64) -> u64 {
        // SAFETY: the machine has the instruction, as the token says.
        unsafe { work(turns) }
    }

    /// Adds `depth` tiles of products to four tiles of sums, as [`Tiles::add_bf16`](crate::Tiles::add_bf16), but for the
    /// order of the sum: pairs of inputs one after the other, the second of a pair first.
    ///
    /// # Safety
    /// `x` and `w` point to `depth` tiles each.
    #[inline(always)]
    pub unsafe fn add(self, x: [*const u8; 2], w: [*const u8; 2], depth: usize, sums: &mut [[[f32; 16]; 16]; 4]) {
        for r in 0..2 {
            for first in [0, ROWS] {
                // SAFETY: by the contract; the machine has the instruction, as the token says.
                unsafe { add(x[r].add(first * 64), w, depth, sums, r, first) }
            }
        }
    }
}

/// Adds the products of [`ROWS`] rows of tile `r` from row `first` on, which `x` points to.
///
/// # Safety
/// As [`Dots::add`]; the machine has the instruction.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add(x: *const u8, w: [*const u8; 2], depth: usize, sums: &mut [[[f32; 16]; 16]; 4], r: usize, first: usize) {
    let mut acc = [[_mm512_setzero_ps(); 2]; ROWS];
    for i in 0..ROWS {
        for c in 0..2 {
            // SAFETY: a row of sums is a vector.
            acc[i][c] = unsafe { _mm512_loadu_ps(sums[2 * r + c][first + i].as_ptr()) };
        }
    }
    for tile in 0..depth {
        for pair in 0..16 {
            // SAFETY: in tile `tile`: line `pair` of the weights', the rows' pair `pair`.
            unsafe {
                let at = tile * 1024 + pair * 64;
                let w = [_mm512_loadu_si512(w[0].add(at).cast()), _mm512_loadu_si512(w[1].add(at).cast())];
                for i in 0..ROWS {
                    let x = x.add(tile * 1024 + i * 64 + pair * 4).cast::<i32>().read_unaligned();
                    let x = bf16(_mm512_set1_epi32(x));
                    for c in 0..2 {
                        acc[i][c] = _mm512_dpbf16_ps(acc[i][c], x, bf16(w[c]));
                    }
                }
            }
        }
    }
    for i in 0..ROWS {
        for c in 0..2 {
            // SAFETY: a row of sums is a vector.
            unsafe { _mm512_storeu_ps(sums[2 * r + c][first + i].as_mut_ptr(), acc[i][c]) }
        }
    }
}

/// # Safety
/// The machine has the instruction.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn work(turns: u64) -> u64 {
    let (x, w) = (bf16(_mm512_set1_epi32(black_box(0x3f80_3f80))), bf16(_mm512_set1_epi32(black_box(0x3c00_3c00))));
    let mut acc = [_mm512_setzero_ps(); 16];
    for i in 0..16 {
        acc[i] = _mm512_set1_ps(black_box(i as f32));
    }
    for _ in 0..turns {
        for v in &mut acc {
            *v = _mm512_dpbf16_ps(*v, x, w);
        }
    }
    for v in acc {
        black_box(_mm512_cvtss_f32(v));
    }
    turns * 16 * 32 * 2
}

/// The same bits as pairs of bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(v: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bits are numbers.
    unsafe { std::mem::transmute(v) }
}
