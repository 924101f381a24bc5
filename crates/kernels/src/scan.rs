//! The selective scan of Mamba (Gu and Dao 2023, arXiv:2312.00752) and Mamba-2 (Dao and Gu 2024, arXiv:2405.21060).
//!
//! Each column x has `n` hidden numbers h. A token changes them by h = exp(dt A) h + (dt x) B, each product and sum rounded
//! once, and reads y = C·h + D x from them: one accumulator over ascending n, then D x. So every bit depends on the
//! sequence alone, and one token after the other is the same as many at once: a tile of tokens only keeps a line of hidden
//! numbers in a register while they pass over it.
//!
//! Lanes are columns: a block is 16 neighbouring columns of a group, or what is left of it, with a line of so many lanes for
//! each of the `n`. A block's lines lie together in the state.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::buf::Shared;
use crate::state::{Fixed, Runs};
use crate::{Ctx, WORTH_SPLITTING, load_part, store_part};
use alula_simd::{Isa, Kernel, LANES, math};
use std::ops::Range;

/// A scan's sizes and weights.
pub struct Scan {
    heads: usize,
    groups: usize,
    /// Columns of a head.
    dim: usize,
    /// Hidden numbers of a column.
    n: usize,
    /// A number for each head, or in the order of the state a number for each hidden one.
    a: Vec<f32>,
    /// A number for each head.
    d: Vec<f32>,
}

/// Hidden numbers of 16 columns that a task has at least.
const LINES: usize = 512;

impl Scan {
    /// A scan of heads of `dim` columns with `n` hidden numbers each; `a` is `[heads]`, or `[heads, n]` where heads are
    /// single columns, and `d` is `[heads]`.
    ///
    /// # Panics
    /// If the lengths do not fit, or heads do not divide into groups.
    pub fn new(heads: usize, groups: usize, dim: usize, n: usize, a: &[f32], d: &[f32]) -> Scan {
        assert!(groups > 0 && heads > 0 && heads.is_multiple_of(groups) && dim > 0 && n > 0 && d.len() == heads);
        let mut scan = Scan { heads, groups, dim, n, a: a.to_vec(), d: d.to_vec() };
        if a.len() != heads {
            assert!(a.len() == heads * n && dim == 1);
            let blocks = (0..scan.blocks()).map(|i| scan.block(i).columns);
            scan.a = blocks.flat_map(|b| (0..n).flat_map(move |k| b.clone().map(move |c| a[c * n + k]))).collect();
        }
        scan
    }

    /// Columns.
    fn width(&self) -> usize {
        self.heads * self.dim
    }

    fn blocks(&self) -> usize {
        self.groups * (self.width() / self.groups).div_ceil(LANES)
    }

    fn block(&self, i: usize) -> Block {
        let width = self.width() / self.groups;
        let (group, first) = (i / width.div_ceil(LANES), i % width.div_ceil(LANES) * LANES);
        let start = group * width;
        Block { group, columns: start + first..start + width.min(first + LANES) }
    }
}

/// Neighbouring columns of a group.
struct Block {
    group: usize,
    columns: Range<usize>,
}

/// What a scan reads, a row for each token.
#[derive(Clone, Copy)]
pub struct ScanInput<'a> {
    /// `[rows, heads * dim]`.
    pub x: &'a [f32],
    /// `[rows, heads]`.
    pub dt: &'a [f32],
    /// `[rows, groups * n]`.
    pub b: &'a [f32],
    /// `[rows, groups * n]`.
    pub c: &'a [f32],
}

/// Scans every run to `out`, `[rows, heads * dim]`. The state is `heads * dim * n` numbers.
///
/// # Panics
/// If the sizes do not fit together.
pub fn scan(ctx: Ctx<'_>, scan: &Scan, state: &mut Fixed, runs: &Runs, input: ScanInput<'_>, out: &mut [f32]) {
    let (width, n, rows) = (scan.width(), scan.n, runs.rows());
    assert!(out.len() == input.x.len() && rows * width <= out.len() && rows * scan.heads <= input.dt.len());
    assert!(rows * scan.groups * n <= input.b.len() && input.b.len() == input.c.len());
    let (state, out, blocks) = (state.open(runs), Shared::new(out), scan.blocks());
    let per_task = (LINES / n).max(1);
    let parts = blocks.div_ceil(per_task);
    ctx.pool.run(runs.all().len() * parts, rows * width * n > WORTH_SPLITTING, |task, _| {
        let (run, first) = (task / parts, task % parts * per_task);
        for i in first..blocks.min(first + per_task) {
            let Block { group, columns } = scan.block(i);
            let part = columns.start * n..columns.end * n;
            // SAFETY: one task for each column of a run.
            let h = unsafe { state.after(run, part.clone()) };
            match state.before(run, part) {
                Some(before) => h.copy_from_slice(before),
                None => h.fill(0.0),
            }
            let rows = runs.all()[run].rows.clone();
            ctx.cpu.run(Task { scan, group, columns, rows, input, h, out: &out });
        }
    });
}

/// A block and the rows of a run.
struct Task<'a> {
    scan: &'a Scan,
    group: usize,
    columns: Range<usize>,
    rows: Range<usize>,
    input: ScanInput<'a>,
    h: &'a mut [f32],
    out: &'a Shared<f32>,
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Task { scan, group, columns, rows, input, h, out } = self;
        let each = scan.a.len() != scan.heads;
        // As many tokens as have room for three vectors each.
        let most = if I::TILE.0 > 1 { 8 } else { 2 };
        let mut row = rows.start;
        while row < rows.end {
            let columns = columns.clone();
            macro_rules! tile {
                ($n:literal) => {{
                    let h = &mut *h;
                    if each {
                        isa.enter(Tile::<true, $n> { scan, group, columns, row, input, h, out });
                    } else {
                        isa.enter(Tile::<false, $n> { scan, group, columns, row, input, h, out });
                    }
                    row += $n;
                }};
            }
            match rows.end - row {
                8.. if most >= 8 => tile!(8),
                2.. => tile!(2),
                _ => tile!(1),
            }
        }
    }
}

/// `T` tokens from `row` on. `EACH`: hidden numbers have decays of their own.
struct Tile<'a, 'b, const EACH: bool, const T: usize> {
    scan: &'a Scan,
    group: usize,
    columns: Range<usize>,
    row: usize,
    input: ScanInput<'a>,
    h: &'b mut [f32],
    out: &'a Shared<f32>,
}

impl<const EACH: bool, const T: usize> Kernel for Tile<'_, '_, EACH, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tile { scan, group, columns, row, input, h, out } = self;
        let (n, w, width, zero) = (scan.n, columns.len(), scan.width(), isa.splat(0.0));
        let (mut rate, mut u, mut y) = ([zero; T], [zero; T], [zero; T]);
        let (mut b, mut c) = ([std::ptr::null(); T], [std::ptr::null(); T]);
        for t in 0..T {
            let at = (row + t) * scan.groups * n + group * n;
            (b[t], c[t]) = (input.b[at..at + n].as_ptr(), input.c[at..at + n].as_ptr());
            let dt = by_head(isa, &input.dt[(row + t) * scan.heads..][..scan.heads], &columns, scan.dim);
            u[t] = isa.mul(dt, load_part(isa, &input.x[(row + t) * width..][columns.clone()]));
            rate[t] = if EACH { dt } else { math::exp(isa, isa.mul(dt, by_head(isa, &scan.a, &columns, scan.dim))) };
        }
        let a = if EACH { &scan.a[columns.start * n..columns.end * n] } else { &[] };
        assert_eq!(h.len(), n * w);
        for (k, line) in h.chunks_exact_mut(w).enumerate() {
            let mut v = load_part(isa, line);
            let own = if EACH { load_part(isa, &a[k * w..][..w]) } else { zero };
            for t in 0..T {
                let decay = if EACH { math::exp(isa, isa.mul(rate[t], own)) } else { rate[t] };
                // SAFETY: rows of B and C have n elements, and there are n lines.
                let (b, c) = unsafe { (isa.splat(*b[t].add(k)), isa.splat(*c[t].add(k))) };
                v = isa.fma(decay, v, isa.mul(u[t], b));
                y[t] = isa.fma(v, c, y[t]);
            }
            store_part(isa, v, line);
        }
        let d = by_head(isa, &scan.d, &columns, scan.dim);
        for t in 0..T {
            let x = load_part(isa, &input.x[(row + t) * width..][columns.clone()]);
            // SAFETY: one task for each column of a row.
            let out = unsafe { out.part((row + t) * width + columns.start, w) };
            store_part(isa, isa.fma(d, x, y[t]), out);
        }
    }
}

/// The number of each column's head, which has `dim` columns.
#[inline(always)]
fn by_head<I: Isa>(isa: I, numbers: &[f32], columns: &Range<usize>, dim: usize) -> I::F {
    if dim == 1 {
        return load_part(isa, &numbers[columns.clone()]);
    }
    let (first, last) = (columns.start / dim, (columns.end - 1) / dim);
    if first == last {
        return isa.splat(numbers[first]);
    }
    let mut lanes = [0.0; LANES];
    for (lane, column) in lanes.iter_mut().zip(columns.clone()) {
        *lane = numbers[column / dim];
    }
    isa.load(&lanes)
}
