//! Products of float weights with float activations: a tile of panels by rows. One fused multiply-add per input,
//! inputs in ascending order.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::dots::AHEAD;
use alula_simd::{Isa, LANES};
use std::mem::MaybeUninit;

/// A float type of weights.
pub(crate) trait Float {
    /// An element's bits.
    type Bits: Copy;
    /// 16 of them.
    fn load<I: Isa>(isa: I, p: &[Self::Bits; LANES]) -> I::F;
}
pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct BF16;
impl Float for F32 {
    type Bits = f32;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[f32; LANES]) -> I::F {
        isa.load(p)
    }
}
impl Float for F16 {
    type Bits = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[u16; LANES]) -> I::F {
        isa.load_f16(p)
    }
}
impl Float for BF16 {
    type Bits = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[u16; LANES]) -> I::F {
        isa.load_bf16(p)
    }
}

/// Adds `n` inputs of `P` panels to the sums of `T` rows; `FAR` says that the panels come from memory.
///
/// # Safety
/// Each of `w` points to `n` × 16 elements; each of `x` to `n` elements.
#[inline(always)]
pub(crate) unsafe fn tile<I: Isa, W: Float, const P: usize, const T: usize, const FAR: bool>(
    isa: I,
    w: [*const [W::Bits; LANES]; P],
    x: [*const f32; T],
    n: usize,
    acc: &mut [[I::F; T]; P],
) {
    // Four inputs at a time, so that the rows' addresses are computed once for them.
    const STEP: usize = 4;
    let mut k = 0;
    while k + STEP <= n {
        if FAR {
            for p in 0..P {
                for line in 0..size_of::<[[W::Bits; LANES]; STEP]>() / 64 {
                    isa.prefetch(w[p].wrapping_add(k).cast::<u8>().wrapping_add(AHEAD + line * 64));
                }
            }
        }
        for j in 0..STEP {
            // SAFETY: within the panels and the rows.
            unsafe { step::<I, W, P, T>(isa, w, x, k, j, acc) }
        }
        k += STEP;
    }
    while k < n {
        // SAFETY: within the panels and the rows.
        unsafe { step::<I, W, P, T>(isa, w, x, k, 0, acc) }
        k += 1;
    }
}

/// Adds input `k + j`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn step<I: Isa, W: Float, const P: usize, const T: usize>(
    isa: I,
    w: [*const [W::Bits; LANES]; P],
    x: [*const f32; T],
    k: usize,
    j: usize,
    acc: &mut [[I::F; T]; P],
) {
    // SAFETY: by the contract.
    unsafe {
        let mut v = [isa.splat(0.0); P];
        for p in 0..P {
            v[p] = W::load(isa, &*w[p].add(k).add(j));
        }
        for t in 0..T {
            let x = isa.splat(*x[t].add(k).add(j));
            for p in 0..P {
                acc[p][t] = isa.fma(v[p], x, acc[p][t]);
            }
        }
    }
}

/// Inputs that are expanded at a time: enough that sums seldom rest in memory, few enough for the second-level cache.
pub(crate) const CHUNK: usize = 2048;

/// A chunk of a panel in single precision.
#[repr(C, align(64))]
pub(crate) struct Expanded([[f32; LANES]; CHUNK]);

impl Expanded {
    /// Its first line.
    pub(crate) fn lines(this: &MaybeUninit<Expanded>) -> *const [f32; LANES] {
        this.as_ptr().cast()
    }
}

/// Expands `n` inputs of a panel.
///
/// # Safety
/// `w` points to `n` × 16 elements; `n` <= [`CHUNK`].
#[inline(always)]
pub(crate) unsafe fn expand<I: Isa, W: Float>(
    isa: I,
    w: *const [W::Bits; LANES],
    n: usize,
    out: &mut MaybeUninit<Expanded>,
) {
    let out: *mut [f32; LANES] = out.as_mut_ptr().cast();
    for k in 0..n {
        // SAFETY: by the contract.
        unsafe { isa.store(W::load(isa, &*w.add(k)), &mut *out.add(k)) }
    }
}
