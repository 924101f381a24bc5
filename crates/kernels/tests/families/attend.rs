use crate::{EPS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Attend, CacheType, Ctx, Kv, Rows, Scratch, Window, attend, store};

/// One row of the table: query heads, key heads, columns of a key and of a value, window, cap, cache, page.
struct Case(usize, usize, usize, usize, Option<Window>, Option<f32>, CacheType, usize);

use CacheType::{BF16, F16, F32, Q4_0, Q8_0};
use Window::{Chunked, Sliding};
const CASES: &[Case] = &[
    Case(1, 1, 8, 8, None, None, F32, 16),
    Case(2, 2, 12, 16, None, None, F32, 64),
    Case(4, 4, 16, 5, Some(Sliding(5)), None, F32, 32),
    Case(8, 1, 20, 24, None, None, F32, 64),
    Case(8, 2, 64, 64, Some(Sliding(16)), None, F16, 64),
    Case(3, 1, 80, 100, None, None, F32, 16),
    Case(6, 2, 64, 40, Some(Sliding(17)), Some(2.0), F16, 32),
    Case(16, 1, 8, 33, Some(Sliding(64)), None, F32, 64),
    Case(14, 2, 16, 72, None, Some(30.0), F32, 48),
    Case(5, 1, 12, 1, Some(Sliding(1)), None, F16, 16),
    Case(9, 3, 20, 17, Some(Sliding(5)), Some(0.5), F32, 64),
    Case(11, 1, 64, 48, Some(Sliding(33)), None, F16, 16),
    Case(4, 1, 8, 130, None, None, F16, 64),
    Case(6, 2, 64, 40, None, None, BF16, 32),
    Case(4, 4, 20, 33, Some(Sliding(20)), None, BF16, 64),
    Case(8, 2, 64, 64, None, None, Q8_0, 64),
    Case(7, 1, 40, 100, Some(Sliding(33)), None, Q8_0, 16),
    Case(2, 2, 33, 17, None, Some(3.0), Q8_0, 64),
    Case(8, 2, 64, 64, None, None, Q4_0, 64),
    Case(3, 3, 80, 72, Some(Sliding(18)), None, Q4_0, 32),
    Case(32, 1, 12, 5, None, None, Q4_0, 64),
    Case(4, 2, 16, 33, Some(Chunked(1)), None, F32, 16),
    Case(6, 3, 20, 17, Some(Chunked(5)), Some(3.0), F32, 32),
    Case(8, 1, 64, 64, Some(Chunked(16)), None, F16, 64),
    Case(9, 3, 12, 40, Some(Chunked(23)), None, Q8_0, 16),
    Case(2, 2, 64, 5, Some(Chunked(64)), None, BF16, 48),
    Case(3, 1, 8, 100, Some(Chunked(1000)), None, F32, 64),
];

/// Lengths of the sequences that share a step: on both sides of a vector and of a page, and one that grows apart.
const LENGTHS: &[usize] = &[1, 16, 17, 65, 100];

/// A cache, the step's rows and what they hold.
struct Scene {
    positions: Vec<u32>,
    seqs: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn spec(&self) -> Attend {
        Attend { heads: self.0, scale: 1.0 / (self.2 as f32).sqrt(), window: self.4, soft_cap: self.5, causal: true }
    }

    fn scene(&self, r: &mut Rng) -> Scene {
        let &Case(heads, kv, dk, dv, ..) = self;
        let seqs: Vec<u32> = LENGTHS.iter().enumerate().flat_map(|(s, &n)| std::iter::repeat_n(s as u32, n)).collect();
        let n = seqs.len();
        Scene {
            positions: LENGTHS.iter().flat_map(|&n| 0..n as u32).collect(),
            seqs,
            // Scores with a spread of some units, so that the softmax is neither flat nor a single one.
            q: r.floats(n * heads * dk).iter().map(|x| x * 4.0).collect(),
            k: r.floats(n * kv * dk).iter().map(|x| x * 2.0).collect(),
            v: r.floats(n * kv * dv),
        }
    }

    /// A page table per sequence; `seed` says in what order.
    fn pages(&self, seed: usize) -> Vec<Vec<u32>> {
        let counts: Vec<usize> = LENGTHS.iter().map(|n| n.div_ceil(self.7)).collect();
        let mut free: Vec<u32> = (0..counts.iter().sum::<usize>() as u32 + 2).collect();
        let mut r = Rng::new(seed);
        let mut page = || free.swap_remove(r.next() as usize % free.len());
        counts.into_iter().map(|n| (0..n).map(|_| page()).collect()).collect()
    }

    /// A cache full of what other sequences left there.
    fn cache(&self, ctx: Ctx<'_>, tables: &[Vec<u32>]) -> Kv {
        let &Case(_, kv, dk, dv, _, _, kind, page) = self;
        let pages = tables.iter().map(Vec::len).sum::<usize>() + 2;
        let mut cache = Kv::new(kind, pages, page, kv, dk, dv).expect("memory");
        let table: Vec<u32> = (0..pages as u32).collect();
        let positions: Vec<u32> = (0..(pages * page) as u32).collect();
        let rows = Rows { positions: &positions, seqs: &vec![0; positions.len()], pages: &[&table] };
        let stale = |dim: usize| {
            (0..positions.len() * kv * dim).map(|i| [f32::NAN, 60000.0, f32::INFINITY][i % 3]).collect::<Vec<_>>()
        };
        store(ctx, &mut cache, rows, &stale(dk), &stale(dv));
        cache
    }

    /// The rows `range` of the scene in one call.
    fn step(
        &self,
        ctx: Ctx<'_>,
        s: &Scene,
        tables: &[Vec<u32>],
        cache: &mut Kv,
        write: bool,
        range: std::ops::Range<usize>,
    ) -> Vec<f32> {
        self.attend(ctx, self.spec(), s, tables, cache, write, range)
    }

    #[expect(clippy::too_many_arguments)]
    fn attend(
        &self,
        ctx: Ctx<'_>,
        spec: Attend,
        s: &Scene,
        tables: &[Vec<u32>],
        cache: &mut Kv,
        write: bool,
        range: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let &Case(heads, kv, dk, dv, ..) = self;
        let tables: Vec<&[u32]> = tables.iter().map(Vec::as_slice).collect();
        let rows = Rows { positions: &s.positions[range.clone()], seqs: &s.seqs[range.clone()], pages: &tables };
        let part = |x: &'_ [f32], width: usize| x[range.start * width..range.end * width].to_vec();
        if write {
            store(ctx, cache, rows, &part(&s.k, kv * dk), &part(&s.v, kv * dv));
        }
        let context = LENGTHS[LENGTHS.len() - 1];
        let mut scratch = Scratch::new(ctx.pool.threads(), context, heads / kv, dk.max(dv)).expect("memory");
        let mut out = vec![f32::NAN; range.len() * heads * dv];
        attend(ctx, spec, cache, rows, &part(&s.q, heads * dk), &mut scratch, &mut out);
        out
    }

    /// Double precision, straight from the definition; with each output its bound.
    fn reference(&self, s: &Scene, causal: bool) -> Vec<(f64, f64)> {
        let &Case(heads, kv, dk, dv, window, cap, kind, _) = self;
        let half = |x: f32| f64::from(alula_tensor::f16_to_f32(alula_simd::f32_to_f16(x)));
        // What the cache makes of 32 neighbours of a key or value.
        let group = |x: &[f32]| -> Vec<f64> {
            let most = x.iter().copied().fold(0f32, |m, x| if x.abs() > m.abs() { x } else { m });
            let code = |x: f32| match kind {
                F32 => f64::from(x),
                F16 => half(x),
                // 8 bits of precision: round the 16 lower ones away.
                BF16 => {
                    let (bits, odd) = (x.to_bits(), x.to_bits() >> 16 & 1);
                    f64::from(f32::from_bits((bits + 0x7fff + odd) & 0xffff_0000))
                }
                Q8_0 => half(most.abs() / 127.0) * f64::from((x * (127.0 / most.abs())).round_ties_even()),
                Q4_0 => half(most / -8.0) * (f64::from((x * (-8.0 / most) + 8.5).floor().min(15.0)) - 8.0),
            };
            x.iter().map(|&x| code(x)).collect()
        };
        let cached = |x: &[f32], dim: usize| -> Vec<f64> {
            x.chunks(dim).flat_map(|row| row.chunks(32).flat_map(group)).collect()
        };
        let (keys, values) = (cached(&s.k, dk), cached(&s.v, dv));
        let mut out = Vec::new();
        for row in 0..s.seqs.len() {
            let near = |j: usize| match window {
                None => true,
                Some(Sliding(w)) => row.abs_diff(j) + usize::from(causal) <= w,
                Some(Chunked(n)) => s.positions[row] / n as u32 == s.positions[j] / n as u32,
            };
            let seen = |j: &usize| s.seqs[*j] == s.seqs[row] && near(*j) && (!causal || *j <= row);
            let seen: Vec<usize> = (0..s.seqs.len()).filter(seen).collect();
            for head in 0..heads {
                let g = head / (heads / kv);
                let at = |x: &[f64], r: usize, dim: usize, d: usize| x[(r * kv + g) * dim + d];
                let mut most = 0f64; // Σ |q k|, which bounds a score's error
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&j| {
                        let terms =
                            (0..dk).map(|d| f64::from(s.q[(row * heads + head) * dk + d]) * at(&keys, j, dk, d));
                        let (sum, abs) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
                        let scale = f64::from(self.spec().scale);
                        most = most.max(abs * scale);
                        let score = sum * scale;
                        cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                    })
                    .collect();
                let max = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                // A score is off by (dk + 10) roundings of it at most; so is, relatively, a weight; sums add theirs.
                let relative = 2.0 * ((dk + 10) as f64 * most + seen.len() as f64 + 12.0) * EPS;
                for d in 0..dv {
                    let terms = seen.iter().zip(&weights).map(|(&j, w)| w / total * at(&values, j, dv, d));
                    let (sum, abs) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
                    out.push((sum, abs * relative));
                }
            }
        }
        out
    }
}

#[test]
fn rows_attend_to_their_own_past() {
    let mut r = Rng::new(10);
    for (i, case) in CASES.iter().enumerate() {
        let Case(heads, kv, dk, dv, window, cap, kind, page) = case;
        let what =
            format!("{heads} heads on {kv}, {dk}/{dv} columns, window {window:?}, cap {cap:?}, {kind:?}, page {page}");
        let s = case.scene(&mut r);
        let (n, width) = (s.seqs.len(), heads * dv);
        let tables = case.pages(i);
        let want = scalar(|ctx| case.step(ctx, &s, &tables, &mut case.cache(ctx, &tables), true, 0..n));
        within(&want, case.reference(&s, true), &what);
        everywhere(|ctx, at| {
            // All at once, with the pages in another order; then alone, in pieces of several sizes.
            let tables = case.pages(i + 100);
            let mut cache = case.cache(ctx, &tables);
            same(&case.step(ctx, &s, &tables, &mut cache, true, 0..n), &want, &format!("{what}, {at}"));
            for row in (0..n).step_by(7) {
                let got = case.step(ctx, &s, &tables, &mut cache, false, row..row + 1);
                same(&got, &want[row * width..(row + 1) * width], &format!("{what}, row {row} alone, {at}"));
            }
            let mut cache = case.cache(ctx, &tables);
            let (mut start, sizes) = (0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 65]);
            for size in sizes.into_iter().cycle() {
                let range = start..n.min(start + size);
                start = range.end;
                let got = case.step(ctx, &s, &tables, &mut cache, true, range.clone());
                same(&got, &want[range.start * width..range.end * width], &format!("{what}, rows {range:?}, {at}"));
                if start == n {
                    break;
                }
            }
        });
    }
}

#[test]
fn rows_that_look_both_ways_attend_to_their_sequence() {
    let mut r = Rng::new(12);
    for (i, case) in CASES.iter().enumerate() {
        let Case(heads, kv, dk, dv, window, cap, kind, page) = case;
        let what = format!(
            "both ways, {heads} heads on {kv}, {dk}/{dv}, window {window:?}, cap {cap:?}, {kind:?}, page {page}"
        );
        let spec = Attend { causal: false, ..case.spec() };
        let s = case.scene(&mut r);
        let (n, width) = (s.seqs.len(), heads * dv);
        let tables = case.pages(i);
        let want = scalar(|ctx| case.attend(ctx, spec, &s, &tables, &mut case.cache(ctx, &tables), true, 0..n));
        within(&want, case.reference(&s, false), &what);
        everywhere(|ctx, at| {
            let tables = case.pages(i + 100);
            let mut cache = case.cache(ctx, &tables);
            let all = case.attend(ctx, spec, &s, &tables, &mut cache, true, 0..n);
            same(&all, &want, &format!("{what}, {at}"));
            // Each sequence in a call of its own.
            let mut start = 0;
            for len in LENGTHS {
                let range = start..start + len;
                start = range.end;
                let mut cache = case.cache(ctx, &tables);
                let got = case.attend(ctx, spec, &s, &tables, &mut cache, true, range.clone());
                same(&got, &want[range.start * width..range.end * width], &format!("{what}, rows {range:?}, {at}"));
            }
        });
    }
}

#[test]
fn a_nan_of_one_row_stays_in_its_sequence() {
    let case = &CASES[4];
    let mut s = case.scene(&mut Rng::new(11));
    let tables = case.pages(3);
    let width = case.0 * case.3;
    everywhere(|ctx, at| {
        let want = case.step(ctx, &s, &tables, &mut case.cache(ctx, &tables), true, 0..s.seqs.len());
        let first = LENGTHS[0] + LENGTHS[1] + 3; // row 3 of the third sequence; windows are of 16
        let key = (first * case.1 + 1) * case.2;
        let clean = std::mem::replace(&mut s.k[key], f32::NAN);
        let got = case.step(ctx, &s, &tables, &mut case.cache(ctx, &tables), true, 0..s.seqs.len());
        s.k[key] = clean;
        for (row, (got, want)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
            let hit = s.seqs[row] == 2 && (3..3 + 14).contains(&s.positions[row]);
            // Query heads 4 to 7 share key head 1.
            same(&got[..width / 2], &want[..width / 2], &format!("row {row}, {at}"));
            if hit {
                assert!(got[width / 2..].iter().all(|x| x.is_nan()), "row {row}, {at}");
            } else {
                same(&got[width / 2..], &want[width / 2..], &format!("row {row}, {at}"));
            }
        }
    });
}

#[test]
fn every_cache_keeps_a_nan() {
    for kind in [F32, F16, BF16, Q8_0, Q4_0] {
        for at in [0, 7, 31, 39] {
            let mut v = vec![0.5; 40];
            v[at] = f32::NAN;
            let out = scalar(|ctx| {
                let mut cache = Kv::new(kind, 1, 16, 1, 40, 40).expect("memory");
                let rows = Rows { positions: &[0], seqs: &[0], pages: &[&[0]] };
                store(ctx, &mut cache, rows, &[1.0; 40], &v);
                let (mut scratch, mut out) = (Scratch::new(1, 1, 1, 40).expect("memory"), [0.0; 40]);
                let one = Attend { heads: 1, scale: 1.0, window: None, soft_cap: None, causal: true };
                attend(ctx, one, &cache, rows, &[1.0; 40], &mut scratch, &mut out);
                out
            });
            assert!(out[at].is_nan(), "{kind:?}: element {at} is {}", out[at]);
        }
    }
}

#[test]
fn the_later_of_two_rows_in_one_place_stays() {
    let long = vec![1.0; 2 * 40 * 64]; // enough for two threads
    everywhere(|ctx, at| {
        let run = |k: &[f32]| {
            let mut cache = Kv::new(F32, 1, 16, 2, 40, 40).expect("memory");
            let n = k.len() / 80;
            let rows = Rows { positions: &vec![0; n], seqs: &vec![0; n], pages: &[&[0]] };
            store(ctx, &mut cache, rows, k, k);
            let rows = Rows { positions: &[0], seqs: &[0], pages: &[&[0]] };
            let (mut scratch, mut out) = (Scratch::new(ctx.pool.threads(), 1, 1, 40).expect("memory"), [f32::NAN; 80]);
            let one = Attend { heads: 2, scale: 1.0, window: None, soft_cap: None, causal: true };
            attend(ctx, one, &cache, rows, &[1.0; 80], &mut scratch, &mut out);
            out
        };
        let last: Vec<f32> = (0..80).map(|i| i as f32).collect();
        same(&run(&[&long[..], &last].concat()), &last, &at);
    });
}

#[test]
fn what_a_cache_and_a_scratch_take() {
    assert_eq!(Kv::bytes_per_block(F32, 3, 20, 17), 16 * 3 * (20 + 32) * 4);
    assert_eq!(Kv::bytes_per_block(F16, 1, 64, 64), 16 * 256);
    assert_eq!(Kv::bytes_per_block(BF16, 1, 64, 64), 16 * 256);
    assert_eq!(Kv::bytes_per_block(Q8_0, 2, 64, 64), 16 * 2 * 2 * 2 * 34);
    assert_eq!(Kv::bytes_per_block(Q4_0, 1, 96, 64), 16 * 5 * 18);
    assert_eq!(Scratch::new(3, 17, 4, 20).expect("memory").bytes(), 3 * (64 * 32 + 32 * (64 + 16)) * 4);
    // None of these can be had; some are no number of bytes at all.
    assert!(Kv::new(F32, usize::MAX / 8, 64, 1, 64, 64).is_none());
    assert!(Kv::new(F32, 1 << 50, 64, 1, 64, 64).is_none());
    assert!(Kv::new(F32, 1, 16, 1, 1, 1 << 60).is_none());
    // A scratch is enough for smaller groups too.
    let bytes = |group| Scratch::new(1, 100, group, 8).expect("memory").bytes();
    assert!((1..40).all(|g| bytes(g) <= bytes(g + 1)));
    assert!(Scratch::new(2, usize::MAX, 1, 8).is_none());
    assert!(Scratch::new(usize::MAX, 1000, 8, 8).is_none());
    assert!(Scratch::new(1, 1 << 58, 1, 8).is_none());
}

#[test]
fn sizes_that_do_not_fit_panic() {
    // Each argument is right but for one: (key elements, query elements, page table, scratch's columns, heads).
    let run = |k: usize, q: usize, table: &'static [u32], dim: usize, heads: usize| {
        std::panic::catch_unwind(move || {
            scalar(|ctx| {
                let mut cache = Kv::new(F32, 2, 16, 2, 8, 8).expect("memory");
                let rows = Rows { positions: &[0, 17], seqs: &[0, 0], pages: &[table] };
                store(ctx, &mut cache, rows, &vec![0.0; k], &[0.0; 32]);
                let a = Attend { heads, scale: 1.0, window: None, soft_cap: None, causal: true };
                let mut scratch = Scratch::new(1, 18, 2, dim).expect("memory");
                attend(ctx, a, &cache, rows, &vec![0.0; q], &mut scratch, &mut [0.0; 64]);
            })
        })
    };
    assert!(run(32, 64, &[1, 0], 8, 4).is_ok());
    assert!(run(31, 64, &[1, 0], 8, 4).is_err());
    assert!(run(32, 63, &[1, 0], 8, 4).is_err());
    assert!(run(32, 64, &[1], 8, 4).is_err());
    assert!(run(32, 64, &[1, 2], 8, 4).is_err());
    assert!(run(32, 64, &[1, 0], 0, 4).is_err());
    assert!(run(32, 64, &[1, 0], 8, 3).is_err());
    for (page, heads, dk, dv) in [(8, 1, 8, 8), (0, 1, 8, 8), (16, 0, 8, 8), (16, 1, 0, 8), (16, 1, 8, 0)] {
        assert!(std::panic::catch_unwind(|| Kv::new(F16, 1, page, heads, dk, dv)).is_err());
    }
}
