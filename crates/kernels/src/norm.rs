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

/// What a norm does to rows of `weight.len()` elements: `normalised(x) * weight + bias`.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Statistics.
    pub kind: NormKind,
    /// ε.
    pub eps: f32,
    /// A factor for each element.
    pub weight: &'a [f32],
    /// A summand for each element.
    pub bias: Option<&'a [f32]>,
}

/// Normalises rows: `x` and `out` hold the same whole number of them. Sums run over 16 lanes in ascending order, then the
/// fixed tree.
///
/// # Panics
/// If the lengths do not fit.
pub fn norm(ctx: Ctx<'_>, norm: Norm<'_>, x: &[f32], out: &mut [f32]) {
    norm_groups(ctx, norm, norm.weight.len(), x, out);
}

/// The same with rows of `n` elements that take turns: the weights, and the biases, are those of as many rows as they have
/// elements for, one after the other.
///
/// # Panics
/// If the lengths do not fit.
pub fn norm_groups(ctx: Ctx<'_>, norm: Norm<'_>, n: usize, x: &[f32], out: &mut [f32]) {
    let all = norm.weight.len();
    assert!(n > 0 && all > 0 && all.is_multiple_of(n) && x.len() == out.len() && x.len().is_multiple_of(all));
    assert!(norm.bias.is_none_or(|b| b.len() == all));
    let shared = Shared::new(out);
    ctx.pool.run(x.len() / n, x.len() > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * n, n) };
        let own = row * n % all..row * n % all + n;
        let norm = Norm { weight: &norm.weight[own.clone()], bias: norm.bias.map(|b| &b[own]), ..norm };
        ctx.cpu.run(Row { norm, x: &x[row * n..][..n], out });
    });
}

struct Row<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let stats = self.norm.stats(isa, self.x);
        self.norm.apply(isa, stats, 0, self.x, self.out);
    }
}

/// What is subtracted from a row's elements, and what the differences are multiplied by.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stats {
    mean: f32,
    scale: f32,
}

impl<'a> Norm<'a> {
    /// The statistics of a row.
    ///
    /// # Panics
    /// If it has not as many elements as there are weights.
    #[inline(always)]
    pub(crate) fn stats<I: Isa>(&self, isa: I, x: &[f32]) -> Stats {
        assert!(x.len() == self.weight.len() && self.bias.is_none_or(|b| b.len() == x.len()));
        let n = x.len() as f32;
        let zero = isa.splat(0.0);
        let mean = match self.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => isa.sum(x.chunks(LANES).fold(zero, |s, c| isa.add(s, load_part(isa, c)))) / n,
        };
        let m = isa.splat(mean);
        let (whole, rest) = x.as_chunks();
        let mut squares = zero;
        for c in whole {
            let d = isa.sub(isa.load(c), m);
            squares = isa.fma(d, d, squares);
        }
        if !rest.is_empty() {
            let mut centred = [0.0; LANES];
            isa.store(isa.sub(load_part(isa, rest), m), &mut centred);
            centred[rest.len()..].fill(0.0);
            let d = isa.load(&centred);
            squares = isa.fma(d, d, squares);
        }
        Stats { mean, scale: 1.0 / (isa.sum(squares) / n + self.eps).sqrt() }
    }

    /// Normalises elements of a row, from element `first` on.
    #[inline(always)]
    pub(crate) fn apply<I: Isa>(&self, isa: I, stats: Stats, first: usize, x: &[f32], out: &mut [f32]) {
        let (m, scale) = (isa.splat(stats.mean), isa.splat(stats.scale));
        assert!(x.len() == out.len());
        let own = |all: &'a [f32]| &all[first..][..x.len()];
        let (w, bias) = (own(self.weight), self.bias.map(own));
        let ((x, ends), (w, ends_of_w), (out, rest)) = (x.as_chunks(), w.as_chunks(), out.as_chunks_mut());
        for i in 0..x.len() {
            let y = isa.mul(isa.mul(isa.sub(isa.load(&x[i]), m), scale), isa.load(&w[i]));
            let y = match bias {
                Some(b) => isa.add(y, load_part(isa, &b[i * LANES..])),
                None => y,
            };
            isa.store(y, &mut out[i]);
        }
        if !rest.is_empty() {
            let y = isa.mul(isa.mul(isa.sub(load_part(isa, ends), m), scale), load_part(isa, ends_of_w));
            let y = match bias {
                Some(b) => isa.add(y, load_part(isa, &b[x.len() * LANES..])),
                None => y,
            };
            store_part(isa, y, rest);
        }
    }
}
