//! Matrix products: `out[t][n] = Σ_k x[t][k] · w[n][k] + bias[n]`.
//!
//! One accumulator per output, inputs in ascending order. Float weights: one fused multiply-add per input. Quantised
//! weights: exact integer sums inside a block, then per scale one fused multiply-add of the sum and the product of
//! both scales (and one for the minimum), blocks in ascending order.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // row t of several arrays

use crate::buf::Shared;
use crate::pack::{Blocks, Kind, LINE};
use crate::quantize::{QBlock, QK};
use crate::{Ctx, Packed, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel, LANES};

/// The left operand, `[rows, cols]`.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// For float weights.
    F32(&'a [f32]),
    /// For quantised weights: `[rows, cols / 32]` from [`quantize`](crate::quantize()).
    Q8(&'a [QBlock]),
}

/// Panels per task, and rows of `x` per pass over them: together they stay in a core's second-level cache.
const PANELS: usize = 4;
const ROWS: usize = 64;

/// `out = x · wᵀ + bias`, `[rows, w.rows()]`.
///
/// # Panics
/// If the operands' lengths do not fit, or `x` is of the wrong kind for `w` (see [`Packed::quantized`]).
pub fn matmul(ctx: Ctx<'_>, x: Input<'_>, w: &Packed, bias: Option<&[f32]>, out: &mut [f32]) {
    if w.rows == 0 {
        return;
    }
    let rows = out.len() / w.rows;
    let fits = match x {
        Input::F32(x) => !w.quantized() && x.len() == rows * w.cols,
        Input::Q8(x) => w.quantized() && x.len() * QK == rows * w.cols,
    };
    assert!(fits && out.len() == rows * w.rows && bias.is_none_or(|b| b.len() == w.rows));
    let panels = w.rows.div_ceil(LANES);
    let per_task = PANELS.min(panels.div_ceil(2 * ctx.pool.threads())).max(1);
    let out = Shared::new(out);
    ctx.pool.run(panels.div_ceil(per_task), w.rows * w.cols * rows > WORTH_SPLITTING, |task, _| {
        let panels = task * per_task..panels.min((task + 1) * per_task);
        ctx.cpu.run(Task { x, w, bias, rows, panels, out: &out });
    });
}

struct Task<'a> {
    x: Input<'a>,
    w: &'a Packed,
    bias: Option<&'a [f32]>,
    rows: usize,
    panels: std::ops::Range<usize>,
    out: &'a Shared<f32>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut start = 0;
        while start < self.rows {
            let end = self.rows.min(start + ROWS);
            for p in self.panels.clone() {
                let mut t = start;
                while t < end {
                    // Few sizes keep the code small; which one is used changes no bit.
                    match end - t {
                        8.. if I::TILE >= 8 => self.tile::<I, 8>(isa, p, &mut t),
                        4.. if I::TILE >= 4 => self.tile::<I, 4>(isa, p, &mut t),
                        2.. => self.tile::<I, 2>(isa, p, &mut t),
                        _ => self.tile::<I, 1>(isa, p, &mut t),
                    }
                }
            }
            start = end;
        }
    }
}

impl Task<'_> {
    /// `T` rows of `x` from row `t` on, times panel `p`.
    #[inline(always)]
    fn tile<I: Isa, const T: usize>(&self, isa: I, p: usize, t: &mut usize) {
        let w = self.w;
        // SAFETY: panel p has `w.panel` lines, as `Packed::new` laid them out.
        let panel = unsafe { w.data.as_ptr().add(p * w.panel * LINE) };
        // SAFETY: `matmul` checked that x has `rows` rows of `cols` elements (or blocks); t + T <= rows.
        let sums: [I::F; T] = unsafe {
            match (w.kind, self.x) {
                (Kind::F32, Input::F32(x)) => float::<I, F32, T>(isa, panel, rows_of(x, w.cols, *t), w.cols),
                (Kind::F16, Input::F32(x)) => float::<I, F16, T>(isa, panel, rows_of(x, w.cols, *t), w.cols),
                (Kind::BF16, Input::F32(x)) => float::<I, BF16, T>(isa, panel, rows_of(x, w.cols, *t), w.cols),
                (Kind::Blocks(b), Input::Q8(x)) => {
                    let (n, x) = (w.cols / QK, rows_of(x, w.cols / QK, *t));
                    match (b.table.is_some(), b.halves) {
                        (true, false) => blocks::<I, T, true, false>(isa, b, panel, x, n),
                        (true, true) => blocks::<I, T, true, true>(isa, b, panel, x, n),
                        (false, false) => blocks::<I, T, false, false>(isa, b, panel, x, n),
                        (false, true) => blocks::<I, T, false, true>(isa, b, panel, x, n),
                    }
                }
                _ => unreachable!("matmul checked the operand kinds"),
            }
        };
        let (first, n) = (p * LANES, LANES.min(w.rows - p * LANES));
        for (i, mut sum) in sums.into_iter().enumerate() {
            if let Some(bias) = self.bias {
                sum = isa.add(sum, crate::load_part(isa, &bias[first..first + n]));
            }
            // SAFETY: this task alone writes these panels' columns.
            let out = unsafe { self.out.part((*t + i) * w.rows + first, n) };
            crate::store_part(isa, sum, out);
        }
        *t += T;
    }
}

/// Pointers to `T` rows of `width` elements, from row `t` on.
#[inline(always)]
fn rows_of<X, const T: usize>(x: &[X], width: usize, t: usize) -> [*const X; T] {
    let x = &x[t * width..(t + T) * width];
    std::array::from_fn(|i| x[i * width..].as_ptr())
}

/// A float type of weights.
trait Float {
    type Bits;
    fn load<I: Isa>(isa: I, p: &[Self::Bits; 16]) -> I::F;
}
struct F32;
struct F16;
struct BF16;
impl Float for F32 {
    type Bits = f32;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[f32; 16]) -> I::F {
        isa.load(p)
    }
}
impl Float for F16 {
    type Bits = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[u16; 16]) -> I::F {
        isa.load_f16(p)
    }
}
impl Float for BF16 {
    type Bits = u16;
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[u16; 16]) -> I::F {
        isa.load_bf16(p)
    }
}

/// # Safety
/// `w` points to `k` × 16 elements, aligned to a line; each of `x` to `k` elements.
#[inline(always)]
unsafe fn float<I: Isa, W: Float, const T: usize>(isa: I, w: *const u8, x: [*const f32; T], k: usize) -> [I::F; T] {
    let mut acc = [isa.splat(0.0); T];
    let w: *const [W::Bits; 16] = w.cast();
    for k in 0..k {
        // SAFETY: k is within the panel and the rows.
        let v = W::load(isa, unsafe { &*w.add(k) });
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: as above.
            *acc = isa.fma(v, isa.splat(unsafe { *x.add(k) }), *acc);
        }
    }
    acc
}

/// # Safety
/// `w` points to `n` blocks of `b.lines()` lines; each of `x` to `n` blocks. `TABLE` and `HALVES` say what `b` says.
#[inline(always)]
unsafe fn blocks<I: Isa, const T: usize, const TABLE: bool, const HALVES: bool>(
    isa: I,
    b: Blocks,
    w: *const u8,
    x: [*const QBlock; T],
    n: usize,
) -> [I::F; T] {
    let table = isa.table(&b.table.unwrap_or_default());
    let zero = isa.splat_i(0);
    let mut acc = [isa.splat(0.0); T];
    let mut w: *const [u8; LINE] = w.cast();
    for block in 0..n {
        // SAFETY: in bounds by the contract; lines of floats are 64 bytes aligned to 64.
        unsafe {
            // Four codes of step `step` for a row of x.
            let four =
                |t: usize, step: usize| (&raw const (*x[t].add(block)).q).cast::<i32>().add(step).read_unaligned();
            let mut sums = [[zero; T]; 2];
            if TABLE {
                for j in 0..4 {
                    let (low, high) = isa.nibbles(isa.load_b(&*w.add(j)));
                    let (low, high) = (isa.lookup(table, low), isa.lookup(table, high));
                    for t in 0..T {
                        sums[0][t] = isa.dot4(sums[0][t], low, four(t, j));
                        let other = usize::from(HALVES);
                        sums[other][t] = isa.dot4(sums[other][t], high, four(t, j + 4));
                    }
                }
            } else {
                for j in 0..8 {
                    let codes = isa.load_b(&*w.add(j));
                    let half = if HALVES { j / 4 } else { 0 };
                    for t in 0..T {
                        sums[half][t] = isa.dot4(sums[half][t], codes, four(t, j));
                    }
                }
            }
            let scales: *const [f32; 16] = w.add(b.code_lines()).cast();
            let groups = 1 + usize::from(HALVES);
            for half in 0..groups {
                let scale = isa.load(&*scales.add(half));
                let min = if b.mins { isa.load(&*scales.add(groups + half)) } else { isa.splat(0.0) };
                for t in 0..T {
                    let q = &*x[t].add(block);
                    let total = if HALVES { q.sums[half] } else { q.sums[0] + q.sums[1] };
                    // Σ (code + offset) q - offset Σ q = Σ code · q
                    let sum = isa.sub_i(sums[half][t], isa.splat_i(b.offset * total));
                    let qs = isa.splat(q.scale);
                    acc[t] = isa.fma(isa.to_f(sum), isa.mul(scale, qs), acc[t]);
                    if b.mins {
                        acc[t] = isa.fma(isa.splat(-(total as f32)), isa.mul(min, qs), acc[t]);
                    }
                }
            }
            w = w.add(b.lines());
        }
    }
    acc
}
