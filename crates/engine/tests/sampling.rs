//! Sampling against transformers' logits processors and numpy's generator (tools/goldens_sampling.py), and by statistics.

use alula_engine::sample::{ArgumentError, NoCandidate, Sampler, Sampling};
use serde_json::Value;

fn golden() -> Vec<Value> {
    serde_json::from_str(include_str!("data/sampling.json")).unwrap()
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn pairs(v: &Value) -> Vec<(u32, f32)> {
    v.as_array().unwrap().iter().map(|x| (x[0].as_u64().unwrap() as u32, x[1].as_f64().unwrap() as f32)).collect()
}

fn sampling(how: &Value) -> Sampling {
    let number = |name: &str| how[name].as_f64().unwrap() as f32;
    Sampling {
        temperature: number("temperature"),
        top_k: number("top_k") as usize,
        top_p: number("top_p"),
        min_p: number("min_p"),
        typical_p: number("typical_p"),
        repeat_penalty: number("repeat_penalty"),
        repeat_last_n: number("repeat_last_n") as usize,
        presence_penalty: number("presence_penalty"),
        frequency_penalty: number("frequency_penalty"),
        logit_bias: pairs(&how["logit_bias"]),
        seed: None,
        logprobs: None,
    }
}

/// Everything off but what the caller sets.
fn plain() -> Sampling {
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
}

#[test]
fn as_transformers_and_numpy() {
    let mut sampler = Sampler::default();
    let cases = golden();
    assert!(cases.len() > 40);
    for case in &cases {
        let (how, logits, sequence) = (sampling(&case["how"]), floats(&case["logits"]), ids(&case["sequence"]));
        how.check(logits.len()).unwrap();
        let got = sampler.distribution(&how, &sequence, &logits).unwrap();
        let kept: Vec<u32> = got.iter().map(|x| x.0).collect();
        assert_eq!(kept, ids(&case["kept"]), "{how:?}");
        for ((id, p), want) in got.iter().zip(case["probabilities"].as_array().unwrap()) {
            let want = want.as_f64().unwrap();
            assert!((p - want).abs() <= 2e-6 * want, "token {id}: {p} instead of {want}, {how:?}");
        }
        for (seed, want) in ids(&case["draws"]).into_iter().enumerate() {
            let got = sampler.draw(&how, seed as u64, &sequence, &logits).unwrap();
            assert_eq!(got, want, "seed {seed}, {how:?}");
        }
    }
}

#[test]
fn logprobs_as_torch() {
    let mut sampler = Sampler::default();
    for case in golden() {
        let (logits, want) = (floats(&case["logits"]), pairs(&case["top"]));
        for chosen in &want {
            let got = sampler.logprobs(&logits, chosen.0, want.len());
            assert!((got.chosen - chosen.1).abs() <= 1e-6 * chosen.1.abs());
            for (got, want) in got.top.iter().zip(&want) {
                assert!(got.0 == want.0 && (got.1 - want.1).abs() <= 1e-6 * want.1.abs(), "{got:?} {want:?}");
            }
            assert_eq!(got.top.len(), want.len());
        }
    }
}

#[test]
fn logprobs_at_the_edges() {
    let mut sampler = Sampler::default();
    let third = -(3f32.ln());
    let got = sampler.logprobs(&[1.0, f32::NAN, 1.0, f32::NEG_INFINITY, 1.0], 2, 9);
    assert_eq!(got.top, [(0, third), (2, third), (4, third)], "equal ones in order of id");
    assert_eq!(got.chosen, third);
    assert_eq!(sampler.logprobs(&[1.0, 2.0], 0, 0).top, []);
    assert_eq!(sampler.logprobs(&[1.0, f32::INFINITY], 1, 2).top, [(1, 0.0), (0, f32::MIN)]);
    assert_eq!(sampler.logprobs(&[5.0], 3, 0).chosen, f32::NEG_INFINITY);
}

#[test]
fn greedy() {
    let mut sampler = Sampler::default();
    let mut draw = |how: &Sampling, logits: &[f32]| sampler.draw(how, 1, &[0, 1], logits);
    let g = Sampling::greedy();
    assert_eq!(draw(&g, &[0.0, 3.0, 1.0, 3.0]), Ok(1), "the lowest id of equal ones");
    assert_eq!(draw(&g, &[-0.0, 0.0]), Ok(0));
    assert_eq!(draw(&g, &[f32::NAN, -5.0, f32::NAN, -4.0]), Ok(3));
    assert_eq!(draw(&g, &[1.0, f32::INFINITY, f32::MAX]), Ok(1));
    assert_eq!(draw(&Sampling { typical_p: 0.01, ..g.clone() }, &[9.0, 8.9, 8.8, 8.7]), Ok(0), "filters do not matter");
    assert_eq!(draw(&Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], ..g.clone() }, &[0.0, 3.0, 1.0]), Ok(2));
    assert_eq!(draw(&Sampling { repeat_penalty: 2.0, ..g.clone() }, &[1.5, 3.0, 1.6]), Ok(2), "penalties do");
    let last = Sampling { frequency_penalty: 9.0, repeat_last_n: 1, ..g.clone() };
    assert_eq!(draw(&last, &[3.0, 4.0, 1.0]), Ok(0), "a window of one holds the last token, 1");
    assert_eq!(draw(&last, &[3.0, 2.0, 1.0]), Ok(0), "and not the first, 0");
    let broken = [f32::NAN, f32::NEG_INFINITY, f32::NAN];
    for how in [g, Sampling::default(), plain()] {
        assert_eq!(draw(&how, &broken), Err(NoCandidate { nan: 2, vocab: 3 }));
        assert_eq!(draw(&how, &[]), Err(NoCandidate { nan: 0, vocab: 0 }));
    }
}

#[test]
fn ties_and_extremes() {
    let mut sampler = Sampler::default();
    let mut kept = |how: &Sampling, logits: &[f32]| -> Vec<u32> {
        sampler.distribution(how, &[], logits).unwrap().iter().map(|x| x.0).collect()
    };
    let flat = [1.0; 8];
    assert_eq!(kept(&Sampling { top_k: 3, ..plain() }, &flat), [0, 1, 2]);
    assert_eq!(kept(&Sampling { top_p: 0.5, ..plain() }, &flat), [0, 1, 2, 3], "exactly half is enough");
    assert_eq!(kept(&Sampling { typical_p: 0.5, ..plain() }, &flat), [0, 1, 2, 3]);
    assert_eq!(kept(&Sampling { min_p: 1.0, ..plain() }, &flat), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(kept(&Sampling { top_k: 2, ..plain() }, &[0.0, -0.0, 0.0]), [0, 1]);
    let wild = [f32::MAX, f32::INFINITY, -f32::MAX, f32::NAN, f32::NEG_INFINITY];
    assert_eq!(kept(&Sampling { top_p: 0.9, typical_p: 0.9, ..plain() }, &wild), [0, 1]);
    assert_eq!(kept(&Sampling { temperature: f32::MIN_POSITIVE, ..plain() }, &[1.0, 2.0]), [0, 1]);
    let cold = Sampling { temperature: f32::MIN_POSITIVE, ..plain() };
    assert_eq!(sampler.draw(&cold, 3, &[], &[1.0, 2.0, 1.5]), Ok(1));
    // Nucleus over more candidates than it sorts at first.
    let many: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
    for how in [Sampling { top_p: 0.9, ..plain() }, Sampling { typical_p: 0.9, ..plain() }] {
        let total: f64 = sampler.distribution(&plain(), &[], &many).unwrap().iter().map(|x| x.1).sum();
        assert!((total - 1.0).abs() < 1e-12);
        let all = sampler.distribution(&plain(), &[], &many).unwrap();
        let kept = sampler.distribution(&how, &[], &many).unwrap();
        let mass: f64 = kept.iter().map(|k| all[k.0 as usize].1).sum();
        let least = kept.iter().map(|k| all[k.0 as usize].1).fold(1.0, f64::min);
        assert!(mass >= 0.9 && mass - least < 0.9 + 1e-3, "no more than needed: {mass}");
    }
}

/// A draw does not depend on what the sampler did before, nor on a filter that filters nothing.
#[test]
fn a_draw_depends_on_its_arguments_alone() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 31) % 101) as f32 / 20.0).collect();
    let (mut used, how) = (Sampler::default(), plain());
    used.draw(&Sampling { repeat_penalty: 3.0, ..how.clone() }, 1, &[5; 70], &logits).unwrap();
    let wide = Sampling { top_k: 300, ..how.clone() };
    for seed in 0..50 {
        let fresh = Sampler::default().draw(&how, seed, &[1, 2], &logits);
        assert_eq!(fresh, used.draw(&how, seed, &[1, 2], &logits));
        assert_eq!(fresh, used.draw(&wide, seed, &[1, 2], &logits));
    }
}

/// Drawn frequencies over 20,000 positions against the distribution: chi-square below its 0.999 quantile.
#[test]
fn frequencies() {
    let logits = [0.0, 1.0, -0.5, 2.0, 0.3, -3.0, 1.5, 0.7];
    let mut sampler = Sampler::default();
    for (seed, how) in [(1, plain()), (2, Sampling { temperature: 0.6, ..plain() }), (3, Sampling::default())] {
        let expected = sampler.distribution(&how, &[], &logits).unwrap();
        let n = 20_000;
        let mut counts = [0u32; 8];
        for position in 0..n {
            let sequence = vec![0; position];
            counts[sampler.draw(&how, seed, &sequence, &logits).unwrap() as usize] += 1;
        }
        let mut chi2 = 0.0;
        for &(id, p) in &expected {
            let want = p * n as f64;
            chi2 += (f64::from(counts[id as usize]) - want).powi(2) / want;
        }
        let kept: u32 = expected.iter().map(|x| counts[x.0 as usize]).sum();
        assert_eq!(kept as usize, n, "only kept tokens are drawn");
        let quantile = [10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32][expected.len() - 2];
        assert!(chi2 < quantile, "chi-square {chi2} with {} tokens, seed {seed}: {counts:?}", expected.len());
    }
}

#[test]
fn arguments_are_checked() {
    let d = Sampling::default;
    d().check(0).unwrap();
    Sampling { temperature: 0.0, min_p: 0.0, top_p: 1.0, typical_p: 1.0, top_k: usize::MAX, ..d() }.check(9).unwrap();
    Sampling { presence_penalty: -2.0, frequency_penalty: -2.0, min_p: 1.0, repeat_last_n: 0, ..d() }.check(9).unwrap();
    Sampling { logit_bias: vec![(8, f32::NEG_INFINITY)], ..d() }.check(9).unwrap();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for (name, bad) in [
        ("temperature", [-0.1, nan, inf].map(|temperature| Sampling { temperature, ..d() })),
        ("top_p", [0.0, 1.1, nan].map(|top_p| Sampling { top_p, ..d() })),
        ("min_p", [-0.1, 1.1, nan].map(|min_p| Sampling { min_p, ..d() })),
        ("typical_p", [0.0, 1.1, nan].map(|typical_p| Sampling { typical_p, ..d() })),
        ("repeat_penalty", [0.0, -1.0, nan].map(|repeat_penalty| Sampling { repeat_penalty, ..d() })),
        ("presence_penalty", [nan, inf, -inf].map(|presence_penalty| Sampling { presence_penalty, ..d() })),
        ("frequency_penalty", [nan, inf, -inf].map(|frequency_penalty| Sampling { frequency_penalty, ..d() })),
    ] {
        for how in bad {
            let error = how.check(9).unwrap_err();
            assert!(matches!(error, ArgumentError::Range { name: n, .. } if n == name), "{error}");
        }
    }
    let error = Sampling { top_p: 1.5, ..d() }.check(9).unwrap_err();
    assert_eq!(error.to_string(), "top_p is 1.5 but must be above 0 and at most 1");
    let bias = |id, value| Sampling { logit_bias: vec![(0, 1.0), (id, value)], ..d() }.check(9);
    assert_eq!(bias(9, 0.0), Err(ArgumentError::BiasToken { id: 9, vocab: 9 }));
    assert_eq!(bias(8, inf), Err(ArgumentError::BiasValue { id: 8, value: inf }));
    assert!(matches!(bias(8, nan), Err(ArgumentError::BiasValue { id: 8, .. })));
}
