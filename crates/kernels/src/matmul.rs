//! Matrix products: `out[t][n] = Σ_k x[t][k] · w[n][k] + bias[n]`.
//!
//! One accumulator per output, inputs in ascending order; `float.rs` and `dots.rs` say which operations. Few rows are
//! multiplied with the packed weights as they are; more rows share the work of expanding them, a chunk of inputs at a
//! time, small enough for the first-level cache. Sums rest in memory between chunks. This changes no bit.
#![allow(unsafe_code)]
// No closures around vector code: they are compiled without the level's instructions unless inlined.
#![allow(clippy::needless_range_loop)]

use crate::buf::Shared;
use crate::dots::{self, Codes};
use crate::float::{self, Float};
use crate::pack::{Blocks, Kind};
use crate::place::{Group, Place, Sums, groups};
use crate::quantize::{QBlock, QK, RUNS};
use crate::{BTile, Ctx, Packed, WORTH_SPLITTING, fast};
use alula_simd::{Amx, Isa, Kernel, LANES, Tiles};
use std::array::from_fn;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The left operand, `[rows, cols]`.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// For float weights.
    F32(&'a [f32]),
    /// For quantised weights: what [`quantize`](crate::quantize()) makes of them.
    Q8(&'a [QBlock]),
    /// For all weights, where [`Cpu::bf16`](alula_simd::Cpu::bf16) is there: what [`round`](crate::round()) makes of them.
    B16(&'a [BTile]),
}

/// Panels per task.
const PANELS: usize = 4;
/// Up to so many rows, weights are unpacked in registers, for every tile anew; more rows share expanded chunks.
const FEW: usize = 48;
/// The same for floats.
const FEW_FLOATS: usize = 24;
/// From so many rows on, products of bfloat16 pay where the machine has them.
pub const TILED: usize = 32;

/// Runs the body with `$c` the [`Codes`] of blocks, and `$mins` whether they have minimums.
macro_rules! by_codes {
    ($b:expr, |$c:ident, $mins:ident| $body:expr) => {
        by_codes!($b, $c, $mins, $body,
            (4, false, false) => Four: false true, (4, false, true) => FourHalves: false true, (4, true, false) => Table: false,
            (5, false, false) => Five: false true, (6, false, true) => SixHalves: false, (8, false, false) => Eight: false)
    };
    ($b:expr, $c:ident, $mins:ident, $body:expr, $($key:pat => $codes:ident: $($m:literal)*),*) => {
        match ($b.width, $b.table.is_some(), $b.halves()) {
            $($key => {
                type $c = dots::$codes;
                match $b.mins {
                    $($m => {
                        const $mins: bool = $m;
                        $body
                    })*
                    #[allow(unreachable_patterns)]
                    _ => unreachable!("no format is packed like this"),
                }
            })*
            _ => unreachable!("no format is packed like this"),
        }
    };
}

/// One of the products of a step: `out = x · wᵀ + bias`, `[rows, w.rows()]`.
pub struct Product<'a> {
    x: Input<'a>,
    w: &'a Packed,
    bias: Option<&'a [f32]>,
    rows: usize,
    out: Shared<f32>,
    /// From one row of `out` to the next.
    stride: usize,
    _out: PhantomData<&'a mut [f32]>,
}

impl<'a> Product<'a> {
    /// # Panics
    /// If `bias` or `out` does not fit `w`.
    pub fn new(x: Input<'a>, w: &'a Packed, bias: Option<&'a [f32]>, out: &'a mut [f32]) -> Product<'a> {
        assert!(out.len().is_multiple_of(w.rows.max(1)) && bias.is_none_or(|b| b.len() == w.rows));
        Product {
            x,
            w,
            bias,
            rows: out.len() / w.rows.max(1),
            out: Shared::new(out),
            stride: w.rows,
            _out: PhantomData,
        }
    }

    /// One without a bias, whose rows are `stride` apart in `out`.
    ///
    /// # Panics
    /// If `out` is too short.
    pub(crate) fn apart(x: Input<'a>, w: &'a Packed, rows: usize, out: Shared<f32>, stride: usize) -> Product<'a> {
        assert!(stride >= w.rows);
        Product { x, w, bias: None, rows, out, stride, _out: PhantomData }
    }

    fn fits(&self, ctx: Ctx<'_>) -> bool {
        let (w, rows) = (self.w, self.rows);
        match self.x {
            Input::F32(x) => !w.quantized() && x.len() == rows * w.cols,
            Input::Q8(x) => w.quantized() && x.len() == QBlock::count(rows, w.cols),
            Input::B16(x) => ctx.cpu.bf16().is_some() && x.len() == BTile::count(rows, w.cols),
        }
    }

    /// Panels of a task.
    fn per_task(&self, threads: usize) -> usize {
        PANELS.min(self.w.rows.div_ceil(LANES).div_ceil(2 * threads)).max(1)
    }

    pub(crate) fn tasks(&self, threads: usize) -> usize {
        if self.rows == 0 { 0 } else { self.w.rows.div_ceil(LANES).div_ceil(self.per_task(threads)) }
    }

    /// Computes the task of that number.
    ///
    /// # Panics
    /// If `x` does not fit.
    pub(crate) fn run(&self, ctx: Ctx<'_>, task: usize) {
        assert!(self.fits(ctx));
        let Product { x, w, bias, rows, ref out, stride, .. } = *self;
        let per_task = self.per_task(ctx.pool.threads());
        let panels = task * per_task..w.rows.div_ceil(LANES).min((task + 1) * per_task);
        let task = Task { w, bias, rows, panels, out, stride, amx: ctx.cpu.amx() };
        match (w.kind, x) {
            (Kind::F32, Input::F32(x)) => ctx.cpu.run(Floats::<float::F32>(task, x, PhantomData)),
            (Kind::F16, Input::F32(x)) => ctx.cpu.run(Floats::<float::F16>(task, x, PhantomData)),
            (Kind::BF16, Input::F32(x)) => ctx.cpu.run(Floats::<float::BF16>(task, x, PhantomData)),
            (Kind::Blocks(b), Input::Q8(x)) => {
                by_codes!(b, |C, MINS| ctx.cpu.run(Runs::<C, MINS>(task, b, x, PhantomData)));
            }
            (kind, Input::B16(x)) => {
                let Some(unit) = ctx.cpu.bf16() else { return };
                match kind {
                    Kind::F32 => fast::product(unit, task, fast::Floats::<float::F32>(PhantomData), x),
                    Kind::F16 => fast::product(unit, task, fast::Floats::<float::F16>(PhantomData), x),
                    Kind::BF16 => fast::product(unit, task, fast::Floats::<float::BF16>(PhantomData), x),
                    Kind::Blocks(b) => by_codes!(b, |C, MINS| {
                        fast::product(unit, task, fast::Quantised::<C, MINS>(b, PhantomData), x);
                    }),
                }
            }
            _ => unreachable!("`fits` has seen to it"),
        }
    }
}

/// Several products as one job of the pool.
///
/// # Panics
/// If an `x` does not fit, or is of the wrong kind for its weights (see [`Packed::quantized`]).
pub fn matmuls(ctx: Ctx<'_>, products: &[Option<Product<'_>>]) {
    let threads = ctx.pool.threads();
    let (mut tasks, mut work) = (0, 0);
    for p in products.iter().flatten() {
        assert!(p.w.rows == 0 || p.fits(ctx));
        tasks += p.tasks(threads);
        work += p.w.rows * p.w.cols * p.rows;
    }
    ctx.pool.run(tasks, work > WORTH_SPLITTING, |mut task, _| {
        for p in products.iter().flatten() {
            let own = p.tasks(threads);
            if task < own {
                return p.run(ctx, task);
            }
            task -= own;
        }
    });
}

/// `out = x · wᵀ + bias`, `[rows, w.rows()]`.
///
/// # Panics
/// If the operands' lengths do not fit, or `x` is of the wrong kind for `w` (see [`Packed::quantized`]).
pub fn matmul(ctx: Ctx<'_>, x: Input<'_>, w: &Packed, bias: Option<&[f32]>, out: &mut [f32]) {
    matmuls(ctx, &[Some(Product::new(x, w, bias, out))]);
}

/// `n` products of the same shape but for their rows, of which there are `rows` in all, as one job of the pool.
pub(crate) fn alike<'a>(ctx: Ctx<'_>, n: usize, rows: usize, product: impl Fn(usize) -> Product<'a> + Sync) {
    if n == 0 {
        return;
    }
    let first = product(0);
    let each = first.tasks(ctx.pool.threads());
    let work = rows * first.w.rows * first.w.cols;
    ctx.pool.run(n * each, work > WORTH_SPLITTING, |task, _| product(task / each).run(ctx, task % each));
}

/// Some panels of a product.
pub(crate) struct Task<'a> {
    pub(crate) w: &'a Packed,
    bias: Option<&'a [f32]>,
    pub(crate) rows: usize,
    pub(crate) panels: Range<usize>,
    out: &'a Shared<f32>,
    stride: usize,
    amx: Option<Amx>,
}

/// Runs the body for tiles that cover `$rows` rows: `$t` is a tile's first row, `$size` its constant size, a power of two
/// up to `$most`. Where the last tile would not be full it begins earlier, and computes some rows again.
macro_rules! tiles {
    ($rows:expr, $most:expr, |$t:ident, $size:ident| $body:expr) => {{
        let (mut done, rows): (usize, usize) = (0, $rows);
        while done < rows {
            let fits = (rows + 1).next_power_of_two() / 2;
            let size = (rows - done).next_power_of_two().min(fits).min($most);
            let $t = done.min(rows - size);
            tiles!(size, $size, $body, 8 4 2 1);
            done = $t + size;
        }
    }};
    ($have:expr, $size:ident, $body:expr, $($n:literal)*) => {
        match $have {
            $($n => {
                const $size: usize = $n;
                $body
            })*
            _ => unreachable!("a power of two up to 8"),
        }
    };
}

impl Task<'_> {
    /// A panel's memory.
    #[inline(always)]
    pub(crate) fn panel(&self, p: usize) -> *const u8 {
        assert!((p + 1) * self.w.panel <= self.w.data.len());
        // SAFETY: inside the buffer.
        unsafe { self.w.data.as_ptr().add(p * self.w.panel) }
    }

    /// Says that the sums of row `t` in a panel, if there is such a row, will be put soon.
    #[inline(always)]
    pub(crate) fn fetch<I: Isa>(&self, isa: I, panel: usize, t: usize) {
        isa.prefetch(self.out.at(t * self.stride + panel * LANES).cast());
    }

    /// Puts the finished sums of `T` rows from row `t` on in some panels where they belong, with the bias.
    #[inline(always)]
    pub(crate) fn put<I: Isa, const P: usize, const T: usize>(
        &self,
        isa: I,
        panels: [usize; P],
        t: usize,
        acc: [[I::F; T]; P],
    ) {
        for p in 0..P {
            let (at, n) = (panels[p] * LANES, LANES.min(self.w.rows - panels[p] * LANES));
            for i in 0..T {
                let sum = match self.bias {
                    Some(bias) => isa.add(acc[p][i], crate::load_part(isa, &bias[at..at + n])),
                    None => acc[p][i],
                };
                // SAFETY: this task alone touches these panels' columns.
                crate::store_part(isa, sum, unsafe { self.out.part((t + i) * self.stride + at, n) });
            }
        }
    }
}

/// A task of block-quantised weights.
struct Runs<'a, C, const MINS: bool>(Task<'a>, Blocks, &'a [QBlock], PhantomData<C>);

impl<C: Codes, const MINS: bool> Kernel for Runs<'_, C, MINS> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match I::TILE {
            (2, 6) if I::DOT4 && self.0.rows >= dots::TILE && self.0.amx.is_some() => self.tiles(isa),
            _ if self.0.rows <= FEW => self.few(isa),
            (2, 6) => self.many::<I, 2, 6>(isa),
            (1, 4) => self.many::<I, 1, 4>(isa),
            _ => self.many::<I, 1, 1>(isa),
        }
    }
}

/// `T` rows from row `t` on times a panel as it is packed.
struct Few<'a, C, const MINS: bool, const T: usize> {
    runs: &'a Runs<'a, C, MINS>,
    panel: usize,
    t: usize,
}

impl<C: Codes, const MINS: bool, const T: usize> Kernel for Few<'_, C, MINS, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (Runs(task, b, x, _), panel, t) = (self.runs, self.panel, self.t);
        assert!(t + T <= task.rows);
        // The first rows read the panel from memory, the next from the cache: time to fetch the panel that follows.
        let ahead = if t == 0 { dots::AHEAD } else { task.w.panel };
        // SAFETY: the panel is as `b` says; the rows have as many inputs.
        let acc = unsafe {
            let x = x.as_ptr().add(t * RUNS);
            dots::packed::<I, C, MINS, T>(isa, b, task.panel(panel), x, task.rows * RUNS, task.w.cols / b.block, ahead)
        };
        task.put(isa, [panel], t, acc);
    }
}

impl<C: Codes, const MINS: bool> Runs<'_, C, MINS> {
    #[inline(always)]
    fn few<I: Isa>(&self, isa: I) {
        for panel in self.0.panels.clone() {
            tiles!(self.0.rows, I::TILE.1.next_power_of_two(), |t, T| isa.enter(Few::<C, MINS, T> {
                runs: self,
                panel,
                t
            }));
        }
    }

    #[inline(always)]
    fn many<I: Isa, const P: usize, const T: usize>(&self, isa: I) {
        let Runs(task, b, x, _) = self;
        let mut e = [const { MaybeUninit::uninit() }; P];
        let mut sums = MaybeUninit::uninit();
        for group in groups::<P>(&task.panels, task.rows, dots::CHUNK, task.w.cols / QK) {
            for (e, p) in e.iter_mut().zip(group.panels) {
                // SAFETY: the panel is as `b` says and has these runs.
                unsafe {
                    dots::expand::<I, C, MINS, false>(isa, b, task.panel(p), group.inputs.start, group.inputs.len(), e)
                }
            }
            for tile in 0..group.rows.len().div_ceil(T) {
                let place = Place { task, group: &group, sums: &mut sums, tile };
                match (I::DOT4, C::HALVES) {
                    (true, false) => isa.enter(Tile::<dots::Eight, MINS, P, T>(place, b, x, &e, PhantomData)),
                    (true, true) => isa.enter(Tile::<dots::SixHalves, MINS, P, T>(place, b, x, &e, PhantomData)),
                    (false, _) => isa.enter(Tile::<C, MINS, P, T>(place, b, x, &e, PhantomData)),
                }
            }
        }
    }

    #[inline(always)]
    fn tiles<I: Isa>(&self, isa: I) {
        let Runs(task, b, x, _) = self;
        let Some(amx) = task.amx else { return };
        let tiles = amx.configure(if C::HALVES { QK / 2 } else { QK });
        let mut e = [const { MaybeUninit::uninit() }; PANELS];
        let mut sums = [const { MaybeUninit::uninit() }; PANELS];
        for group in groups::<PANELS>(&task.panels, task.rows, dots::CHUNK, task.w.cols / QK) {
            // A panel that stands twice would be the same again.
            let panels = (1..PANELS).take_while(|&p| group.panels[p] > group.panels[p - 1]).count() + 1;
            let groups: [_; PANELS] = from_fn(|p| Group {
                panels: [group.panels[p]],
                rows: group.rows.clone(),
                inputs: group.inputs.clone(),
            });
            for p in 0..panels {
                let panel = task.panel(group.panels[p]);
                // SAFETY: the panel is as `b` says and has these runs.
                unsafe {
                    dots::expand::<I, C, MINS, true>(isa, b, panel, group.inputs.start, group.inputs.len(), &mut e[p]);
                }
            }
            // All panels meet a tile of activations before the next one: those stay in the first-level cache.
            for tile in 0..group.rows.len().div_ceil(dots::TILE) {
                for p in 0..panels {
                    let place = Place { task, group: &groups[p], sums: &mut sums[p], tile };
                    if C::HALVES {
                        isa.enter(Tiled::<dots::SixHalves, MINS>(place, x, &e[p], &tiles, p, PhantomData));
                    } else {
                        isa.enter(Tiled::<dots::Eight, MINS>(place, x, &e[p], &tiles, p, PhantomData));
                    }
                }
            }
        }
    }
}

/// Expanded runs of a panel times 16 rows, by tiles. `W` says how many scales a run has.
struct Tiled<'a, W, const MINS: bool>(
    Place<'a, 1, { dots::TILE }>,
    &'a [QBlock],
    &'a MaybeUninit<dots::Expanded>,
    &'a Tiles,
    usize,
    PhantomData<W>,
);

impl<W: Codes, const MINS: bool> Kernel for Tiled<'_, W, MINS> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tiled(place, x, e, tiles, panel, _) = self;
        let (x, inputs, all) = (place.column(x), &place.group.inputs, place.task.w.cols / QK);
        place.fetch(isa, all);
        let acc = Sums::rest(place.sums, isa, place.tile, inputs.start);
        // SAFETY: the runs are expanded; the column has those of 16 rows, whose sums are there; the tiles are for `W`.
        unsafe { dots::tiled::<I, W, MINS>(isa, tiles, e, x.as_ptr(), inputs.len(), panel, acc.cast()) }
        if inputs.end == all {
            for i in 0..dots::TILE {
                // SAFETY: the sums are written.
                let sum = isa.load(unsafe { &(*acc.add(i))[0] });
                place.task.put(isa, place.group.panels, place.row() + i, [[sum]]);
            }
        }
    }
}

/// Expanded runs of `P` panels times `T` rows. `W` says how large codes are.
struct Tile<'a, W, const MINS: bool, const P: usize, const T: usize>(
    Place<'a, P, T>,
    &'a Blocks,
    &'a [QBlock],
    &'a [MaybeUninit<dots::Expanded>; P],
    PhantomData<W>,
);

impl<W: Codes, const MINS: bool, const P: usize, const T: usize> Kernel for Tile<'_, W, MINS, P, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tile(place, b, x, e, _) = self;
        let (x, runs, all) = (place.column(x), place.group.inputs.len(), place.task.w.cols / QK);
        place.fetch(isa, all);
        let mut acc = place.get(isa);
        // SAFETY: the runs are expanded; the column has those of `T` rows.
        unsafe { dots::expanded::<I, W, MINS, P, T>(isa, b, e, x.as_ptr(), runs, &mut acc) }
        place.set(isa, all, acc);
    }
}

/// A task of float weights.
struct Floats<'a, W>(Task<'a>, &'a [f32], PhantomData<W>);

impl<W: Float> Kernel for Floats<'_, W> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match (self.0.rows, I::TILE) {
            (1, (2, 6)) => self.panels::<I, 2, 1>(isa),
            (2..4, (2, 6)) => self.panels::<I, 2, 2>(isa),
            (4..12, (2, 6)) => self.panels::<I, 2, 4>(isa),
            (12.., (2, 6)) => self.panels::<I, 2, 6>(isa),
            (2..4, (1, 4)) => self.panels::<I, 1, 2>(isa),
            (4.., (1, 4)) => self.panels::<I, 1, 4>(isa),
            _ => self.panels::<I, 1, 1>(isa),
        }
    }
}

impl<W: Float> Floats<'_, W> {
    #[inline(always)]
    fn panels<I: Isa, const P: usize, const T: usize>(&self, isa: I) {
        let Floats(task, x, _) = self;
        // Only the largest tiles meet an expansion often enough.
        let expand = T == I::TILE.1 && task.rows > FEW_FLOATS;
        let chunk = if expand { float::CHUNK } else { task.w.cols };
        let mut e = [const { MaybeUninit::uninit() }; P];
        let mut sums = MaybeUninit::uninit();
        for group in groups::<P>(&task.panels, task.rows, chunk, task.w.cols) {
            let mut lines = [std::ptr::null::<[W::Bits; LANES]>(); P];
            for p in 0..P {
                // SAFETY: inside the panel.
                lines[p] = unsafe { task.panel(group.panels[p]).cast::<[W::Bits; LANES]>().add(group.inputs.start) };
            }
            let tiles = 0..group.rows.len().div_ceil(T);
            if expand {
                for p in 0..P {
                    // SAFETY: the panel has these inputs.
                    unsafe { float::expand::<I, W>(isa, lines[p], group.inputs.len(), &mut e[p]) }
                }
                let lines = from_fn(|p| float::Expanded::lines(&e[p]));
                for tile in tiles {
                    let place = Place { task, group: &group, sums: &mut sums, tile };
                    isa.enter(FloatTile::<float::F32, P, T, false> { place, x, lines });
                }
            } else {
                for tile in tiles {
                    let place = Place { task, group: &group, sums: &mut sums, tile };
                    isa.enter(FloatTile::<W, P, T, true> { place, x, lines });
                }
            }
        }
    }
}

/// Some inputs of `P` panels times `T` rows; `FAR` as for [`float::tile`].
struct FloatTile<'a, W: Float, const P: usize, const T: usize, const FAR: bool> {
    place: Place<'a, P, T>,
    x: &'a [f32],
    lines: [*const [W::Bits; LANES]; P],
}

impl<W: Float, const P: usize, const T: usize, const FAR: bool> Kernel for FloatTile<'_, W, P, T, FAR> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (cols, place) = (self.place.task.w.cols, self.place);
        let inputs = &place.group.inputs;
        let mut acc = place.get(isa);
        // SAFETY: `lines` are the inputs of the group's panels; the rows have them.
        unsafe {
            let x: [_; T] = rows_of(self.x, cols, place.row(), inputs.start);
            float::tile::<I, W, P, T, FAR>(isa, self.lines, x, inputs.len(), &mut acc);
        }
        place.set(isa, cols, acc);
    }
}

/// Pointers to element `k` of each of `T` rows of `width` elements, from row `t` on.
#[inline(always)]
fn rows_of<X, const T: usize>(x: &[X], width: usize, t: usize, k: usize) -> [*const X; T] {
    let x = &x[t * width..(t + T) * width];
    from_fn(|i| x[i * width + k..].as_ptr())
}
