//! What the machine can do at most, measured on the spot: the ceilings that kernels are held against.
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::{Buf, Ctx, Pool};
use alula_simd::{Isa, Kernel, LANES};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that the bandwidth is measured over: more than the caches of most machines.
const READ: usize = 256 << 20;
/// A measurement lasts at least so long, and the best of some counts.
const LEAST: Duration = Duration::from_millis(40);
const TRIES: usize = 5;

/// Work per second with one thread, and with all of a pool's.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// One thread.
    pub one: f64,
    /// All threads together.
    pub all: f64,
}

/// Ceilings at one instruction-set level.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// Bytes read from memory per second; `None` where there is no room for the buffer.
    pub read: Option<Rate>,
    /// Single-precision operations per second in fused multiply-adds (two each).
    pub fma: Rate,
    /// Operations per second in products of bytes (two per product).
    pub dot: Rate,
    /// The same by tiles, where the level has them.
    pub tiles: Option<Rate>,
    /// Operations per second in products of bfloat16 (two per product), where the level has a unit that pays.
    pub bf16: Option<Rate>,
}

/// Measures the ceilings. Takes a second or two.
pub fn ceilings(ctx: Ctx<'_>) -> Ceilings {
    let one = Pool::new(1);
    let single = Ctx { cpu: ctx.cpu, pool: &one };
    let both = |f: &dyn Fn(Ctx<'_>) -> f64| Rate { one: f(single), all: f(ctx) };
    let read = Buf::try_zeroed(READ).map(|mut data| {
        // Pages that nobody wrote are all the same page of zeros.
        data.fill(1);
        both(&|ctx| best(ctx, &|task, tasks| read(ctx, &data, task, tasks)))
    });
    let fma = both(&|ctx| best(ctx, &|_, _| ctx.cpu.run(Fma)));
    // In one step or in two: levels have one that is slow.
    let [a, b] = [false, true].map(|small| both(&|ctx| best(ctx, &|_, _| ctx.cpu.run(Dot { small }))));
    let dot = Rate { one: a.one.max(b.one), all: a.all.max(b.all) };
    let tiles = ctx.cpu.amx().map(|amx| both(&|c| best(c, &|_, _| amx.work(false, TURNS))));
    let bf16 = ctx.cpu.fast().bf16().map(|unit| both(&|c| best(c, &|_, _| unit.work(TURNS))));
    Ceilings { read, fma, dot, tiles, bf16 }
}

/// The most work per second that all of a pool's threads do together: a task per thread, which calls `f(task, tasks)`
/// over and over.
fn best(ctx: Ctx<'_>, f: &(dyn Fn(usize, usize) -> u64 + Sync)) -> f64 {
    let tasks = ctx.pool.threads();
    let mut best = 0f64;
    for _ in 0..TRIES {
        let (work, start) = (AtomicU64::new(0), Instant::now());
        ctx.pool.run(tasks, true, |task, _| {
            while start.elapsed() < LEAST {
                work.fetch_add(f(task, tasks), Relaxed);
            }
        });
        best = best.max(work.into_inner() as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Reads a task's share of the buffer; returns the bytes.
fn read(ctx: Ctx<'_>, data: &Buf, task: usize, tasks: usize) -> u64 {
    let share = data.len() / tasks / 256 * 256;
    let part = &data[task * share..][..share];
    ctx.cpu.run(Read(part));
    part.len() as u64
}

struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut acc = [isa.splat_b(0); 4];
        for lines in self.0.as_chunks::<64>().0.as_chunks::<4>().0 {
            for (acc, line) in acc.iter_mut().zip(lines) {
                *acc = isa.or_b(*acc, isa.load_b(line));
            }
        }
        let mut out = [0u8; 64];
        isa.store_b(isa.or_b(isa.or_b(acc[0], acc[1]), isa.or_b(acc[2], acc[3])), &mut out);
        black_box(out);
    }
}

/// Turns of a loop between two looks at the clock, and independent sums in it: enough for the latency, and few enough
/// for the registers of every level.
const TURNS: u64 = 20_000;
const SUMS: usize = 6;

/// Multiply-adds on registers; returns the operations.
struct Fma;

impl Kernel for Fma {
    type Output = u64;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> u64 {
        if I::TILE.0 > 1 { fma::<I, { 2 * SUMS }>(isa) } else { fma::<I, SUMS>(isa) }
    }
}

#[inline(always)]
fn fma<I: Isa, const N: usize>(isa: I) -> u64 {
    let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(0.001)));
    // Equal chains would be computed once.
    let mut acc = [b; N];
    for (i, v) in acc.iter_mut().enumerate() {
        *v = isa.splat(black_box(i as f32));
    }
    for _ in 0..TURNS {
        for v in &mut acc {
            *v = isa.fma(*v, a, b);
        }
    }
    let mut out = [0f32; LANES];
    for v in acc {
        isa.store(v, &mut out);
        black_box(out);
    }
    TURNS * (N * LANES * 2) as u64
}

/// Byte products on registers, `small` in halves of 16 bits; returns the operations.
struct Dot {
    small: bool,
}

impl Kernel for Dot {
    type Output = u64;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> u64 {
        if I::TILE.0 > 1 { dot::<I, { 2 * SUMS }>(isa, self.small) } else { dot::<I, SUMS>(isa, self.small) }
    }
}

#[inline(always)]
fn dot<I: Isa, const N: usize>(isa: I, small: bool) -> u64 {
    let (w, x) = (isa.splat_b(black_box(3)), [0x0102_0304; N]);
    let (mut acc, mut halves) = ([isa.splat_i(0); N], [isa.zero_s(); N]);
    for i in 0..N {
        acc[i] = isa.splat_i(black_box(i as i32));
    }
    for _ in 0..TURNS {
        // Read anew, as products of what does not change would be made once; one instruction cannot be taken apart.
        let x = if I::DOT4 && !small { &x } else { black_box(&x) };
        for i in 0..N {
            if small {
                halves[i] = isa.dot4_small(halves[i], w, x[i]);
            } else {
                acc[i] = isa.dot4(acc[i], w, x[i]);
            }
        }
    }
    let mut out = [0i32; LANES];
    for i in 0..N {
        isa.store_i(isa.widen(acc[i], halves[i]), &mut out);
        black_box(out);
    }
    TURNS * (N * LANES * 8) as u64
}
