//! Products of low rank that some rows get beside others: `out += scale · B (A x)` (LoRA, arXiv:2106.09685).
//!
//! Both products are those of `float.rs`; their results are added with one fused multiply-add an element. Rows that have
//! no such product are not touched.

use crate::buf::Shared;
use crate::{Ctx, Input, Packed, WORTH_SPLITTING, load_part, matmul, store_part};
use alula_simd::{Isa, Kernel, LANES};
use std::ops::Range;

/// `scale · B (A x)`, or `scale · B x` where what A makes is given. The matrices are of floats.
#[derive(Clone, Copy)]
pub struct Low<'a> {
    /// `[r, k]`.
    pub a: Option<&'a Packed>,
    /// `[n, r]`.
    pub b: &'a Packed,
    /// A factor beside those of the runs.
    pub scale: f32,
}

impl Low<'_> {
    /// Floats of the scratch that [`lora`] needs for `rows` rows.
    pub fn scratch(&self, rows: usize) -> usize {
        rows.saturating_mul(self.b.cols().saturating_add(self.b.rows()))
    }
}

/// Adds the products of runs of rows, each with its factor. Runs do not overlap.
///
/// `x`: `[rows, k]`, `out`: `[rows, n]`.
///
/// # Panics
/// If the lengths do not fit, a run is past the rows, or the scratch is too short.
pub fn lora(ctx: Ctx<'_>, w: Low<'_>, runs: &[(Range<usize>, f32)], x: &[f32], scratch: &mut [f32], out: &mut [f32]) {
    let (n, r) = (w.b.rows(), w.b.cols());
    let k = w.a.map_or(r, Packed::cols);
    assert!(x.len() / k == out.len() / n && w.a.is_none_or(|a| a.rows() == r));
    for (rows, scale) in runs {
        let x = &x[rows.start * k..rows.end * k];
        let (low, rest) = scratch.split_at_mut(rows.len() * r);
        let made = &mut rest[..rows.len() * n];
        let low = match w.a {
            Some(a) => {
                matmul(ctx, Input::F32(x), a, None, low);
                &*low
            }
            None => x,
        };
        matmul(ctx, Input::F32(low), w.b, None, made);
        let shared = Shared::new(&mut out[rows.start * n..rows.end * n]);
        ctx.pool.run(rows.len(), made.len() > WORTH_SPLITTING, |row, _| {
            // SAFETY: one task a row; rows are disjoint.
            #[allow(unsafe_code)]
            let out = unsafe { shared.part(row * n, n) };
            ctx.cpu.run(Add { made: &made[row * n..][..n], scale: scale * w.scale, out });
        });
    }
}

/// A row's sum.
struct Add<'a> {
    made: &'a [f32],
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let scale = isa.splat(self.scale);
        for (made, out) in self.made.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            let sum = isa.fma(load_part(isa, made), scale, load_part(isa, out));
            store_part(isa, sum, out);
        }
    }
}
