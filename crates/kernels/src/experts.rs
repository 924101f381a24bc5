//! Mixtures of experts (Shazeer et al. 2017, arXiv:1701.06538): which experts a row goes to, and what they make of it.
//!
//! Rows are sorted by expert, so that each expert's matrices are read once; all experts' products of a kind are one job of
//! the pool. A row's results are summed with its experts in ascending order, so it does not matter who else is in the step.

use crate::buf::{Shared, zeros};
use crate::matmul::alike;
use crate::quantize::{Spot, quantize_each};
use crate::{Buf, Ctx, Input, Packed, Product, QBlock, Source, Unary, WORTH_SPLITTING, load_part, map, store_part};
use alula_simd::{Isa, Kernel, LANES, math};
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
    /// Scores are logits, and weights the sigmoids of those that are chosen.
    pub sigmoid: bool,
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
        choose(ctx, r, &scores[row * experts..][..experts], bias, out);
    });
}

/// A row of [`route`].
fn choose(ctx: Ctx<'_>, r: Route, scores: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
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
    for (id, weight) in ids.iter().zip(weights.iter_mut()) {
        *weight = scores[*id as usize];
    }
    if r.sigmoid {
        ctx.cpu.run(Sigmoids(weights));
    }
    let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
    let divisor = if r.normalise { sum + 1e-20 } else { 1.0 };
    for weight in weights {
        *weight = *weight / divisor * r.scale;
    }
}

/// Makes numbers their sigmoids.
struct Sigmoids<'a>(&'a mut [f32]);

impl Kernel for Sigmoids<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for c in self.0.chunks_mut(LANES) {
            store_part(isa, math::sigmoid(isa, load_part(isa, c)), c);
        }
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
    /// Weights are factors on x, not on the result.
    pub before: bool,
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
        let (k, n, rows) = (self.gate[0].cols(), self.gate[0].rows(), rows.saturating_mul(used));
        let [gate, up, down] = [whole(self.gate), whole(self.up), whole(self.down)];
        let floats = |needed: bool, cols: usize| if needed { rows.saturating_mul(cols) } else { 0 };
        let blocks = |needed: bool, cols| if needed { QBlock::count(rows, cols) } else { 0 };
        Sizes {
            rows,
            experts: self.gate.len(),
            plain: [floats(!gate || !up, k), floats(!down, n)],
            made: [rows.saturating_mul(n.saturating_mul(2)), rows.saturating_mul(k)],
            blocks: [blocks(gate || up, k), blocks(down, n)],
        }
    }
}

/// Elements of a scratch; of some, what goes into gates and ups, and what goes into downs or comes out of them.
#[derive(Clone, Copy, Default)]
struct Sizes {
    rows: usize,
    experts: usize,
    plain: [usize; 2],
    made: [usize; 2],
    blocks: [usize; 2],
}

/// Memory for the rows of experts.
#[derive(Default)]
pub struct ExpertScratch {
    sizes: Sizes,
    /// Both of what [`Sizes`] has two of are there at the same time.
    turns: bool,
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
    /// Places of the experts in turn.
    turn: Vec<u32>,
    plain: Buf,
    made: Buf,
    blocks: Vec<QBlock>,
}

impl ExpertScratch {
    /// Makes room for these experts too, in steps of `rows` rows with `used` experts each.
    pub fn include(&mut self, e: &Experts<'_>, rows: usize, used: usize) {
        let (a, b) = (self.sizes, e.sizes(rows, used));
        let most = |a: [usize; 2], b: [usize; 2]| [a[0].max(b[0]), a[1].max(b[1])];
        self.sizes = Sizes {
            rows: a.rows.max(b.rows),
            experts: a.experts.max(b.experts),
            plain: most(a.plain, b.plain),
            made: most(a.made, b.made),
            blocks: most(a.blocks, b.blocks),
        };
    }

    /// Makes room for experts that come in turns (see [`Mixture`]).
    pub fn in_turns(&mut self) {
        self.turns = true;
    }

    /// How many there are of what there are two of.
    fn both(&self, [a, b]: [usize; 2]) -> usize {
        if self.turns { a.saturating_add(b) } else { a.max(b) }
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
            turn: zeros(s.rows)?,
            plain: Buf::try_zeroed(self.both(s.plain).checked_mul(4)?)?,
            made: Buf::try_zeroed(self.both(s.made).checked_mul(4)?)?,
            blocks: zeros(self.both(s.blocks))?,
        });
        Some(())
    }

    /// Bytes that it takes, or will take.
    pub fn bytes(&self) -> usize {
        let s = self.sizes;
        let floats = self.both(s.plain).saturating_add(self.both(s.made)).saturating_mul(4);
        let blocks = self.both(s.blocks).saturating_mul(size_of::<QBlock>());
        s.rows.saturating_mul(16).saturating_add(s.experts * 8).saturating_add(floats).saturating_add(blocks)
    }
}

/// What each row's experts make of it, weighted and summed.
///
/// `x`: `[rows, k]`, `routes`: what [`route`] writes, `out`: `[rows, k]`.
///
/// # Panics
/// If the lengths do not fit, an expert does not exist, or the scratch was made for less.
pub fn experts(ctx: Ctx<'_>, e: Experts<'_>, x: &[f32], routes: &[f32], scratch: &mut ExpertScratch, out: &mut [f32]) {
    let mut mixture = Mixture::begin(ctx, e, x, routes, scratch);
    let active = std::mem::take(&mut mixture.memory.active);
    mixture.turn(active.len(), &|i| {
        let expert = active[i] as usize;
        (expert, [&*e.gate[expert], &*e.up[expert], &*e.down[expert]])
    });
    mixture.memory.active = active;
    mixture.end(out);
}

/// An expert and its gate, up and down.
pub type Picked<'m> = (usize, [&'m Packed; 3]);

/// [`experts`] in turns: some experts after others, in any order, which changes no bit.
pub struct Mixture<'a> {
    ctx: Ctx<'a>,
    e: Experts<'a>,
    x: &'a [f32],
    routes: &'a [f32],
    used: usize,
    turns: bool,
    memory: &'a mut Memory,
}

impl<'a> Mixture<'a> {
    /// Sorts rows by their experts. Matrices of `e` may be absent.
    ///
    /// # Panics
    /// As [`experts`].
    pub fn begin(
        ctx: Ctx<'a>,
        e: Experts<'a>,
        x: &'a [f32],
        routes: &'a [f32],
        scratch: &'a mut ExpertScratch,
    ) -> Mixture<'a> {
        let k = e.gate[0].cols();
        let tokens = x.len() / k;
        assert!(tokens > 0 && x.len() == tokens * k && routes.len().is_multiple_of(2 * tokens));
        let (used, turns) = (routes.len() / tokens / 2, scratch.turns);
        let Some(memory) = &mut scratch.memory else { unreachable!("a scratch without memory") };
        memory.sort(routes, used, e.gate.len());
        let rows = tokens * used;
        let Memory { from, starts, plain, blocks, .. } = &mut *memory;
        if [e.gate, e.up].iter().any(|all| all[0].quantized()) {
            let source = |i: usize| spot(starts, from[i].0, i, from[i].1);
            quantize_each(ctx, Source::Plain(x), rows, (rows, k), source, &mut blocks[..QBlock::count(rows, k)]);
        }
        if [e.gate, e.up].iter().any(|all| !all[0].quantized()) {
            for (to, from) in plain.floats_mut().chunks_exact_mut(k).zip(&from[..rows]) {
                to.copy_from_slice(&x[from.0 as usize * k..][..k]);
            }
        }
        Mixture { ctx, e, x, routes, used, turns, memory }
    }

    /// The experts that have rows, ascending.
    pub fn active(&self) -> &[u32] {
        &self.memory.active
    }

    /// Computes `n` of the active experts, each of which has one turn. Without a scratch that is made for more, all of them
    /// have the same one.
    ///
    /// # Panics
    /// If a matrix is absent.
    pub fn turn<'m>(&mut self, n: usize, pick: &(dyn Fn(usize) -> Picked<'m> + Sync)) {
        let Mixture { ctx, e, turns, .. } = *self;
        let (k, width) = (e.gate[0].cols(), e.gate[0].rows());
        let rows = self.x.len() / k * self.used;
        let Memory { from, starts, turn, plain, made, blocks, .. } = &mut *self.memory;
        let range = |expert: usize| starts[expert] as usize..starts[expert + 1] as usize;
        turn.clear();
        (0..n).for_each(|i| turn.extend(range(pick(i).0).map(|place| place as u32)));
        // What goes into downs and comes out of them has other memory where experts have other turns.
        let [gate, up] = [e.gate[0].quantized(), e.up[0].quantized()];
        let plain_at = if turns && !(gate && up) { rows * k } else { 0 };
        let blocks_at = if turns && (gate || up) { QBlock::count(rows, k) } else { 0 };
        let made_at = if turns { 2 * rows * width } else { 0 };
        let (plain, made) = (plain.floats_mut(), made.floats_mut());
        let phase = Phase { ctx, n, rows: turn.len(), range: &range, pick };

        let (gate, rest) = made.split_at_mut(rows * width);
        let up = &mut rest[..rows * width];
        phase.products(&[0, 1], (k, width), plain, blocks, &[Shared::new(gate), Shared::new(up)]);
        if e.before {
            // Both products are linear in what goes in.
            let (routes, used, parts) = (self.routes, self.used, [Shared::new(gate), Shared::new(up)]);
            ctx.pool.run(turn.len(), turn.len() * width > WORTH_SPLITTING, |i, _| {
                let (row, expert) = from[turn[i] as usize];
                let (ids, weights) = routes[row as usize * 2 * used..][..2 * used].split_at(used);
                let weight = ids.iter().zip(weights).find(|(id, _)| **id as u32 == expert).map_or(0.0, |w| *w.1);
                for part in &parts {
                    // SAFETY: one task a place; places are disjoint.
                    #[allow(unsafe_code)]
                    let part = unsafe { part.part(turn[i] as usize * width, width) };
                    part.iter_mut().for_each(|x| *x *= weight);
                }
            });
        }
        let (plain, blocks) = (&mut plain[plain_at..], &mut blocks[blocks_at..]);
        if e.down[0].quantized() {
            let (jobs, source) =
                (turn.len(), |i: usize| spot(starts, turn[i], turn[i] as usize, from[turn[i] as usize].1));
            let blocks = &mut blocks[..QBlock::count(rows, width)];
            quantize_each(ctx, Source::Glu(e.act, gate, up), jobs, (rows, width), source, blocks);
        } else if turns {
            for i in 0..n {
                let r = range(pick(i).0);
                let r = r.start * width..r.end * width;
                map::glu(ctx, e.act, &gate[r.clone()], &up[r.clone()], &mut plain[r]);
            }
        } else {
            map::glu(ctx, e.act, gate, up, &mut plain[..rows * width]);
        }
        let out = Shared::new(&mut made[made_at..][..rows * k]);
        phase.products(&[2], (width, k), plain, blocks, &[out]);
    }

    /// Sums each row's results when all active experts have had their turn. `out`: `[rows, k]`.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn end(self, out: &mut [f32]) {
        let Mixture { ctx, e, x, routes, used, turns, memory } = self;
        assert!(x.len() == out.len());
        let (k, width) = (e.gate[0].cols(), e.gate[0].rows());
        let (tokens, place) = (x.len() / k, &memory.place);
        let rows = tokens * used;
        let made = &memory.made.floats()[if turns { 2 * rows * width } else { 0 }..][..rows * k];
        let shared = Shared::new(out);
        ctx.pool.run(tokens, rows * k > WORTH_SPLITTING, |t, _| {
            // SAFETY: one task a row; rows are disjoint.
            #[allow(unsafe_code)]
            let out = unsafe { shared.part(t * k, k) };
            let (place, weights) = (&place[t * used..][..used], &routes[(2 * t + 1) * used..][..used]);
            ctx.cpu.run(Sum { made, place, weights: (!e.before).then_some(weights), out });
        });
    }
}

/// Where the blocks of a place go, which are made of row `from`.
fn spot(starts: &[u32], from: u32, place: usize, expert: u32) -> Spot {
    let [first, end] = [starts[expert as usize], starts[expert as usize + 1]].map(|at| at as usize);
    Spot { from: from as usize, first, row: place - first, rows: end - first }
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

/// Products of the experts in turn.
struct Phase<'a, 'm> {
    ctx: Ctx<'a>,
    n: usize,
    rows: usize,
    range: &'a (dyn Fn(usize) -> Range<usize> + Sync),
    pick: &'a (dyn Fn(usize) -> Picked<'m> + Sync),
}

impl Phase<'_, '_> {
    /// The rows of each expert times its matrix of each of `kinds`.
    fn products(
        &self,
        kinds: &[usize],
        (cols, width): (usize, usize),
        plain: &[f32],
        blocks: &[QBlock],
        outs: &[Shared<f32>],
    ) {
        alike(self.ctx, self.n * kinds.len(), self.rows * kinds.len(), |i| {
            let (expert, matrices) = (self.pick)(i / kinds.len());
            let (kind, rows) = (i % kinds.len(), (self.range)(expert));
            let w = matrices[kinds[kind]];
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
    weights: Option<&'a [f32]>,
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
            for (i, place) in place.iter().enumerate() {
                let y = &made[*place as usize * k + c * LANES..][..out.len()];
                sum = isa.fma(load_part(isa, y), isa.splat(weights.map_or(1.0, |w| w[i])), sum);
            }
            store_part(isa, sum, out);
        }
    }
}
