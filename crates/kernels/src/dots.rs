//! Products of block-quantised weights with 8-bit activations: a tile of panels by rows.
//!
//! For every scale of the weights, in ascending order: the exact integer sum of its codes' products, then one fused
//! multiply-add with the product of both scales, then, where the format has minimums, one with the minimum and
//! `QBlock::mins`. How codes lie in memory, how they are unpacked and how many products an instruction takes change
//! no bit.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // row t of several arrays

use crate::pack::{Blocks, LINE};
use crate::quantize::{QBlock, QK, RUNS};
use alula_simd::{Isa, LANES, Tiles};
use std::array::from_fn;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Steps of 4 inputs in a run of 32.
const STEPS: usize = QK / 4;

/// How a run of 32 inputs of 16 rows lies in memory.
pub(crate) trait Codes {
    /// Lines of a run.
    const LINES: usize;
    /// Steps whose products [`Isa::dot4_small`] may add up: 8 · 4 codes below 2⁴, and half as many for each bit
    /// more. 0 where the codes are too large for it.
    const SMALL: usize;
    /// Whether there are two scales to a run.
    const HALVES: bool;
    /// Whether codes were expanded to bytes.
    const WIDE: bool = false;
    /// The codes of a step. Where [`Isa::SIGNED`], those too large to be signed bytes come without their offset, and so
    /// must the table.
    ///
    /// # Safety
    /// `p` points to the run's lines.
    unsafe fn step<I: Isa>(isa: I, p: *const [u8; LINE], table: I::B, step: usize) -> I::B;
}

/// Whether the offset of codes is taken off where they are unpacked, as they must be signed bytes, and not from sums.
const fn early<I: Isa, C: Codes>() -> bool {
    I::SIGNED && C::SMALL == 0
}

/// The low four bits of a step's codes.
#[inline(always)]
unsafe fn low<I: Isa>(isa: I, p: *const [u8; LINE], step: usize) -> I::B {
    // SAFETY: by the contract of `Codes::step`.
    let v = isa.load_b(unsafe { &*p.add(step % 4) });
    isa.and_b(if step < 4 { v } else { isa.shift_b(v, 4) }, isa.splat_b(15))
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident, $lines:literal, $small:literal, $halves:literal, |$isa:ident, $p:ident, $table:ident, $step:ident| $body:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Codes for $name {
            const LINES: usize = $lines;
            const SMALL: usize = $small;
            const HALVES: bool = $halves;
            #[inline(always)]
            unsafe fn step<I: Isa>($isa: I, $p: *const [u8; LINE], $table: I::B, $step: usize) -> I::B {
                // SAFETY: by the contract.
                unsafe { $body }
            }
        }
    };
}

codes!(
    /// Four bits.
    Four, 4, 8, false, |isa, p, _table, step| low(isa, p, step)
);
codes!(
    /// Four bits, two scales.
    FourHalves, 4, 8, true, |isa, p, _table, step| low(isa, p, step)
);
codes!(
    /// Four-bit indices.
    Table, 4, 0, false, |isa, p, table, step| isa.lookup(table, low(isa, p, step))
);
codes!(
    /// Five bits.
    Five, 5, 4, false, |isa, p, _table, step| {
        let high = isa.shift_b(isa.load_b(&*p.add(4)), step as i32 - 4);
        isa.or_b(low(isa, p, step), isa.and_b(high, isa.splat_b(16)))
    }
);
codes!(
    /// Six bits, two scales.
    SixHalves, 6, 2, true, |isa, p, _table, step| {
        let high = isa.shift_b(isa.load_b(&*p.add(4 + step / 4)), 2 * (step as i32 % 4) - 4);
        isa.or_b(low(isa, p, step), isa.and_b(high, isa.splat_b(48)))
    }
);
codes!(
    /// Bytes, whose offset is 128.
    Eight, 8, 0, false, |isa, p, _table, step| {
        let v = isa.load_b(&*p.add(step));
        if I::SIGNED { isa.sub_b(v, isa.splat_b(128)) } else { v }
    }
);

/// Codes of the size of `C`, expanded to bytes.
struct Wide<C>(PhantomData<C>);

impl<C: Codes> Codes for Wide<C> {
    const LINES: usize = STEPS;
    const SMALL: usize = C::SMALL;
    const HALVES: bool = C::HALVES;
    const WIDE: bool = true;
    #[inline(always)]
    unsafe fn step<I: Isa>(isa: I, p: *const [u8; LINE], table: I::B, step: usize) -> I::B {
        // SAFETY: by the contract.
        unsafe { Eight::step(isa, p, table, step) }
    }
}

/// What of a run is not codes: scales and minimums of one panel, in single precision; one of each, or one per half.
#[derive(Clone, Copy)]
struct Factors<F> {
    scale: [F; 2],
    min: [F; 2],
}

/// Adds a run of 32 inputs to `acc`.
///
/// # Safety
/// `w` points to the runs of `P` panels, `x` to the block of the first of `T` rows whose columns lie together.
#[inline(always)]
unsafe fn run<I: Isa, C: Codes, const MINS: bool, const P: usize, const T: usize>(
    isa: I,
    w: [*const [u8; LINE]; P],
    table: I::B,
    factors: [Factors<I::F>; P],
    shift: I::I,
    x: *const QBlock,
    acc: &mut [[I::F; T]; P],
) {
    // Row t's block is at a constant distance, so that one register addresses all.
    // SAFETY: by the contract.
    let x: [&QBlock; T] = from_fn(|t| unsafe { &*x.add(t * RUNS) });
    // Steps whose small sums are together.
    let chunk = if C::SMALL == 0 || I::DOT4 { 1 } else { C::SMALL.min(if C::HALVES { STEPS / 2 } else { STEPS }) };
    let mut small = [[isa.zero_s(); T]; P];
    // Written out, so that everything that depends on the step is a constant.
    macro_rules! half {
        ($half:expr, $which:expr, $($step:literal)*) => {{
            let mut sums = [[isa.splat_i(0); T]; P];
            const L: usize = [$($step),*].len();
            if const { I::PRODUCTS && C::WIDE } {
                for p in 0..P {
                    // SAFETY: a run has 8 lines and `q` 8 steps of 4 bytes; the half's are among them.
                    sums[p] = unsafe {
                        let first = $half * L;
                        let x = from_fn(|t| &*(&raw const x[t].q).cast::<[i8; 4]>().add(first).cast::<[[i8; 4]; L]>());
                        isa.products(&*w[p].add(first).cast::<[[u8; LINE]; L]>(), x)
                    };
                }
            } else if const { !MINS && !early::<I, C>() } {
                // Σ (code + offset) q - offset Σ q = Σ code · q
                for t in 0..T {
                    let start = isa.shl(isa.splat_i(x[t].less[$which]), shift);
                    for p in 0..P {
                        sums[p][t] = start;
                    }
                }
            }
            $(if const { !(I::PRODUCTS && C::WIDE) } {
                let mut codes = [table; P];
                for p in 0..P {
                    // SAFETY: by the contract.
                    codes[p] = unsafe { C::step(isa, w[p], table, $step) };
                }
                for t in 0..T {
                    // SAFETY: `q` has 8 steps of 4 bytes.
                    let four = unsafe { (&raw const x[t].q).cast::<i32>().add($step).read_unaligned() };
                    for p in 0..P {
                        if I::DOT4 || C::SMALL == 0 {
                            sums[p][t] = isa.dot4(sums[p][t], codes[p], four);
                        } else {
                            small[p][t] = isa.dot4_small(small[p][t], codes[p], four);
                        }
                    }
                }
                if !I::DOT4 && C::SMALL > 0 && ($step + 1) % chunk == 0 {
                    for p in 0..P {
                        for t in 0..T {
                            sums[p][t] = isa.widen(sums[p][t], small[p][t]);
                            small[p][t] = isa.zero_s();
                        }
                    }
                }
            })*
            for t in 0..T {
                let scale = isa.splat(x[t].scale);
                for p in 0..P {
                    acc[p][t] = isa.fma(isa.to_f(sums[p][t]), isa.mul(factors[p].scale[$half], scale), acc[p][t]);
                }
                if MINS {
                    let total = isa.splat(x[t].mins[$which]);
                    for p in 0..P {
                        acc[p][t] = isa.fma(factors[p].min[$half], total, acc[p][t]);
                    }
                }
            }
        }};
    }
    if C::HALVES {
        half!(0, 0, 0 1 2 3);
        half!(1, 1, 4 5 6 7);
    } else {
        half!(0, 2, 0 1 2 3 4 5 6 7);
    }
}

/// `d` and `dmin` of a block.
///
/// # Safety
/// `block` points to a block as `b` says.
#[inline(always)]
unsafe fn scales<I: Isa>(isa: I, b: &Blocks, block: *const u8) -> [I::F; 2] {
    let p: *const [u16; LANES] = block.cast();
    // SAFETY: both stand at the block's start; the second only where there are minimums.
    unsafe {
        let second = &*p.add(usize::from(b.mins));
        if b.bf16 { [isa.load_bf16(&*p), isa.load_bf16(second)] } else { [isa.load_f16(&*p), isa.load_f16(second)] }
    }
}

/// 16 signed bytes.
///
/// # Safety
/// `p` points to them.
#[inline(always)]
unsafe fn ints<I: Isa>(isa: I, p: *const u8) -> I::F {
    // SAFETY: by the contract.
    isa.to_f(isa.load_i8(unsafe { &*p.cast() }))
}

/// The factors of run `run` of a block, whose `d` and `dmin` are given.
///
/// # Safety
/// `block` points to a block as `b` says; `run` is in it.
#[inline(always)]
unsafe fn factors<I: Isa, C: Codes, const MINS: bool>(
    isa: I,
    b: &Blocks,
    block: *const u8,
    [d, dmin]: [I::F; 2],
    run: usize,
) -> Factors<I::F> {
    let zero = isa.splat(0.0);
    let mut f = Factors { scale: [zero; 2], min: [zero; 2] };
    // SAFETY: by the contract; all of these lie inside the block.
    unsafe {
        for h in 0..1 + usize::from(C::HALVES) {
            let at = (if C::HALVES { 2 * run + h } else { run }) * LANES;
            f.scale[h] = if b.scales { isa.mul(d, ints(isa, block.add(b.scales_at + at))) } else { d };
            if MINS {
                f.min[h] = if b.scales { isa.mul(dmin, ints(isa, block.add(b.mins_at + at))) } else { dmin };
            }
        }
    }
    f
}

/// How far ahead of its use a panel is fetched.
pub(crate) const AHEAD: usize = 4096;

/// Sums of `T` rows of activations with one packed panel, from nothing; what lies `ahead` bytes further is fetched.
///
/// # Safety
/// `w` points to a panel of `blocks` blocks as `b` says, and `C` is how its codes lie; `x` to the first column of `T`
/// rows with as many inputs, whose next columns are `column` blocks further each.
#[inline(always)]
pub(crate) unsafe fn packed<I: Isa, C: Codes, const MINS: bool, const T: usize>(
    isa: I,
    b: &Blocks,
    mut w: *const u8,
    mut x: *const QBlock,
    column: usize,
    blocks: usize,
    ahead: usize,
) -> [[I::F; T]; 1] {
    let table = isa.table(&b.table.unwrap_or_default());
    let table = if I::SIGNED { isa.sub_b(table, isa.splat_b(b.offset as u8)) } else { table };
    let shift = isa.load_i(&b.shift);
    let mut acc = [[isa.splat(0.0); T]];
    let (mut done, next) = (0, column - RUNS + 1);
    for _ in 0..blocks {
        // SAFETY: by the contract.
        let d = unsafe { scales(isa, b, w) };
        for run in 0..b.runs {
            // SAFETY: by the contract.
            unsafe {
                // Machines fetch ahead by themselves, but not into the next page. A line more, as there are factors too.
                for line in 0..C::LINES + 1 {
                    isa.prefetch(w.wrapping_add(ahead + (run * (C::LINES + 1) + line) * LINE));
                }
                let codes = w.add(b.codes_at + run * C::LINES * LINE).cast();
                let f = factors::<I, C, MINS>(isa, b, w, d, run);
                self::run::<I, C, MINS, 1, T>(isa, [codes], table, [f], shift, x, &mut acc);
            }
            done += 1;
            x = x.wrapping_add(if done % RUNS == 0 { next } else { 1 });
        }
        // SAFETY: at most one past the panel.
        w = unsafe { w.add(b.bytes) };
    }
    acc
}

/// Runs that are expanded at a time: those of a row that lie together.
pub(crate) const CHUNK: usize = RUNS;

/// A chunk of a panel: codes as bytes, factors in single precision.
#[repr(C, align(64))]
pub(crate) struct Expanded {
    codes: [[u8; LINE]; CHUNK * STEPS],
    scales: [[[f32; LANES]; 2]; CHUNK],
    mins: [[[f32; LANES]; 2]; CHUNK],
}

/// Expands `runs` runs of a panel from run `first` on; `SIGNED` codes are values, the others have the offset added. For
/// [`Isa::products`] they are values in pairs of steps.
///
/// # Safety
/// `w` points to a panel as `b` says that has these runs, and `C` is how its codes lie; `runs` <= [`CHUNK`].
#[inline(always)]
pub(crate) unsafe fn expand<I: Isa, C: Codes, const MINS: bool, const SIGNED: bool>(
    isa: I,
    b: &Blocks,
    w: *const u8,
    first: usize,
    runs: usize,
    out: &mut MaybeUninit<Expanded>,
) {
    let table = isa.table(&b.table.unwrap_or_default());
    let table = if I::SIGNED { isa.sub_b(table, isa.splat_b(b.offset as u8)) } else { table };
    let (per_block, offset) = (b.runs, isa.splat_b(b.offset as u8));
    // What comes next, while this is worked on.
    let ahead = w.wrapping_add((first + runs).div_ceil(per_block) * b.bytes);
    for line in 0..runs.div_ceil(per_block) * b.bytes / LINE {
        isa.prefetch(ahead.wrapping_add(line * LINE));
    }
    for i in 0..runs {
        let (block, run) = ((first + i) / per_block, (first + i) % per_block);
        // SAFETY: by the contract; only places inside `out` are written.
        unsafe {
            let w = w.add(block * b.bytes);
            let out = out.as_mut_ptr();
            let codes = (&raw mut (*out).codes).cast::<[u8; LINE]>().add(i * STEPS);
            for step in 0..STEPS {
                let v = C::step(isa, w.add(b.codes_at + run * C::LINES * LINE).cast(), table, step);
                let v = if const { (SIGNED || I::PRODUCTS) && !early::<I, C>() } { isa.sub_b(v, offset) } else { v };
                isa.store_b(v, &mut *codes.add(step));
            }
            if I::PRODUCTS {
                for pair in 0..STEPS / 2 {
                    let lines = &mut *codes.add(2 * pair).cast::<[[u8; LINE]; 2]>();
                    let two = isa.pair([isa.load_b(&lines[0]), isa.load_b(&lines[1])]);
                    isa.store_b(two[0], &mut lines[0]);
                    isa.store_b(two[1], &mut lines[1]);
                }
            }
            let f = factors::<I, C, MINS>(isa, b, w, scales(isa, b, w), run);
            let scales = (&raw mut (*out).scales).cast::<[f32; LANES]>().add(2 * i);
            let mins = (&raw mut (*out).mins).cast::<[f32; LANES]>().add(2 * i);
            for h in 0..1 + usize::from(C::HALVES) {
                isa.store(f.scale[h], &mut *scales.add(h));
                if MINS {
                    isa.store(f.min[h], &mut *mins.add(h));
                }
            }
        }
    }
}

/// Adds `runs` expanded runs of `P` panels to the sums of `T` rows.
///
/// # Safety
/// `w` are `P` chunks whose first `runs` runs `expand` wrote; `x` points to a column of the first of `T` rows that has
/// them. `W` says how large the codes are, and how many scales a run has.
#[inline(always)]
pub(crate) unsafe fn expanded<I: Isa, W: Codes, const MINS: bool, const P: usize, const T: usize>(
    isa: I,
    b: &Blocks,
    w: &[MaybeUninit<Expanded>; P],
    mut x: *const QBlock,
    runs: usize,
    acc: &mut [[I::F; T]; P],
) {
    let (none, shift) = (isa.table(&[0; 16]), isa.load_i(&b.shift));
    for run in 0..runs {
        // SAFETY: by the contract.
        unsafe {
            let at = from_fn(|p| (&raw const (*w[p].as_ptr()).codes).cast::<[u8; LINE]>().add(run * STEPS));
            let zero = isa.splat(0.0);
            let mut f = [Factors { scale: [zero; 2], min: [zero; 2] }; P];
            for p in 0..P {
                let e = w[p].as_ptr();
                for h in 0..1 + usize::from(W::HALVES) {
                    f[p].scale[h] = isa.load(&*(&raw const (*e).scales).cast::<[f32; LANES]>().add(2 * run + h));
                    if MINS {
                        f[p].min[h] = isa.load(&*(&raw const (*e).mins).cast::<[f32; LANES]>().add(2 * run + h));
                    }
                }
            }
            // The next tile's rows, while this one's are worked on.
            for t in 0..T {
                isa.prefetch(x.wrapping_add((T + t) * RUNS).cast());
            }
            self::run::<I, Wide<W>, MINS, P, T>(isa, at, none, f, shift, x, acc);
            x = x.wrapping_add(1);
        }
    }
}

/// Rows of a tile.
pub(crate) const TILE: usize = 16;

/// [`expanded`] by tiles: adds `runs` expanded runs of `SIGNED` codes of a panel to the sums of 16 rows.
///
/// # Safety
/// The first `runs` runs of `w` are written; `x` points to a column of the first of 16 rows that has them; the tiles are
/// configured for the inputs that share a scale; `acc` points to the sums, which nothing else uses.
#[inline(always)]
pub(crate) unsafe fn tiled<I: Isa, W: Codes, const MINS: bool>(
    isa: I,
    tiles: &Tiles,
    w: &MaybeUninit<Expanded>,
    x: *const QBlock,
    runs: usize,
    quarter: usize,
    acc: *mut [f32; LANES],
) {
    let [mut even, mut odd] = [const { MaybeUninit::uninit() }; 2];
    let (even, odd): (*mut Sums, *mut Sums) = (even.as_mut_ptr(), odd.as_mut_ptr());
    let groups = runs * (1 + usize::from(W::HALVES));
    // A quarter of the next tile's rows, while this one is worked on: with four panels, all of them.
    let fetch = |run: usize| {
        for t in 0..TILE / 4 {
            isa.prefetch(x.wrapping_add((TILE + quarter * TILE / 4 + t) * RUNS + run).cast());
        }
    };
    // The next product is on its way while the one before is added.
    // SAFETY: by the contract.
    unsafe { multiply::<W, false>(tiles, w, x, 0, even) }
    for i in (0..groups).step_by(2) {
        // SAFETY: by the contract.
        unsafe {
            if i + 1 < groups {
                multiply::<W, true>(tiles, w, x, i + 1, odd);
            }
            fetch(if W::HALVES { i / 2 } else { i });
            if !W::HALVES {
                fetch(i + 1);
            }
            add::<I, W, MINS>(isa, w, x, i, even, acc);
            if i + 2 < groups {
                multiply::<W, false>(tiles, w, x, i + 2, even);
            }
            if i + 1 < groups {
                add::<I, W, MINS>(isa, w, x, i + 1, odd, acc);
            }
        }
    }
}

/// A tile of exact sums.
#[repr(C, align(64))]
struct Sums([[i32; LANES]; TILE]);

/// The sums of the inputs that share scale `i` of an expanded chunk.
///
/// # Safety
/// As [`tiled`]; `out` can be written.
#[inline(always)]
unsafe fn multiply<W: Codes, const SECOND: bool>(
    tiles: &Tiles,
    w: &MaybeUninit<Expanded>,
    x: *const QBlock,
    i: usize,
    out: *mut Sums,
) {
    let (run, half) = if W::HALVES { (i / 2, i % 2) } else { (i, 0) };
    // SAFETY: by the contract.
    unsafe {
        let w = (&raw const (*w.as_ptr()).codes).cast::<[i8; LINE]>().add(run * STEPS + half * STEPS / 2);
        let x = (&raw const (*x.add(run)).q).cast::<i8>().add(half * QK / 2);
        tiles.product::<SECOND>(x, RUNS * size_of::<QBlock>(), w, (&raw mut (*out).0).cast());
    }
}

/// Adds the sums of scale `i`.
///
/// # Safety
/// As [`tiled`]; `sums` are written.
#[inline(always)]
unsafe fn add<I: Isa, W: Codes, const MINS: bool>(
    isa: I,
    w: &MaybeUninit<Expanded>,
    x: *const QBlock,
    i: usize,
    sums: *const Sums,
    acc: *mut [f32; LANES],
) {
    let (run, half, which) = if W::HALVES { (i / 2, i % 2, i % 2) } else { (i, 0, 2) };
    // SAFETY: by the contract.
    unsafe {
        let e = w.as_ptr();
        let scales = isa.load(&*(&raw const (*e).scales).cast::<[f32; LANES]>().add(2 * run + half));
        let mut mins = scales;
        if MINS {
            mins = isa.load(&*(&raw const (*e).mins).cast::<[f32; LANES]>().add(2 * run + half));
        }
        for t in 0..TILE {
            let x = &*x.add(t * RUNS + run);
            let acc = &mut *acc.add(t);
            let sum = isa.to_f(isa.load_i(&(*sums).0[t]));
            let mut new = isa.fma(sum, isa.mul(scales, isa.splat(x.scale)), isa.load(acc));
            if MINS {
                new = isa.fma(mins, isa.splat(x.mins[which]), new);
            }
            isa.store(new, acc);
        }
    }
}

/// Inputs `k` and `k + 1` of run `run` of 16 rows of weights, from `SIGNED` codes; `k` is even.
///
/// # Safety
/// The run is written.
#[inline(always)]
pub(crate) unsafe fn values<I: Isa, C: Codes, const MINS: bool>(
    isa: I,
    w: &MaybeUninit<Expanded>,
    run: usize,
    k: usize,
) -> [I::F; 2] {
    let half = if C::HALVES { k / (QK / 2) } else { 0 };
    // SAFETY: by the contract.
    unsafe {
        let e = w.as_ptr();
        let codes = isa.load_b(&*(&raw const (*e).codes).cast::<[u8; LINE]>().add(run * STEPS + k / 4));
        let scale = isa.load(&*(&raw const (*e).scales).cast::<[f32; LANES]>().add(2 * run + half));
        let mut out = [isa.splat(0.0); 2];
        for i in 0..2 {
            out[i] = isa.mul(isa.to_f(isa.byte(codes, k % 4 + i)), scale);
            if MINS {
                let min = isa.load(&*(&raw const (*e).mins).cast::<[f32; LANES]>().add(2 * run + half));
                out[i] = isa.sub(out[i], min);
            }
        }
        out
    }
}
