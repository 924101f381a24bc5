//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
//!
//! Angles are single-precision products of the position and the inverse frequency, as in Hugging Face transformers,
//! so that long contexts agree with it; their sine and cosine are taken in double precision.

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING};

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// (i, i + dims/2): GPT-NeoX, and Hugging Face's Llama.
    Halves,
    /// (2i, 2i + 1): the paper, and GGUF's `llama`.
    Pairs,
}

/// Fills `out`, `[positions, dims]`, with the cosines and then the sines of each position, times `factor`.
///
/// `inv_freq`: `[dims / 2]`.
///
/// # Panics
/// If `out` is of another size.
pub fn rope_table(inv_freq: &[f32], factor: f32, positions: &[u32], out: &mut [f32]) {
    let half = inv_freq.len();
    assert!(half > 0 && out.len() == positions.len() * 2 * half);
    for (&p, row) in positions.iter().zip(out.chunks_exact_mut(2 * half)) {
        let (cos, sin) = row.split_at_mut(half);
        for ((c, s), &f) in cos.iter_mut().zip(sin).zip(inv_freq) {
            let (sine, cosine) = libm::sincos(f64::from(p as f32 * f));
            (*s, *c) = (sine as f32 * factor, cosine as f32 * factor);
        }
    }
}

/// Rotates the first `dims` elements of every head; the rest is copied.
///
/// `x`, `out`: `[rows, heads, head_dim]`; `table`: `[rows, dims]` as [`rope_table`] makes it, at least one row.
///
/// # Panics
/// If the sizes do not fit together.
pub fn rope(ctx: Ctx<'_>, style: RopeStyle, dims: usize, head_dim: usize, x: &[f32], table: &[f32], out: &mut [f32]) {
    assert!(0 < dims && dims <= head_dim && dims.is_multiple_of(2));
    let rows = table.len() / dims;
    assert!(rows > 0 && table.len() == rows * dims && x.len() == out.len());
    let width = x.len() / rows;
    assert!(x.len() == rows * width && width.is_multiple_of(head_dim));
    let half = dims / 2;
    let shared = Shared::new(out);
    ctx.pool.run(rows, x.len() > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * width, width) };
        let (cos, sin) = table[row * dims..][..dims].split_at(half);
        for (x, y) in x[row * width..][..width].chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
            y[dims..].copy_from_slice(&x[dims..]);
            for (i, (&c, &s)) in cos.iter().zip(sin).enumerate() {
                let (a, b) = match style {
                    RopeStyle::Halves => (i, i + half),
                    RopeStyle::Pairs => (2 * i, 2 * i + 1),
                };
                y[a] = x[a] * c - x[b] * s;
                y[b] = x[b] * c + x[a] * s;
            }
        }
    });
}
