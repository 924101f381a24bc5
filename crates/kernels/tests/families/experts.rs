use crate::{EPS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Ctx, Groups, Route, route, softmax};

const WIDTHS: [usize; 6] = [1, 3, 16, 17, 64, 257];

#[test]
fn rows_become_probabilities() {
    let mut r = Rng::new(31);
    for n in WIDTHS {
        let x: Vec<f32> = r.floats(130 * n).iter().map(|x| x * 20.0).collect();
        let run = |ctx: Ctx<'_>, x: &[f32]| {
            let mut out = vec![f32::NAN; x.len()];
            softmax(ctx, n, x, &mut out);
            out
        };
        let want = scalar(|ctx| run(ctx, &x));
        let exact = x.chunks(n).flat_map(|x| {
            let most = x.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = x.iter().map(|&x| f64::from(x - most).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |e| (e / sum, e / sum * (n as f64 / 16.0 + 12.0) * EPS))
        });
        within(&want, exact, &n);
        everywhere(|ctx, at| {
            same(&run(ctx, &x), &want, &format!("{n}, {at}"));
            same(&run(ctx, &x[129 * n..]), &want[129 * n..], &format!("last of {n}, {at}"));
        });
    }
}

/// A choice by sorting, from the definition.
fn chosen(r: Route, scores: &[f32], bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let key = |e: usize| scores[e] + bias.map_or(0.0, |b| b[e]);
    let size = r.groups.map_or(scores.len(), |g| scores.len() / g.all);
    let best = |mut all: Vec<usize>, n: usize, key: &dyn Fn(usize) -> f32| {
        all.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
        all.truncate(n);
        all
    };
    let worth = |group: usize| {
        let top = best((group * size..(group + 1) * size).collect(), 2, &key);
        key(top[0]) + if r.groups.is_some_and(|g| g.two) { key(top[1]) } else { 0.0 }
    };
    let groups = r.groups.map_or(vec![0], |g| best((0..g.all).collect(), g.used, &worth));
    let allowed = (0..scores.len()).filter(|e| groups.contains(&(e / size))).collect();
    let mut ids = best(allowed, r.used, &key);
    ids.sort_unstable();
    let sum: f32 = if r.normalise { ids.iter().map(|&e| scores[e]).sum() } else { 1.0 };
    (ids.iter().map(|&e| e as f32).collect(), ids.iter().map(|&e| scores[e] / sum * r.scale).collect())
}

#[test]
fn the_best_experts_are_chosen() {
    let mut r = Rng::new(32);
    let groups = |all, used, two| Some(Groups { all, used, two });
    for (experts, used, groups) in [
        (1, 1, None),
        (8, 2, None),
        (7, 7, None),
        (60, 4, None),
        (256, 8, groups(8, 4, true)),
        (12, 3, groups(4, 1, true)),
        (12, 2, groups(4, 2, false)),
        (64, 5, groups(64, 5, false)),
        (10, 10, groups(5, 5, true)),
    ] {
        for (normalise, scale, biased, ties) in
            [(true, 1.0, false, false), (false, 2.5, true, false), (true, 0.5, true, true)]
        {
            let route_ = Route { used, groups, normalise, scale, sigmoid: false };
            // Scores are positive; in some cases few different ones, so that equals must be told apart.
            let score = |x: f32| if ties { (x * 2.0).round().abs() + 1.0 } else { x.abs() };
            let scores: Vec<f32> = r.floats(40 * experts).into_iter().map(score).collect();
            let bias: Vec<f32> = r.floats(experts).into_iter().map(|x| if ties { 0.0 } else { x }).collect();
            let bias = biased.then_some(&bias[..]);
            everywhere(|ctx, at| {
                let mut out = vec![f32::NAN; 40 * 2 * used];
                route(ctx, route_, experts, &scores, bias, &mut out);
                for (got, scores) in out.chunks(2 * used).zip(scores.chunks(experts)) {
                    let (ids, weights) = chosen(route_, scores, bias);
                    assert_eq!(&got[..used], ids, "{route_:?} of {experts}, {at}");
                    let bound = weights.iter().map(|&w| (f64::from(w), f64::from(w) * 4.0 * EPS));
                    within(&got[used..], bound, &format!("{route_:?} of {experts}, {at}"));
                }
            });
        }
    }
}

#[test]
fn large_logits_are_told_apart() {
    let r = Route { used: 2, groups: None, normalise: false, scale: 1.0, sigmoid: true };
    everywhere(|ctx, at| {
        let mut out = [f32::NAN; 8];
        route(ctx, r, 4, &[30.0, 40.0, -3.0, 35.0, -1.0, -2.0, 0.5, f32::NAN], None, &mut out);
        assert_eq!(out[..6], [1.0, 3.0, 1.0, 1.0, 0.0, 2.0], "{at}");
        let exact = [-1.0, 0.5].map(|x: f64| 1.0 / (1.0 + (-x).exp()));
        within(&out[6..], exact.map(|w| (w, w * 4.0 * EPS)), &at);
    });
}

#[test]
fn scores_that_are_no_numbers_choose_somebody() {
    for groups in [None, Some(Groups { all: 2, used: 1, two: true })] {
        let r = Route { used: 2, groups, normalise: true, scale: 1.0, sigmoid: false };
        for scores in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::NEG_INFINITY, f32::NAN, 1.0, f32::INFINITY]] {
            for bias in [[0.0; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY; 4]] {
                let mut out = [9.0; 4];
                scalar(|ctx| route(ctx, r, 4, &scores, Some(&bias), &mut out));
                assert!(out[..2].iter().all(|id| (0.0..4.0).contains(id)), "{out:?}");
            }
        }
    }
}
