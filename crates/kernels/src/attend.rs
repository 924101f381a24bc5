//! Causal attention over a paged cache, with grouped heads (Ainslie et al. 2023, arXiv:2305.13245), sliding windows
//! and soft caps.
//!
//! Keys lie transposed in blocks of 16 positions, so that a vector's lanes are positions and a score has one
//! accumulator over the head's elements; an output element has one accumulator over ascending positions. The
//! softmax's sum runs over 16 lanes (position mod 16) in ascending order, then the fixed tree. Nothing depends on
//! which other rows are in the step.
#![allow(unsafe_code)]

use crate::buf::Shared;
use crate::{Buf, Ctx, Unary, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel, LANES, math};

/// What the cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
}

impl CacheType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            CacheType::F32 => 4,
            CacheType::F16 => 2,
        }
    }
}

/// One layer's keys and values for a number of pages.
///
/// Keys: `[pages, heads, page / 16, key_dim, 16]`; values: `[pages, heads, page, value_dim rounded up to 16]`.
pub struct Kv {
    kind: CacheType,
    heads: usize,
    key_dim: usize,
    value_dim: usize,
    page: usize,
    k: Buf,
    v: Buf,
}

impl Kv {
    /// A zeroed cache of `pages` pages of `page` positions; `None` where there is not so much memory.
    ///
    /// # Panics
    /// If `page` is not a multiple of 16, or a size other than `pages` is 0.
    pub fn new(
        kind: CacheType,
        pages: usize,
        page: usize,
        heads: usize,
        key_dim: usize,
        value_dim: usize,
    ) -> Option<Kv> {
        assert!(page.is_multiple_of(LANES) && page > 0 && heads > 0 && key_dim > 0 && value_dim > 0);
        let places = pages.checked_mul(page)?.checked_mul(heads)?;
        let zeroed = |dim: usize| Buf::try_zeroed(places.checked_mul(dim)?.checked_mul(kind.bytes())?);
        let (k, v) = (zeroed(key_dim)?, zeroed(value_dim.checked_next_multiple_of(LANES)?)?);
        Some(Kv { kind, heads, key_dim, value_dim, page, k, v })
    }

    /// Bytes that one position takes.
    pub fn bytes_per_token(kind: CacheType, heads: usize, key_dim: usize, value_dim: usize) -> usize {
        heads * (key_dim + value_dim.next_multiple_of(LANES)) * kind.bytes()
    }
}

/// The page tables of a step's rows.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Position of each row in its sequence.
    pub positions: &'a [u32],
    /// Sequence of each row, an index into `pages`.
    pub seqs: &'a [u32],
    /// Page table of each sequence.
    pub pages: &'a [&'a [u32]],
}

impl Rows<'_> {
    /// The page of a row's own position, and the place in it.
    fn place(&self, row: usize, page: usize) -> (usize, usize) {
        let p = self.positions[row] as usize;
        (self.pages[self.seqs[row] as usize][p / page] as usize, p % page)
    }
}

/// Writes the keys and values of a step's rows into the cache. Where two rows have one place, the later one stays.
///
/// `k`: `[rows, heads, key_dim]`, `v`: `[rows, heads, value_dim]`.
///
/// # Panics
/// If the sizes do not fit together, or a row's page is missing.
pub fn store(ctx: Ctx<'_>, kv: &mut Kv, rows: Rows<'_>, k: &[f32], v: &[f32]) {
    let (heads, dk, dv, page, kind) = (kv.heads, kv.key_dim, kv.value_dim, kv.page, kv.kind);
    let n = rows.positions.len();
    assert!(k.len() == n * heads * dk && v.len() == n * heads * dv);
    let (ks, vs) = (Shared::new(&mut kv.k[..]), Shared::new(&mut kv.v[..]));
    let size = kind.bytes();
    let width = dv.next_multiple_of(LANES);
    // A task is a head: neighbouring rows share its cache lines.
    ctx.pool.run(heads, k.len() > WORTH_SPLITTING, |h, _| {
        for row in 0..n {
            let (p, at) = rows.place(row, page);
            let base = p * heads + h;
            for (d, x) in k[(row * heads + h) * dk..][..dk].iter().enumerate() {
                let i = (base * page / LANES + at / LANES) * dk * LANES + d * LANES + at % LANES;
                // SAFETY: a place in the cache belongs to one head, and a head's rows are written one after another.
                let out = unsafe { ks.part(i * size, size) };
                put(kind, &[*x], out);
            }
            // SAFETY: as above.
            let out = unsafe { vs.part((base * page + at) * width * size, dv * size) };
            put(kind, &v[(row * heads + h) * dv..][..dv], out);
        }
    });
}

/// Encodes floats for the cache.
fn put(kind: CacheType, x: &[f32], out: &mut [u8]) {
    match kind {
        CacheType::F32 => {
            for (x, o) in x.iter().zip(out.chunks_exact_mut(4)) {
                o.copy_from_slice(&x.to_le_bytes());
            }
        }
        CacheType::F16 => {
            for (x, o) in x.iter().zip(out.chunks_exact_mut(2)) {
                o.copy_from_slice(&alula_simd::f32_to_f16(*x).to_le_bytes());
            }
        }
    }
}

/// What attention a layer computes.
#[derive(Clone, Copy, Debug)]
pub struct Attend {
    /// Query heads; a multiple of the cache's heads.
    pub heads: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Keys that a query sees, itself among them.
    pub window: Option<usize>,
    /// c tanh(score / c).
    pub soft_cap: Option<f32>,
}

/// Memory for scores, one part per thread.
pub struct Scratch {
    scores: Buf,
    per_thread: usize,
}

impl Scratch {
    /// For `threads` threads and contexts up to `context` positions, `group` query heads per key head; `None` where
    /// there is not so much memory.
    pub fn new(threads: usize, context: usize, group: usize) -> Option<Scratch> {
        let per_thread = context.checked_next_multiple_of(LANES)?.checked_mul(group)?;
        Some(Scratch { scores: Buf::try_zeroed(per_thread.checked_mul(threads)?.checked_mul(4)?)?, per_thread })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.scores.len()
    }
}

/// Attention of a step's rows, whose own keys and values are already stored.
///
/// `q`: `[rows, heads, key_dim]`, `out`: `[rows, heads, value_dim]`.
///
/// # Panics
/// If the sizes do not fit together, a page is missing, or the scratch was made for less.
pub fn attend(ctx: Ctx<'_>, a: Attend, kv: &Kv, rows: Rows<'_>, q: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    let n = rows.positions.len();
    assert!(a.heads.is_multiple_of(kv.heads) && q.len() == n * a.heads * kv.key_dim);
    assert_eq!(out.len(), n * a.heads * kv.value_dim);
    let work: usize = rows.positions.iter().map(|&p| (p as usize + 1) * a.heads * kv.key_dim).sum();
    let (scores, per_thread) = (Shared::new(scratch.scores.floats_mut()), scratch.per_thread);
    let out = Shared::new(out);
    // Neighbouring tasks read the same keys.
    ctx.pool.run(n * kv.heads, work > WORTH_SPLITTING, |task, thread| {
        let (head, row) = (task / n, task % n);
        let group = a.heads / kv.heads;
        let end = rows.positions[row] as usize + 1;
        let start = a.window.map_or(0, |w| end.saturating_sub(w));
        let first = (row * a.heads + head * group) * kv.value_dim;
        // SAFETY: one part per thread; one task per output.
        let (scores, out) =
            unsafe { (scores.part(thread * per_thread, per_thread), out.part(first, group * kv.value_dim)) };
        let q = &q[(row * a.heads + head * group) * kv.key_dim..][..group * kv.key_dim];
        let pages = rows.pages[rows.seqs[row] as usize];
        assert!(pages.len() * kv.page >= end);
        ctx.cpu.run(Head { a, kv, head, pages, start, end, q, scores, out });
    });
}

/// One row's query heads that share one key head.
struct Head<'a> {
    a: Attend,
    kv: &'a Kv,
    head: usize,
    pages: &'a [u32],
    start: usize,
    end: usize,
    q: &'a [f32],
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.kv.kind {
            CacheType::F32 => self.go::<I, f32>(isa),
            CacheType::F16 => self.go::<I, u16>(isa),
        }
    }
}

/// An element type of the cache.
trait Element: Copy {
    fn load<I: Isa>(isa: I, p: &[Self; 16]) -> I::F;
}
impl Element for f32 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[f32; 16]) -> I::F {
        isa.load(p)
    }
}
impl Element for u16 {
    #[inline(always)]
    fn load<I: Isa>(isa: I, p: &[u16; 16]) -> I::F {
        isa.load_f16(p)
    }
}

impl Head<'_> {
    #[inline(always)]
    fn go<I: Isa, E: Element>(mut self, isa: I) {
        let group = self.q.len() / self.kv.key_dim;
        // Scores of a query head: positions from the block of `start` to the end of the block of `end - 1`.
        let stride = self.end.next_multiple_of(LANES) - self.start / LANES * LANES;
        let mut g = 0;
        while g < group {
            match group - g {
                8.. if I::TILE.1 >= 6 => self.scores::<I, E, 8>(isa, &mut g, stride),
                4.. if I::TILE.1 >= 4 => self.scores::<I, E, 4>(isa, &mut g, stride),
                2.. => self.scores::<I, E, 2>(isa, &mut g, stride),
                _ => self.scores::<I, E, 1>(isa, &mut g, stride),
            }
        }
        for g in 0..group {
            self.softmax(isa, g * stride..(g + 1) * stride);
        }
        let mut g = 0;
        while g < group {
            match group - g {
                8.. if I::TILE.1 >= 6 => self.mix::<I, E, 8, 2>(isa, &mut g, stride),
                4.. if I::TILE.1 >= 4 => self.mix::<I, E, 4, 4>(isa, &mut g, stride),
                2.. => self.mix::<I, E, 2, 4>(isa, &mut g, stride),
                _ => self.mix::<I, E, 1, 4>(isa, &mut g, stride),
            }
        }
    }

    /// Scaled, capped and masked scores of `G` query heads from head `g` on.
    #[inline(always)]
    fn scores<I: Isa, E: Element, const G: usize>(&mut self, isa: I, g: &mut usize, stride: usize) {
        let (kv, dk) = (self.kv, self.kv.key_dim);
        let first = self.start / LANES;
        let (keys, scale) = (kv.k.as_ptr().cast::<[E; LANES]>(), isa.splat(self.a.scale));
        for block in first..self.end.div_ceil(LANES) {
            let at = block * LANES;
            let page = self.pages[at / kv.page] as usize;
            let line = ((page * kv.heads + self.head) * (kv.page / LANES) + at % kv.page / LANES) * dk;
            assert!((line + dk) * LANES * size_of::<E>() <= kv.k.len());
            let mut acc = [isa.splat(0.0); G];
            for d in 0..dk {
                // SAFETY: within the cache by the assertion; `Buf` is aligned to 64, lines to their own size.
                let k = E::load(isa, unsafe { &*keys.add(line + d) });
                for (i, acc) in acc.iter_mut().enumerate() {
                    *acc = isa.fma(k, isa.splat(self.q[(*g + i) * dk + d]), *acc);
                }
            }
            for (i, acc) in acc.into_iter().enumerate() {
                let score = isa.mul(acc, scale);
                let score = match self.a.soft_cap {
                    Some(c) => Unary::SoftCap(c).apply(isa, score),
                    None => score,
                };
                let out = &mut self.scores[(*g + i) * stride + (block - first) * LANES..][..LANES];
                crate::store_part(isa, score, out);
                out[..self.start.saturating_sub(at).min(LANES)].fill(f32::NEG_INFINITY);
                out[(self.end - at).min(LANES)..].fill(f32::NEG_INFINITY);
            }
        }
        *g += G;
    }

    /// Scores to probabilities. Masked positions get exactly 0.
    #[inline(always)]
    fn softmax<I: Isa>(&mut self, isa: I, range: std::ops::Range<usize>) {
        let (chunks, _) = self.scores[range].as_chunks_mut::<LANES>();
        let max = chunks.iter().fold(isa.splat(f32::NEG_INFINITY), |m, c| isa.max(isa.load(c), m));
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

    /// Values weighted by the probabilities of `G` query heads from head `g` on, `V` vectors of a value at a time.
    #[inline(always)]
    fn mix<I: Isa, E: Element, const G: usize, const V: usize>(&mut self, isa: I, g: &mut usize, stride: usize) {
        let lines = self.kv.value_dim.div_ceil(LANES);
        let mut line = 0;
        while line < lines {
            if lines - line >= V {
                self.mix_lines::<I, E, G, V>(isa, *g, stride, line);
                line += V;
            } else {
                self.mix_lines::<I, E, G, 1>(isa, *g, stride, line);
                line += 1;
            }
        }
        *g += G;
    }

    #[inline(always)]
    fn mix_lines<I: Isa, E: Element, const G: usize, const V: usize>(
        &mut self,
        isa: I,
        g: usize,
        stride: usize,
        line: usize,
    ) {
        let (kv, dv) = (self.kv, self.kv.value_dim);
        let lines = dv.div_ceil(LANES);
        let values = kv.v.as_ptr().cast::<[E; LANES]>();
        let base = self.start / LANES * LANES;
        let mut acc = [[isa.splat(0.0); V]; G];
        let mut at = self.start;
        while at < self.end {
            let page = self.pages[at / kv.page] as usize;
            let stop = self.end.min((at / kv.page + 1) * kv.page);
            let first = (page * kv.heads + self.head) * kv.page;
            assert!((first + kv.page) * lines * LANES * size_of::<E>() <= kv.v.len());
            for p in at..stop {
                let row = (first + p % kv.page) * lines + line;
                // SAFETY: within the cache by the assertion (line + V <= lines); `Buf` is aligned to 64.
                let v: [I::F; V] = std::array::from_fn(|i| E::load(isa, unsafe { &*values.add(row + i) }));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let weight = isa.splat(self.scores[(g + i) * stride + p - base]);
                    for (acc, v) in acc.iter_mut().zip(v) {
                        *acc = isa.fma(v, weight, *acc);
                    }
                }
            }
            at = stop;
        }
        for (i, acc) in acc.into_iter().enumerate() {
            for (j, acc) in acc.into_iter().enumerate() {
                let from = (line + j) * LANES;
                let out = &mut self.out[(g + i) * dv..][from..dv.min(from + LANES)];
                crate::store_part(isa, acc, out);
            }
        }
    }
}
