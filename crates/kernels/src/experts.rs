//! Mixtures of experts (Shazeer et al. 2017, arXiv:1701.06538): which experts a row goes to, and what they make of it.
//!
//! Rows are sorted by expert, so that each expert's matrices are read once; all experts' products of a kind are one job of
//! the pool. A row's results are summed with its experts in ascending order, so it does not matter who else is in the step.

use crate::buf::{Shared, zeros};
use crate::matmul::alike;
use crate::quantize::{Spot, quantize_each};
use crate::{Buf, Ctx, Input, Packed, Product, QBlock, Source, Unary, WORTH_SPLITTING, load_part, map, store_part};
use alula_simd::{Isa, Kernel, LANES};
use std::ops::Range;
use std::sync::Arc;

/// How a row's scores become its experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// Experts of a row.
    pub used: usize,
    /// Only experts of the best groups are taken.
    pub groups: Option<Groups>,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Factor on weights.
    pub scale: f32,
}

/// Groups of neighbouring experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups in all, at most 64.
    pub all: usize,
    /// Groups of a row.
    pub used: usize,
    /// A group is as good as the sum of its best two, else as its best.
    pub two: bool,
}

/// Chooses the `used` experts with the highest scores of each row; `bias` is added for the choice alone, and of equals the first
/// is taken.
///
/// `scores`: `[rows, experts]`, `out`: `[rows, 2 used]`: numbers of experts ascending, then their weights.
///
/// # Panics
/// If the lengths do not fit, or there are not so many experts.
pub fn route(ctx: Ctx<'_>, r: Route, experts: usize, scores: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    assert!(r.used > 0 && scores.len() * 2 * r.used == out.len() * experts && bias.is_none_or(|b| b.len() == experts));
    let allowed = r.groups.map_or(experts, |g| experts / g.all * g.used);
    assert!(
        r.used <= allowed && r.groups.is_none_or(|g| g.all <= 64 && g.used <= g.all && experts.is_multiple_of(g.all))
    );
    let shared = Shared::new(out);
    ctx.pool.run(scores.len() / experts, scores.len() * r.used > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * 2 * r.used, 2 * r.used) };
        choose(r, &scores[row * experts..][..experts], bias, out);
    });
}

/// A row of [`route`].
fn choose(r: Route, scores: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let key = |e: usize| {
        let key = scores[e] + bias.map_or(0.0, |b| b[e]);
        if key.is_nan() { f32::NEG_INFINITY } else { key }
    };
    let (mut allowed, mut size) = (u64::MAX, scores.len());
    if let Some(g) = r.groups {
        size = scores.len() / g.all;
        let worth = |group: usize| {
            let all = group * size..(group + 1) * size;
            let best = next(all.clone(), key, None).map_or((f32::NEG_INFINITY, 0), |e| (key(e), e));
            match next(all, key, Some(best.1)).filter(|_| g.two) {
                Some(second) => best.0 + key(second),
                None => best.0,
            }
        };
        allowed = 0;
        let mut last = None;
        for _ in 0..g.used {
            last = next(0..g.all, worth, last);
            allowed |= last.map_or(0, |group| 1 << group);
        }
    }
    let (ids, weights) = out.split_at_mut(r.used);
    let mut last = None;
    for id in ids.iter_mut() {
        last = next((0..scores.len()).filter(|e| allowed >> (e / size) & 1 == 1), key, last);
        *id = last.unwrap_or(0) as f32;
    }
    ids.sort_unstable_by(f32::total_cmp);
    let mut sum = 0.0;
    for (id, weight) in ids.iter().zip(weights.iter_mut()) {
        *weight = scores[*id as usize];
        sum += *weight;
    }
    let divisor = if r.normalise { sum + 1e-20 } else { 1.0 };
    for weight in weights {
        *weight = *weight / divisor * r.scale;
    }
}

/// The best of `all` that comes after `last`, in order of falling keys; of equals the first.
fn next(all: impl Iterator<Item = usize>, key: impl Fn(usize) -> f32, last: Option<usize>) -> Option<usize> {
    let bound = last.map(|e| (key(e), e));
    let mut best: Option<(f32, usize)> = None;
    for e in all {
        let k = key(e);
        let after = bound.is_none_or(|(b, at)| k < b || k == b && e > at);
        if after && best.is_none_or(|(b, _)| k > b) {
            best = Some((k, e));
        }
    }
    best.map(|b| b.1)
}

/// The networks of a layer: `down(f(gate x) · up x)`, with a matrix for each expert.
#[derive(Clone, Copy)]
pub struct Experts<'a> {
    /// f.
    pub act: Unary,
    /// `[n, k]` each.
    pub gate: &'a [Arc<Packed>],
    /// `[n, k]` each.
    pub up: &'a [Arc<Packed>],
    /// `[k, n]` each.
    pub down: &'a [Arc<Packed>],
}

impl Experts<'_> {
    /// What decides about the memory of steps of `rows` rows with `used` experts each.
    fn sizes(&self, rows: usize, used: usize) -> Sizes {
        let whole = |all: &[Arc<Packed>]| all[0].quantized();
        let first = whole(self.gate) && whole(self.up);
        let mut s = Sizes::of(
            rows,
            used,
            self.gate.len(),
            [self.gate[0].cols(), self.gate[0].rows()],
            [first, whole(self.down)],
        );
        if !first && (whole(self.gate) || whole(self.up)) {
            s.blocks = s.blocks.max(QBlock::count(s.rows, self.gate[0].cols()));
        }
        s
    }
}

/// Elements of a scratch.
#[derive(Clone, Copy, Default)]
struct Sizes {
    rows: usize,
    experts: usize,
    plain: usize,
    made: usize,
    blocks: usize,
}

impl Sizes {
    /// For `count` experts of `[n, k]` matrices; the first two and the third are quantised or not.
    fn of(rows: usize, used: usize, count: usize, [k, n]: [usize; 2], quantized: [bool; 2]) -> Sizes {
        let rows = rows.saturating_mul(used);
        let most = |which: bool| quantized.into_iter().zip([k, n]).filter(move |e| e.0 == which).map(|e| e.1);
        Sizes {
            rows,
            experts: count,
            plain: rows.saturating_mul(most(false).max().unwrap_or(0)),
            made: rows.saturating_mul(k.max(n.saturating_mul(2))),
            blocks: most(true).map(|cols| QBlock::count(rows, cols)).max().unwrap_or(0),
        }
    }

    fn bytes(&self) -> usize {
        let floats = self.plain.saturating_add(self.made).saturating_mul(4);
        let blocks = self.blocks.saturating_mul(size_of::<QBlock>());
        (self.rows.saturating_mul(12) + self.experts * 8).saturating_add(floats).saturating_add(blocks)
    }
}

/// Memory for the rows of experts.
#[derive(Default)]
pub struct ExpertScratch {
    sizes: Sizes,
    memory: Option<Memory>,
}

struct Memory {
    /// Where each row's results are, `[rows, used]`.
    place: Vec<u32>,
    /// Which row each place is of, and its expert.
    from: Vec<(u32, u32)>,
    /// The first place of each expert, and the end.
    starts: Vec<u32>,
    /// Experts that have rows.
    active: Vec<u32>,
    plain: Buf,
    made: Buf,
    blocks: Vec<QBlock>,
}

impl ExpertScratch {
    /// Makes room for these experts too, in steps of `rows` rows with `used` experts each.
    pub fn include(&mut self, e: &Experts<'_>, rows: usize, used: usize) {
        let (a, b) = (self.sizes, e.sizes(rows, used));
        self.sizes = Sizes {
            rows: a.rows.max(b.rows),
            experts: a.experts.max(b.experts),
            plain: a.plain.max(b.plain),
            made: a.made.max(b.made),
            blocks: a.blocks.max(b.blocks),
        };
    }

    /// Takes the memory; `None` where there is not so much.
    pub fn allocate(&mut self) -> Option<()> {
        let s = self.sizes;
        if s.rows == 0 {
            return Some(());
        }
        self.memory = Some(Memory {
            place: zeros(s.rows)?,
            from: zeros(s.rows)?,
            starts: zeros(s.experts + 1)?,
            active: zeros(s.experts)?,
            plain: Buf::try_zeroed(s.plain.checked_mul(4)?)?,
            made: Buf::try_zeroed(s.made.checked_mul(4)?)?,
            blocks: zeros(s.blocks)?,
        });
        Some(())
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        if self.memory.is_some() { self.sizes.bytes() } else { 0 }
    }

    /// Bytes for `count` experts of `[n, k]` matrices, gates and ups and then downs quantised or not, in steps of `rows` rows
    /// with `used` experts each.
    pub fn size(rows: usize, used: usize, count: usize, [k, n]: [usize; 2], quantized: [bool; 2]) -> usize {
        Sizes::of(rows, used, count, [k, n], quantized).bytes()
    }
}

/// What each row's experts make of it, weighted and summed.
///
/// `x`: `[rows, k]`, `routes`: what [`route`] writes, `out`: `[rows, k]`.
///
/// # Panics
/// If the lengths do not fit, an expert does not exist, or the scratch was made for less.
pub fn experts(ctx: Ctx<'_>, e: Experts<'_>, x: &[f32], routes: &[f32], scratch: &mut ExpertScratch, out: &mut [f32]) {
    let (k, n, count) = (e.gate[0].cols(), e.gate[0].rows(), e.gate.len());
    let tokens = x.len() / k;
    assert!(x.len() == out.len() && tokens > 0 && x.len() == tokens * k && routes.len().is_multiple_of(2 * tokens));
    let used = routes.len() / tokens / 2;
    let Some(memory) = &mut scratch.memory else { unreachable!("a scratch without memory") };
    let rows = tokens * used;
    memory.sort(routes, used, count);
    let Memory { place, from, starts, active, plain, made, blocks } = memory;
    let (from, starts, active) = (&from[..rows], &starts[..], &active[..]);
    let range = |expert: usize| starts[expert] as usize..starts[expert + 1] as usize;
    let spot = |from: usize, place: usize, expert: u32| {
        let all = range(expert as usize);
        Spot { from, first: all.start, row: place - all.start, rows: all.len() }
    };
    let phase = Phase { ctx, active, rows, range: &range };
    let both = [e.gate, e.up];

    // Gates and ups.
    let (plain, made) = (plain.floats_mut(), made.floats_mut());
    if both.iter().any(|all| all[0].quantized()) {
        let source = |i: usize| spot(from[i].0 as usize, i, from[i].1);
        quantize_each(ctx, Source::Plain(x), (rows, k), source, &mut blocks[..QBlock::count(rows, k)]);
    }
    if both.iter().any(|all| !all[0].quantized()) {
        for (to, from) in plain.chunks_exact_mut(k).zip(from) {
            to.copy_from_slice(&x[from.0 as usize * k..][..k]);
        }
    }
    let (gate, rest) = made[..].split_at_mut(rows * n);
    let up = &mut rest[..rows * n];
    phase.products(&both, plain, blocks, &[Shared::new(gate), Shared::new(up)]);

    // Their units, and downs.
    if e.down[0].quantized() {
        let source = |i: usize| spot(i, i, from[i].1);
        quantize_each(ctx, Source::Glu(e.act, gate, up), (rows, n), source, &mut blocks[..QBlock::count(rows, n)]);
    } else {
        map::glu(ctx, e.act, gate, up, &mut plain[..rows * n]);
    }
    let made = &mut made[..rows * k];
    phase.products(&[e.down], plain, blocks, &[Shared::new(made)]);

    let shared = Shared::new(out);
    ctx.pool.run(tokens, rows * k > WORTH_SPLITTING, |t, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(t * k, k) };
        let (place, weights) = (&place[t * used..][..used], &routes[(2 * t + 1) * used..][..used]);
        ctx.cpu.run(Sum { made, place, weights, out });
    });
}

impl Memory {
    /// Gives each row a place with each of its experts: experts ascending, then rows.
    fn sort(&mut self, routes: &[f32], used: usize, count: usize) {
        let ids = || {
            routes
                .chunks_exact(2 * used)
                .enumerate()
                .flat_map(|(t, r)| r[..used].iter().map(move |id| (t, *id as usize)))
        };
        self.starts.clear();
        self.starts.resize(count + 1, 0);
        for (_, id) in ids() {
            self.starts[id + 1] += 1;
        }
        self.active.clear();
        for id in 0..count {
            if self.starts[id + 1] > 0 {
                self.active.push(id as u32);
            }
            self.starts[id + 1] += self.starts[id];
        }
        for (i, (t, id)) in ids().enumerate() {
            // `starts` moves on to the ends, which are the next ones' starts.
            let at = &mut self.starts[id];
            self.place[i] = *at;
            self.from[*at as usize] = (t as u32, id as u32);
            *at += 1;
        }
        for id in (0..count).rev() {
            self.starts[id + 1] = self.starts[id];
        }
        self.starts[0] = 0;
    }
}

/// Products of all experts that have rows.
struct Phase<'a> {
    ctx: Ctx<'a>,
    active: &'a [u32],
    rows: usize,
    range: &'a (dyn Fn(usize) -> Range<usize> + Sync),
}

impl Phase<'_> {
    /// The rows of each expert times its matrix of each of `kinds`.
    fn products(&self, kinds: &[&[Arc<Packed>]], plain: &[f32], blocks: &[QBlock], outs: &[Shared<f32>]) {
        let (cols, width) = (kinds[0][0].cols(), kinds[0][0].rows());
        alike(self.ctx, self.active.len() * kinds.len(), self.rows * kinds.len(), |i| {
            let (expert, kind) = (self.active[i / kinds.len()] as usize, i % kinds.len());
            let (w, rows) = (&*kinds[kind][expert], (self.range)(expert));
            let x = if w.quantized() {
                Input::Q8(&blocks[QBlock::count(rows.start, cols)..][..QBlock::count(rows.len(), cols)])
            } else {
                Input::F32(&plain[rows.start * cols..][..rows.len() * cols])
            };
            Product::apart(x, w, rows.len(), outs[kind].slice(rows.start * width, rows.len() * width), width)
        });
    }
}

/// A row's sum.
struct Sum<'a> {
    made: &'a [f32],
    place: &'a [u32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Sum { made, place, weights, out } = self;
        let k = out.len();
        for (c, out) in out.chunks_mut(LANES).enumerate() {
            let mut sum = isa.splat(0.0);
            for (place, weight) in place.iter().zip(weights) {
                let y = &made[*place as usize * k + c * LANES..][..out.len()];
                sum = isa.fma(load_part(isa, y), isa.splat(*weight), sum);
            }
            store_part(isa, sum, out);
        }
    }
}
