//! Products of parts of a row, each with a matrix of its own (the heads of latent attention), and rows that are put together
//! of two, head by head.

use crate::buf::Shared;
use crate::matmul::alike;
use crate::quantize::{Spot, quantize_each};
use crate::{Ctx, Input, Packed, Product, QBlock, Source};
use std::sync::Arc;

/// Floats of the scratch that [`parts`] needs for `rows` rows.
pub fn parts_scratch(w: &[Arc<Packed>], rows: usize) -> usize {
    if w[0].quantized() { 0 } else { rows.saturating_mul(w.len().saturating_mul(w[0].cols())) }
}

/// `x`: `[rows, parts, k]`, `w`: `[n, k]` for each part, `out`: `[rows, parts, n]`.
///
/// # Panics
/// If the lengths do not fit, or a scratch is too short.
pub fn parts(ctx: Ctx<'_>, w: &[Arc<Packed>], x: &[f32], scratch: &mut [f32], blocks: &mut [QBlock], out: &mut [f32]) {
    let (count, k, n) = (w.len(), w[0].cols(), w[0].rows());
    let rows = x.len() / (count * k);
    assert!(x.len() == rows * count * k && out.len() == rows * count * n);
    let quantized = w[0].quantized();
    if quantized {
        let spot = |i: usize| Spot { from: i % rows * count + i / rows, first: i / rows * rows, row: i % rows, rows };
        let all = rows * count;
        quantize_each(ctx, Source::Plain(x), all, (all, k), spot, &mut blocks[..QBlock::count(all, k)]);
    } else {
        for (i, to) in scratch[..x.len()].chunks_exact_mut(k).enumerate() {
            to.copy_from_slice(&x[(i % rows * count + i / rows) * k..][..k]);
        }
    }
    let (scratch, blocks, shared) = (&*scratch, &*blocks, Shared::new(out));
    alike(ctx, count, rows * count, |part| {
        let x = if quantized {
            Input::Q8(&blocks[QBlock::count(part * rows, k)..][..QBlock::count(rows, k)])
        } else {
            Input::F32(&scratch[part * rows * k..][..rows * k])
        };
        let len = (rows * count - part) * n;
        Product::apart(x, &w[part], rows, shared.slice(part * n, len), count * n)
    });
}

/// The columns of `a` and `b` in turn, for each of `heads` heads of `rows` rows.
///
/// # Panics
/// If the lengths do not fit.
pub fn concat(heads: usize, rows: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(out.len() == a.len() + b.len());
    let (a_cols, b_cols) = (a.len() / (rows * heads).max(1), b.len() / (rows * heads).max(1));
    assert!(a.len() == rows * heads * a_cols && b.len() == rows * heads * b_cols && a_cols > 0 && b_cols > 0);
    let heads = a.chunks_exact(a_cols).zip(b.chunks_exact(b_cols));
    for (out, (a, b)) in out.chunks_exact_mut(a_cols + b_cols).zip(heads) {
        out[..a_cols].copy_from_slice(a);
        out[a_cols..].copy_from_slice(b);
    }
}
