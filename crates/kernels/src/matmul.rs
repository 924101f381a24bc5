//! Matrix products: `out[t][n] = Σ_k x[t][k] · w[n][k] + bias[n]`.
//!
//! One accumulator per output, inputs in ascending order; `float.rs` and `dots.rs` say which operations. One row is
//! multiplied with the packed weights as they are; more rows share the work of expanding them, a chunk of inputs at a
//! time, small enough for the first-level cache. Sums rest in memory between chunks. This changes no bit.
#![allow(unsafe_code)]
// No closures around vector code: they are compiled without the level's instructions unless inlined.
#![allow(clippy::needless_range_loop)]

use crate::buf::Shared;
use crate::dots::{self, Codes};
use crate::float::{self, Float};
use crate::pack::{Blocks, Kind};
use crate::quantize::{QBlock, QK};
use crate::{Ctx, Packed, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel, LANES};
use std::array::from_fn;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The left operand, `[rows, cols]`.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// For float weights.
    F32(&'a [f32]),
    /// For quantised weights: `rows * cols / 32` blocks from [`quantize`](crate::quantize()).
    Q8(&'a [QBlock]),
}

/// Panels per task.
const PANELS: usize = 4;
/// Rows that share an expanded chunk.
const ROWS: usize = 256;

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
        let task = Task { w, bias, rows, panels, out: &out };
        match (w.kind, x) {
            (Kind::F32, Input::F32(x)) => ctx.cpu.run(Floats::<float::F32>(task, x, PhantomData)),
            (Kind::F16, Input::F32(x)) => ctx.cpu.run(Floats::<float::F16>(task, x, PhantomData)),
            (Kind::BF16, Input::F32(x)) => ctx.cpu.run(Floats::<float::BF16>(task, x, PhantomData)),
            (Kind::Blocks(b), Input::Q8(x)) => match (b.width, b.table.is_some(), b.halves()) {
                (4, false, false) => ctx.cpu.run(Runs::<dots::Four>(task, b, x, PhantomData)),
                (4, false, true) => ctx.cpu.run(Runs::<dots::FourHalves>(task, b, x, PhantomData)),
                (4, true, false) => ctx.cpu.run(Runs::<dots::Table>(task, b, x, PhantomData)),
                (5, false, false) => ctx.cpu.run(Runs::<dots::Five>(task, b, x, PhantomData)),
                (6, false, true) => ctx.cpu.run(Runs::<dots::SixHalves>(task, b, x, PhantomData)),
                (8, false, false) => ctx.cpu.run(Runs::<dots::Eight>(task, b, x, PhantomData)),
                _ => unreachable!("no format is packed like this"),
            },
            _ => unreachable!("the operand kinds are checked above"),
        }
    });
}

struct Task<'a> {
    w: &'a Packed,
    bias: Option<&'a [f32]>,
    rows: usize,
    panels: Range<usize>,
    out: &'a Shared<f32>,
}

/// Runs the body with `$t` the largest of some tile sizes that `$left` rows fill and that is not over `$most`. Few
/// sizes keep the code small.
macro_rules! by_rows {
    ($left:expr, $most:expr, |$t:ident| $body:expr) => {
        by_rows!($left, $most, $t, $body, 6 4 2)
    };
    ($left:expr, $most:expr, $t:ident, $body:expr, $($size:literal)*) => {
        match $left {
            $($size.. if $most >= $size && ($size != 4 || $most == 4) => {
                const $t: usize = $size;
                $body
            })*
            _ => {
                const $t: usize = 1;
                $body
            }
        }
    };
}

impl Task<'_> {
    /// A panel's memory.
    #[inline(always)]
    fn panel(&self, p: usize) -> *const u8 {
        assert!((p + 1) * self.w.panel <= self.w.data.len());
        // SAFETY: inside the buffer.
        unsafe { self.w.data.as_ptr().add(p * self.w.panel) }
    }

    /// Puts the finished sums of `T` rows from row `t` on in some panels where they belong, with the bias.
    #[inline(always)]
    fn put<I: Isa, const P: usize, const T: usize>(&self, isa: I, panels: [usize; P], t: usize, acc: [[I::F; T]; P]) {
        for p in 0..P {
            let (at, n) = (panels[p] * LANES, LANES.min(self.w.rows - panels[p] * LANES));
            for i in 0..T {
                let sum = match self.bias {
                    Some(bias) => isa.add(acc[p][i], crate::load_part(isa, &bias[at..at + n])),
                    None => acc[p][i],
                };
                // SAFETY: this task alone touches these panels' columns.
                crate::store_part(isa, sum, unsafe { self.out.part((t + i) * self.w.rows + at, n) });
            }
        }
    }
}

/// Sums between chunks: `[rows][panels]` vectors.
#[repr(C, align(64))]
struct Sums<const P: usize>([[[f32; LANES]; P]; ROWS]);

impl<const P: usize> Sums<P> {
    /// The sums so far of `T` rows from row `t` of the group on: none at the first input.
    #[inline(always)]
    fn get<I: Isa, const T: usize>(this: &MaybeUninit<Self>, isa: I, t: usize, input: usize) -> [[I::F; T]; P] {
        let mut acc = [[isa.splat(0.0); T]; P];
        if input > 0 {
            assert!(t + T <= ROWS);
            let rows: *const [[f32; LANES]; P] = this.as_ptr().cast();
            for i in 0..T {
                for p in 0..P {
                    // SAFETY: within the array; `set` wrote it after the chunk before.
                    acc[p][i] = isa.load(unsafe { &(*rows.add(t + i))[p] });
                }
            }
        }
        acc
    }

    #[inline(always)]
    fn set<I: Isa, const T: usize>(this: &mut MaybeUninit<Self>, isa: I, t: usize, acc: [[I::F; T]; P]) {
        assert!(t + T <= ROWS);
        let rows: *mut [[f32; LANES]; P] = this.as_mut_ptr().cast();
        for i in 0..T {
            for p in 0..P {
                // SAFETY: within the array.
                isa.store(acc[p][i], unsafe { &mut (*rows.add(t + i))[p] });
            }
        }
    }
}

/// A task of block-quantised weights.
struct Runs<'a, C>(Task<'a>, Blocks, &'a [QBlock], PhantomData<C>);

impl<C: Codes> Kernel for Runs<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match (self.0.rows, I::TILE.0) {
            (0..2, _) => isa.enter(Single(&self)),
            (_, 2) => self.many::<I, 2>(isa),
            _ => self.many::<I, 1>(isa),
        }
    }
}

/// One row.
struct Single<'a, C>(&'a Runs<'a, C>);

impl<C: Codes> Kernel for Single<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Runs(task, b, x, _) = self.0;
        for p in task.panels.clone().filter(|_| task.rows == 1) {
            // SAFETY: the panel is as `b` says; the row has as many inputs.
            let sum = unsafe { dots::packed::<I, C>(isa, b, task.panel(p), x.as_ptr(), task.w.cols / b.block) };
            task.put(isa, [p], 0, [[sum]]);
        }
    }
}

impl<C: Codes> Runs<'_, C> {
    #[inline(always)]
    fn many<I: Isa, const P: usize>(&self, isa: I) {
        let Runs(task, b, _, _) = self;
        let mut e = [const { MaybeUninit::uninit() }; P];
        let mut sums = MaybeUninit::uninit();
        for group in groups::<P>(&task.panels, task.rows, dots::CHUNK, task.w.cols / QK) {
            for (e, p) in e.iter_mut().zip(group.panels) {
                // SAFETY: the panel is as `b` says and has these runs.
                unsafe { dots::expand::<I, C>(isa, b, task.panel(p), group.inputs.start, group.inputs.len(), e) }
            }
            let mut t = group.rows.start;
            while t < group.rows.end {
                by_rows!(group.rows.end - t, I::TILE.1, |T| {
                    let tile = (self, &group, &e, &mut sums, t);
                    match (I::DOT4, C::HALVES) {
                        (true, false) => isa.enter(Tile::<C, dots::Eight, P, T>(tile, PhantomData)),
                        (true, true) => isa.enter(Tile::<C, dots::SixHalves, P, T>(tile, PhantomData)),
                        (false, _) => isa.enter(Tile::<C, C, P, T>(tile, PhantomData)),
                    }
                    t += T;
                });
            }
        }
    }
}

/// Expanded runs of `P` panels times the `T` rows from a row on. `W` says how large codes are.
struct Tile<'a, C, W, const P: usize, const T: usize>(Place<'a, C, P>, PhantomData<W>);

/// A task, a part of it, its expansion, its sums, and a row.
type Place<'a, C, const P: usize> =
    (&'a Runs<'a, C>, &'a Group<P>, &'a [MaybeUninit<dots::Expanded>; P], &'a mut MaybeUninit<Sums<P>>, usize);

impl<C: Codes, W: Codes, const P: usize, const T: usize> Kernel for Tile<'_, C, W, P, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (Runs(task, b, x, _), Group { panels, rows, inputs }, e, sums, t) = self.0;
        let mut acc = Sums::get::<I, T>(sums, isa, t - rows.start, inputs.start);
        // SAFETY: the runs are expanded; the rows have them.
        unsafe {
            let x: [_; T] = rows_of(&x[inputs.start * task.rows..], inputs.len(), t, 0);
            dots::expanded::<I, W, P, T>(isa, b, e, x, inputs.len(), &mut acc);
        }
        if inputs.end * QK == task.w.cols {
            task.put(isa, *panels, t, acc);
        } else {
            Sums::set(sums, isa, t - rows.start, acc);
        }
    }
}

/// A task of float weights.
struct Floats<'a, W>(Task<'a>, &'a [f32], PhantomData<W>);

impl<W: Float> Kernel for Floats<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match I::TILE.0 {
            2 => self.panels::<I, 2>(isa),
            _ => self.panels::<I, 1>(isa),
        }
    }
}

impl<W: Float> Floats<'_, W> {
    #[inline(always)]
    fn panels<I: Isa, const P: usize>(&self, isa: I) {
        let Floats(task, x, _) = self;
        let chunk = if task.rows == 1 { task.w.cols } else { float::CHUNK };
        let mut e = [const { MaybeUninit::uninit() }; P];
        let mut sums = MaybeUninit::uninit();
        for group in groups::<P>(&task.panels, task.rows, chunk, task.w.cols) {
            let mut lines = [std::ptr::null::<[W::Bits; LANES]>(); P];
            for p in 0..P {
                // SAFETY: inside the panel.
                lines[p] = unsafe { task.panel(group.panels[p]).cast::<[W::Bits; LANES]>().add(group.inputs.start) };
            }
            if task.rows == 1 {
                isa.enter(FloatTile::<W, P, 1> { task, x, group: &group, lines, sums: &mut sums, t: 0 });
                continue;
            }
            for p in 0..P {
                // SAFETY: the panel has these inputs.
                unsafe { float::expand::<I, W>(isa, lines[p], group.inputs.len(), &mut e[p]) }
            }
            let lines = from_fn(|p| float::Expanded::lines(&e[p]));
            let mut t = group.rows.start;
            while t < group.rows.end {
                by_rows!(group.rows.end - t, I::TILE.1, |T| {
                    isa.enter(FloatTile::<float::F32, P, T> { task, x, group: &group, lines, sums: &mut sums, t });
                    t += T;
                });
            }
        }
    }
}

/// Some inputs of `P` panels times `T` rows.
struct FloatTile<'a, W: Float, const P: usize, const T: usize> {
    task: &'a Task<'a>,
    x: &'a [f32],
    group: &'a Group<P>,
    lines: [*const [W::Bits; LANES]; P],
    sums: &'a mut MaybeUninit<Sums<P>>,
    t: usize,
}

impl<W: Float, const P: usize, const T: usize> Kernel for FloatTile<'_, W, P, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (task, Group { panels, rows, inputs }) = (self.task, self.group);
        let mut acc = Sums::get::<I, T>(self.sums, isa, self.t - rows.start, inputs.start);
        // SAFETY: `lines` are the inputs of the group's panels; the rows have them.
        unsafe {
            let x: [_; T] = rows_of(self.x, task.w.cols, self.t, inputs.start);
            float::tile::<I, W, P, T>(isa, self.lines, x, inputs.len(), &mut acc);
        }
        if inputs.end == task.w.cols {
            task.put(isa, *panels, self.t, acc);
        } else {
            Sums::set(self.sums, isa, self.t - rows.start, acc);
        }
    }
}

/// What is computed between two expansions.
struct Group<const P: usize> {
    panels: [usize; P],
    rows: Range<usize>,
    inputs: Range<usize>,
}

/// Every group of `P` panels, at most [`ROWS`] rows and `chunk` of `all` inputs, inputs ascending. The last panel
/// stands twice in a group that is not full: it is then computed twice.
fn groups<const P: usize>(
    panels: &Range<usize>,
    rows: usize,
    chunk: usize,
    all: usize,
) -> impl Iterator<Item = Group<P>> {
    let end = panels.end;
    panels.clone().step_by(P).flat_map(move |p| {
        (0..rows).step_by(ROWS).flat_map(move |t| {
            (0..all).step_by(chunk).map(move |k| Group {
                panels: from_fn(|i| (p + i).min(end - 1)),
                rows: t..rows.min(t + ROWS),
                inputs: k..all.min(k + chunk),
            })
        })
    })
}

/// Pointers to element `k` of each of `T` rows of `width` elements, from row `t` on.
#[inline(always)]
fn rows_of<X, const T: usize>(x: &[X], width: usize, t: usize, k: usize) -> [*const X; T] {
    let x = &x[t * width..(t + T) * width];
    from_fn(|i| x[i * width + k..].as_ptr())
}
