//! Attention over a paged cache, causal or both ways, with grouped heads (Ainslie et al. 2023, arXiv:2305.13245), windows that slide
//! or are chunks, and soft caps.
//!
//! A score has one accumulator over the head's elements, its lanes are positions; an output element has one
//! accumulator over ascending positions. The softmax's sum runs over 16 lanes (position mod 16) in ascending order,
//! then the fixed tree. Nothing depends on which other rows are in the step.
//!
//! A task is some rows of one sequence with the query heads of one key head: together they are the queries that share
//! an expansion of a block of the cache. Both products are tiles of the float kernel.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // no closures around vector code

use crate::buf::Shared;
use crate::cache::{Kv, Rows, Side, expand};
use crate::{Buf, Ctx, Unary, WORTH_SPLITTING, float};
use alula_simd::{Isa, Kernel, LANES, math};
use std::array::from_fn;
use std::ops::Range;

/// What attention a layer computes.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Which keys a query sees of those that it may see at all.
    pub window: Option<Window>,
    /// c tanh(score / c).
    pub soft_cap: Option<f32>,
    /// A query sees its own past. Else it sees its sequence up to the last row that the step has of it.
    pub causal: bool,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// So many last ones, its own among them; where it looks both ways, so many on each side of its own.
    Sliding(usize),
    /// Those of its own chunk of so many positions.
    Chunked(usize),
}

/// Positions whose values are expanded at a time.
const SPAN: usize = 4 * LANES;
/// Queries of a task, where more than one row is needed for so many.
const QUERIES: usize = 32;

/// Tasks that a thread should have at least.
const TASKS: usize = 4;

/// Memory for scores and an expanded block, one part per thread.
pub struct Scratch {
    floats: Buf,
    per_thread: usize,
    block: usize,
}

impl Scratch {
    /// For `threads` threads, contexts up to `context` positions, `group` query heads per key head, and keys and values
    /// of up to `dim` elements; `None` where there is not so much memory.
    pub fn new(threads: usize, context: usize, group: usize, dim: usize) -> Option<Scratch> {
        let (per_thread, block) = Scratch::parts(context, group, dim)?;
        Some(Scratch { floats: Buf::try_zeroed(Scratch::size(threads, context, group, dim)?)?, per_thread, block })
    }

    /// Bytes that such a scratch takes; `None` where that is no number.
    pub fn size(threads: usize, context: usize, group: usize, dim: usize) -> Option<usize> {
        Scratch::parts(context, group, dim)?.0.checked_mul(threads)?.checked_mul(4)
    }

    /// Floats of a thread, and of the expanded block among them.
    fn parts(context: usize, group: usize, dim: usize) -> Option<(usize, usize)> {
        // Shared values come out of keys, which lie behind them meanwhile.
        let block = dim.checked_next_multiple_of(LANES)?.checked_mul(SPAN + LANES)?;
        // Rows of a task may see a block more each.
        let scores = context.checked_add(QUERIES)?.checked_next_multiple_of(LANES)?.checked_mul(group.max(QUERIES))?;
        Some((scores.checked_add(block)?, block))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.floats.len()
    }
}

/// Rows of a task.
fn rows(group: usize) -> usize {
    (QUERIES / group.max(1)).max(1)
}

/// Attention of a step's rows, whose own keys and values are already stored.
///
/// `q`: `[rows, heads, key_dim]`, `out`: `[rows, heads, value_dim]`.
///
/// # Panics
/// If the sizes do not fit together, a page is missing, or the scratch was made for less.
pub fn attend(ctx: Ctx<'_>, a: Attend, kv: &Kv, rows: Rows<'_>, q: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    let n = rows.positions.len();
    assert!(
        a.window != Some(Window::Chunked(0))
            && a.heads > 0
            && a.heads.is_multiple_of(kv.heads)
            && q.len() == n * a.heads * kv.key_dim
    );
    assert_eq!(out.len(), n * a.heads * kv.value_dim);
    let (block, per_thread) = (scratch.block, scratch.per_thread);
    assert!(block >= (SPAN + LANES) * kv.key_dim.max(kv.value_dim).next_multiple_of(LANES));
    let work: usize = rows.positions.iter().map(|&p| (p as usize + 1) * a.heads * kv.key_dim).sum();
    let floats = Shared::new(scratch.floats.floats_mut());
    let out = Shared::new(out);
    let group = a.heads / kv.heads;
    // Large tasks share more, but all threads should have some.
    let per_task = self::rows(group).min((n * kv.heads).div_ceil(TASKS * ctx.pool.threads())).max(1);
    let tasks = n.div_ceil(per_task);
    // Neighbouring tasks read the same keys.
    ctx.pool.run(tasks * kv.heads, work > WORTH_SPLITTING, |task, thread| {
        let (head, mut row) = (task / tasks, task % tasks * per_task);
        let end = n.min(row + per_task);
        while row < end {
            let first = rows.positions[row] as usize;
            let next = |r: &usize| rows.seqs[*r] == rows.seqs[row] && rows.positions[*r] as usize == first + r - row;
            let same = row..row + (row..end).take_while(next).count();
            row = same.end;
            let seq = rows.seqs[same.start];
            let pages = rows.pages[seq as usize];
            let later = if a.causal { 0 } else { rows.seqs[row..].iter().take_while(|s| **s == seq).count() };
            let last = rows.positions[same.end - 1] as usize + 1 + later;
            assert!(pages.len() * kv.page >= last);
            // SAFETY: one part per thread.
            let (expanded, scores) = unsafe { floats.part(thread * per_thread, per_thread) }.split_at_mut(block);
            let task = Task { a, kv, head, group, pages, first, last, rows: same, q, out: &out };
            ctx.cpu.run(All { task, expanded, scores });
        }
    });
}

/// Neighbouring rows of a sequence, with the query heads that share one key head. A query is a row and a head.
struct Task<'a> {
    a: Attend,
    kv: &'a Kv,
    head: usize,
    group: usize,
    pages: &'a [u32],
    /// Position of the first row; every next row is one further.
    first: usize,
    /// Positions that the last row sees the end of.
    last: usize,
    rows: Range<usize>,
    q: &'a [f32],
    out: &'a Shared<f32>,
}

/// Runs the body for tiles of 8, 4, 2 and 1 of `$all` queries, as large as there are and at most `$most`.
macro_rules! tiles {
    ($all:expr, $most:expr, |$q:ident, $size:ident| $body:expr) => {
        tiles!($all, $most, $q, $size, $body, 8 4 2)
    };
    ($all:expr, $most:expr, $q:ident, $size:ident, $body:expr, $($n:literal)*) => {{
        let mut $q = 0;
        while $q < $all {
            match $all - $q {
                $($n.. if $most >= $n => {
                    const $size: usize = $n;
                    $body;
                    $q += $n;
                })*
                _ => {
                    const $size: usize = 1;
                    $body;
                    $q += 1;
                }
            }
        }
    }};
}

/// A task with its memory.
struct All<'a> {
    task: Task<'a>,
    expanded: &'a mut [f32],
    scores: &'a mut [f32],
}

impl Kernel for All<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let All { task, expanded, scores } = self;
        let queries = task.rows.len() * task.group;
        let blocks = task.sees(0).start / LANES..task.sees(task.rows.len() - 1).end.div_ceil(LANES);
        let stride = blocks.len() * LANES;
        assert!(queries * stride <= scores.len());
        let most = I::TILE.1.next_power_of_two();
        let lines = expanded.as_chunks_mut::<LANES>().0;
        for first in blocks.clone().step_by(I::TILE.0) {
            let end = blocks.end.min(first + I::TILE.0);
            for b in first..end {
                let next = (b + 1).min(blocks.end - 1);
                let lines = &mut lines[(b - first) * task.kv.key_dim..];
                expand(isa, task.kv, Side::Keys, task.place(b), task.place(next), lines, LANES);
            }
            let column = (first - blocks.start) * LANES;
            let at = Place { lines: lines.as_ptr(), first: first * LANES, column, stride };
            tiles!(queries, most, |q, T| match end - first {
                2 => isa.enter(Scores::<2, T> { task: &task, at, q, scores }),
                _ => isa.enter(Scores::<1, T> { task: &task, at, q, scores }),
            });
        }
        for q in 0..queries {
            let [(row, index)] = task.queries(q);
            let seen = task.sees(row);
            let (from, to) = (seen.start / LANES - blocks.start, seen.end.div_ceil(LANES) - blocks.start);
            softmax(isa, &mut scores[q * stride..][from * LANES..to * LANES]);
            task.out(index).fill(0.0);
        }
        for span in blocks.clone().step_by(SPAN / LANES) {
            for b in span..blocks.end.min(span + SPAN / LANES) {
                let next = (b + 1).min(blocks.end - 1);
                if task.kv.shared {
                    let (lines, keys) = lines.split_at_mut(task.kv.value_dim.div_ceil(LANES) * SPAN);
                    let keys = &mut keys[..task.kv.key_dim];
                    expand(isa, task.kv, Side::Keys, task.place(b), task.place(next), keys, LANES);
                    transpose(&keys[..task.kv.value_dim], &mut lines[(b - span) * LANES..]);
                } else {
                    let lines = &mut lines[(b - span) * LANES..];
                    expand(isa, task.kv, Side::Values, task.place(b), task.place(next), lines, SPAN);
                }
            }
            let (first, column) = (span * LANES, (span - blocks.start) * LANES);
            let at = Place { lines: lines.as_ptr(), first, column, stride };
            tiles!(queries, most, |q, T| match I::TILE.0 {
                2 => isa.enter(Mix::<2, T> { task: &task, at, q, scores }),
                _ => isa.enter(Mix::<1, T> { task: &task, at, q, scores }),
            });
        }
    }
}

/// Lines of 16 positions to lines of 16 elements, [`SPAN`] apart for every 16 elements.
#[inline(always)]
fn transpose(keys: &[[f32; LANES]], lines: &mut [[f32; LANES]]) {
    for (keys, lines) in keys.chunks(LANES).zip(lines.chunks_mut(SPAN)) {
        for (at, line) in lines[..LANES].iter_mut().enumerate() {
            for (key, out) in keys.iter().zip(line) {
                *out = key[at];
            }
        }
    }
}

/// Expanded positions from `first` on, and where their scores are: from `column` on of each query's `stride`.
#[derive(Clone, Copy)]
struct Place {
    lines: *const [f32; LANES],
    first: usize,
    column: usize,
    stride: usize,
}

impl Task<'_> {
    /// The positions that a row sees.
    fn sees(&self, row: usize) -> Range<usize> {
        let (at, past) = (self.first + row, self.a.causal);
        let seen = match self.a.window {
            None => 0..usize::MAX,
            Some(Window::Sliding(w)) if past => (at + 1).saturating_sub(w)..usize::MAX,
            Some(Window::Sliding(w)) => at.saturating_sub(w)..at.saturating_add(w).saturating_add(1),
            Some(Window::Chunked(n)) => at - at % n..(at - at % n).saturating_add(n),
        };
        seen.start..seen.end.min(if past { at + 1 } else { self.last })
    }

    /// Page, head and block in the page of a block of the sequence.
    fn place(&self, block: usize) -> (usize, usize, usize) {
        let per_page = self.kv.page / LANES;
        (self.pages[block / per_page] as usize, self.head, block % per_page)
    }

    /// `T` queries from query `q` on: each one's row, and its index among all rows and heads.
    #[inline(always)]
    fn queries<const T: usize>(&self, q: usize) -> [(usize, usize); T] {
        let (mut row, mut head) = (q / self.group, q % self.group);
        let mut out = [(0, 0); T];
        for out in &mut out {
            *out = (row, (self.rows.start + row) * self.a.heads + self.head * self.group + head);
            head += 1;
            if head == self.group {
                (row, head) = (row + 1, 0);
            }
        }
        out
    }

    /// A query's output, by its index.
    #[expect(clippy::mut_from_ref, reason = "outputs are disjoint parts of a shared slice")]
    fn out(&self, index: usize) -> &mut [f32] {
        // SAFETY: one task per output, which holds one at a time.
        unsafe { self.out.part(index * self.kv.value_dim, self.kv.value_dim) }
    }
}

/// Scaled, capped and masked scores of `T` queries from query `q` on, for `P` blocks of keys.
struct Scores<'a, 'b, const P: usize, const T: usize> {
    task: &'a Task<'b>,
    at: Place,
    q: usize,
    scores: &'a mut [f32],
}

impl<const P: usize, const T: usize> Kernel for Scores<'_, '_, P, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (task, Place { lines, first, column, stride }, q) = (self.task, self.at, self.q);
        let dk = task.kv.key_dim;
        let queries = task.queries::<T>(q);
        let mut x = [std::ptr::null(); T];
        for i in 0..T {
            x[i] = task.q[queries[i].1 * dk..][..dk].as_ptr();
        }
        let mut acc = [[isa.splat(0.0); T]; P];
        // SAFETY: a block has a line for each of a key's elements, of which queries have as many.
        unsafe { float::tile::<I, float::F32, P, T, false>(isa, from_fn(|p| lines.add(p * dk)), x, dk, &mut acc) }
        let scale = isa.splat(task.a.scale);
        for i in 0..T {
            let seen = task.sees(queries[i].0);
            for p in 0..P {
                let first = first + p * LANES;
                let score = isa.mul(acc[p][i], scale);
                let score = match task.a.soft_cap {
                    Some(c) => Unary::SoftCap(c).apply(isa, score),
                    None => score,
                };
                let out = &mut self.scores[(q + i) * stride + column + p * LANES..][..LANES];
                crate::store_part(isa, score, out);
                if seen.start > first || seen.end < first + LANES {
                    out[..seen.start.saturating_sub(first).min(LANES)].fill(f32::NEG_INFINITY);
                    out[seen.end.saturating_sub(first).min(LANES)..].fill(f32::NEG_INFINITY);
                }
            }
        }
    }
}

/// Scores to probabilities. Masked positions get exactly 0.
#[inline(always)]
fn softmax<I: Isa>(isa: I, scores: &mut [f32]) {
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut max = isa.splat(f32::NEG_INFINITY);
    for c in chunks.iter() {
        max = isa.max(isa.load(c), max);
    }
    let max = isa.splat(isa.max_lane(max));
    let mut sum = isa.splat(0.0);
    for c in chunks.iter_mut() {
        let e = math::exp(isa, isa.sub(isa.load(c), max));
        sum = isa.add(sum, e);
        isa.store(e, c);
    }
    let inverse = isa.splat(1.0 / isa.sum(sum));
    for c in chunks {
        isa.store(isa.mul(isa.load(c), inverse), c);
    }
}

/// Adds a span's values, weighted by the probabilities of `T` queries from query `q` on, `P` lines at a time.
struct Mix<'a, 'b, const P: usize, const T: usize> {
    task: &'a Task<'b>,
    at: Place,
    q: usize,
    scores: &'a [f32],
}

impl<const P: usize, const T: usize> Kernel for Mix<'_, '_, P, T> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (first, q) = (self.at.first, self.q);
        let within = |(row, _): (usize, usize)| {
            let seen = self.task.sees(row);
            seen.start.max(first) - first..seen.end.clamp(first, first + SPAN) - first
        };
        let queries = self.task.queries::<T>(q);
        // Rows see more and more, so the first and the last say it for all.
        if within(queries[0]) == within(queries[T - 1]) {
            self.add::<I, T>(isa, q, queries, within(queries[0]));
        } else {
            for i in 0..T {
                self.add::<I, 1>(isa, q + i, [queries[i]], within(queries[i]));
            }
        }
    }
}

impl<const P: usize, const T: usize> Mix<'_, '_, P, T> {
    /// Adds the positions `range` of the span to `N` queries.
    #[inline(always)]
    fn add<I: Isa, const N: usize>(&self, isa: I, q: usize, queries: [(usize, usize); N], range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let Place { column, stride, .. } = self.at;
        let mut x = [std::ptr::null(); N];
        for i in 0..N {
            x[i] = self.scores[(q + i) * stride + column..][range.clone()].as_ptr();
        }
        let lines = self.task.kv.value_dim.div_ceil(LANES);
        let mut line = 0;
        while line < lines {
            if lines - line >= P {
                self.lines::<I, P, N>(isa, queries, line, &range, x);
                line += P;
            } else {
                self.lines::<I, 1, N>(isa, queries, line, &range, x);
                line += 1;
            }
        }
    }

    #[inline(always)]
    fn lines<I: Isa, const L: usize, const N: usize>(
        &self,
        isa: I,
        queries: [(usize, usize); N],
        line: usize,
        range: &Range<usize>,
        x: [*const f32; N],
    ) {
        let dv = self.task.kv.value_dim;
        let part = |l: usize| (line + l) * LANES..dv.min((line + l + 1) * LANES);
        let mut acc = [[isa.splat(0.0); N]; L];
        for i in 0..N {
            let out = self.task.out(queries[i].1);
            for l in 0..L {
                acc[l][i] = crate::load_part(isa, &out[part(l)]);
            }
        }
        // SAFETY: a span has as many lines as positions for every 16 of a value's elements.
        unsafe {
            let lines = from_fn(|l| self.at.lines.add((line + l) * SPAN + range.start));
            float::tile::<I, float::F32, L, N, false>(isa, lines, x, range.len(), &mut acc);
        }
        for i in 0..N {
            let out = self.task.out(queries[i].1);
            for l in 0..L {
                crate::store_part(isa, acc[l][i], &mut out[part(l)]);
            }
        }
    }
}
