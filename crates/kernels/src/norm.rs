//! Normalisation of rows: RMS (Zhang and Sennrich 2019, arXiv:1910.07467) and layer (Ba et al. 2016, arXiv:1607.06450).

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING, load_part, store_part};
use alula_simd::{Isa, Kernel, LANES};

/// Which statistics a norm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε).
    Rms,
    /// (x - mean) / √(var + ε).
    Layer,
}

/// `out[r] = normalised(x[r]) * weight + bias` for rows of `weight.len()` elements.
///
/// `x` and `out` hold the same whole number of rows. Sums run over 16 lanes in ascending order, then the fixed tree.
pub fn norm(ctx: Ctx<'_>, kind: NormKind, eps: f32, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let n = weight.len();
    assert!(n > 0 && x.len() == out.len() && x.len().is_multiple_of(n) && bias.is_none_or(|b| b.len() == n));
    let shared = Shared::new(out);
    ctx.pool.run(x.len() / n, x.len() > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * n, n) };
        ctx.cpu.run(Row { kind, eps, x: &x[row * n..][..n], weight, bias, out });
    });
}

struct Row<'a> {
    kind: NormKind,
    eps: f32,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n = self.x.len() as f32;
        let zero = isa.splat(0.0);
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => isa.sum(self.x.chunks(LANES).fold(zero, |s, c| isa.add(s, load_part(isa, c)))) / n,
        };
        let m = isa.splat(mean);
        let mut squares = zero;
        for c in self.x.chunks(LANES) {
            let mut centred = [0.0; LANES];
            isa.store(isa.sub(load_part(isa, c), m), &mut centred);
            centred[c.len()..].fill(0.0);
            let d = isa.load(&centred);
            squares = isa.fma(d, d, squares);
        }
        let scale = isa.splat(1.0 / (isa.sum(squares) / n + self.eps).sqrt());
        let chunks = self.x.chunks(LANES).zip(self.weight.chunks(LANES)).zip(self.out.chunks_mut(LANES));
        for (i, ((x, w), out)) in chunks.enumerate() {
            let y = isa.mul(isa.mul(isa.sub(load_part(isa, x), m), scale), load_part(isa, w));
            let y = match self.bias {
                Some(b) => isa.add(y, load_part(isa, &b[i * LANES..][..x.len()])),
                None => y,
            };
            store_part(isa, y, out);
        }
    }
}
