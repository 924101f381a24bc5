//! Products in bfloat16 by AMX tiles, or by vectors with AVX512_BF16: not the bits of the other levels, and only where
//! the user asks for speed at that price.
//!
//! Activations and weights are rounded to bfloat16, sums are in single precision in the order of the unit. A task is two
//! panels; a chunk of their inputs is turned into tiles, which then meet all rows, 32 at a time.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::buf::Shared;
use crate::dots::{self, Codes};
use crate::float::Float;
use crate::matmul::Task;
use crate::pack::Blocks;
use crate::{Ctx, WORTH_SPLITTING};
use alula_simd::{Bf16, Isa, Kernel, LANES};
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Inputs of a tile.
const DEPTH: usize = 32;
/// Rows of a tile.
const ROWS: usize = 16;
/// Tiles of a panel that are made at a time, and rows that they meet.
const CHUNK: usize = 32;
const GROUP: usize = 512;
/// Rows between the result's fetching and its writing: its rows lie far apart.
const AHEAD: usize = 16;

/// 16 rows of 32 activations in bfloat16.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct BTile([[u16; DEPTH]; ROWS]);

impl Default for BTile {
    fn default() -> BTile {
        BTile([[0; DEPTH]; ROWS])
    }
}

impl BTile {
    /// Tiles of `rows` rows of `cols` elements: rows are made up to a multiple of 32, columns to whole tiles.
    pub fn count(rows: usize, cols: usize) -> usize {
        rows.div_ceil(2 * ROWS).saturating_mul(2).saturating_mul(cols.div_ceil(DEPTH))
    }
}

/// Rounds `[rows, cols]` elements to bfloat16, in tiles: those of the first 16 rows in ascending order of columns, then
/// those of the next. What is made up is 0.
///
/// # Panics
/// If `cols` is 0, or the lengths are not `rows * cols` and [`BTile::count`].
pub fn round(ctx: Ctx<'_>, x: &[f32], rows: usize, cols: usize, out: &mut [BTile]) {
    assert!(cols > 0 && x.len() == rows * cols && out.len() == BTile::count(rows, cols));
    let width = cols.div_ceil(DEPTH);
    let shared = Shared::new(out);
    ctx.pool.run(rows.div_ceil(2 * ROWS) * 2, x.len() > WORTH_SPLITTING, |group, _| {
        // SAFETY: one task a part; parts are disjoint.
        let out = unsafe { shared.part(group * width, width) };
        ctx.cpu.run(Round { x, cols, first: group * ROWS, out });
    });
}

/// The tiles of 16 rows.
struct Round<'a> {
    x: &'a [f32],
    cols: usize,
    first: usize,
    out: &'a mut [BTile],
}

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for r in 0..ROWS {
            let row = self.x.chunks_exact(self.cols).nth(self.first + r).unwrap_or_default();
            for (i, tile) in self.out.iter_mut().enumerate() {
                for (h, out) in tile.0[r].as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                    let x = &row[(i * DEPTH + h * LANES).min(row.len())..];
                    isa.store_bf16(crate::load_part(isa, &x[..x.len().min(LANES)]), out);
                }
            }
        }
    }
}

/// A tile of weights: 16 pairs of inputs of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct WTile([[i32; LANES]; DEPTH / 2]);

/// Makes tiles of a panel.
pub(crate) trait Panel {
    /// Tiles `first..first + out.len()` of a panel of `cols` inputs.
    ///
    /// # Safety
    /// `panel` points to such a panel.
    unsafe fn tiles<I: Isa>(&self, isa: I, panel: *const u8, cols: usize, first: usize, out: &mut [WTile]);
}

/// Float weights.
pub(crate) struct Floats<W>(pub(crate) PhantomData<W>);

impl<W: Float> Panel for Floats<W> {
    #[inline(always)]
    unsafe fn tiles<I: Isa>(&self, isa: I, panel: *const u8, cols: usize, first: usize, out: &mut [WTile]) {
        let lines: *const [W::Bits; LANES] = panel.cast();
        for (i, tile) in out.iter_mut().enumerate() {
            for (pair, out) in tile.0.iter_mut().enumerate() {
                let input = (first + i) * DEPTH + 2 * pair;
                let mut v = [isa.splat(0.0); 2];
                for k in 0..2 {
                    if input + k < cols {
                        // SAFETY: the panel has this input.
                        v[k] = W::load(isa, unsafe { &*lines.add(input + k) });
                    }
                }
                isa.store_i(isa.bf16_pairs(v[0], v[1]), out);
            }
        }
    }
}

/// Quantised weights: a run is a tile.
pub(crate) struct Quantised<C, const MINS: bool>(pub(crate) Blocks, pub(crate) PhantomData<C>);

impl<C: Codes, const MINS: bool> Panel for Quantised<C, MINS> {
    #[inline(always)]
    unsafe fn tiles<I: Isa>(&self, isa: I, panel: *const u8, _: usize, first: usize, out: &mut [WTile]) {
        let mut e = MaybeUninit::uninit();
        for (i, out) in out.chunks_mut(dots::CHUNK).enumerate() {
            // SAFETY: the panel has these runs, a tile each.
            let e = unsafe {
                dots::expand::<I, C, MINS, true>(isa, &self.0, panel, first + i * dots::CHUNK, out.len(), &mut e);
                &e
            };
            for (run, tile) in out.iter_mut().enumerate() {
                for (pair, out) in tile.0.iter_mut().enumerate() {
                    // SAFETY: these runs are expanded.
                    let v = unsafe { dots::values::<I, C, MINS>(isa, e, run, 2 * pair) };
                    isa.store_i(isa.bf16_pairs(v[0], v[1]), out);
                }
            }
        }
    }
}

/// A task's product: panels times all rows.
pub(crate) fn product<W: Panel>(unit: Bf16, task: Task<'_>, weights: W, x: &[BTile]) {
    unit.enter(Product { task, weights, x, unit });
}

struct Product<'a, W> {
    task: Task<'a>,
    weights: W,
    x: &'a [BTile],
    unit: Bf16,
}

/// Sums between chunks: of 32 rows by two panels.
#[repr(C, align(64))]
struct Sums([[[[f32; LANES]; ROWS]; 4]; GROUP / (2 * ROWS)]);

impl<W: Panel> Kernel for Product<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Product { task, weights, x, unit } = self;
        let unit = unit.begin();
        let (cols, width) = (task.w.cols, task.w.cols.div_ceil(DEPTH));
        let mut w = [[WTile([[0; LANES]; DEPTH / 2]); CHUNK]; 2];
        let mut sums = Sums([[[[0.0; LANES]; ROWS]; 4]; GROUP / (2 * ROWS)]);
        for p in task.panels.clone().step_by(2) {
            // The last panel stands twice in a pair that is not full.
            let panels = [p, (p + 1).min(task.panels.end - 1)];
            for start in (0..task.rows).step_by(GROUP) {
                let rows = start..task.rows.min(start + GROUP);
                sums.0[..rows.len().div_ceil(2 * ROWS)].fill([[[0.0; LANES]; ROWS]; 4]);
                for k in (0..width).step_by(CHUNK) {
                    let n = CHUNK.min(width - k);
                    for i in 0..2 {
                        // SAFETY: it is such a panel.
                        unsafe { weights.tiles(isa, task.panel(panels[i]), cols, k, &mut w[i][..n]) }
                    }
                    for (i, sums) in sums.0[..rows.len().div_ceil(2 * ROWS)].iter_mut().enumerate() {
                        let group = start / ROWS + 2 * i;
                        let row = |r: usize| x[(group + r) * width + k..][..n].as_ptr().cast();
                        // SAFETY: `n` tiles of each; nothing here configures others.
                        unsafe {
                            unit.add([row(0), row(1)], [w[0].as_ptr().cast(), w[1].as_ptr().cast()], n, sums);
                        }
                    }
                }
                for t in rows.clone() {
                    let (pair, row) = ((t - start) / (2 * ROWS), (t - start) % (2 * ROWS));
                    for i in 0..2 {
                        task.fetch(isa, panels[i], t + AHEAD);
                        let sum = isa.load(&sums.0[pair][row / ROWS * 2 + i][row % ROWS]);
                        task.put::<I, 1, 1>(isa, [panels[i]], t, [[sum]]);
                    }
                }
            }
        }
    }
}
