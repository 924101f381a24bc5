use crate::{Rng, everywhere, scalar};
use alula_kernels::{Norm, NormKind, QBlock, Source, Unary, glu, map, quantize};

/// Blocks of smaller magnitudes count as 0: 2⁻⁸⁰.
const LEAST: f32 = 8.271_806e-25;

/// The documented result for one block.
fn reference(x: &[f32]) -> QBlock {
    let mut block = QBlock::default();
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    if x.iter().any(|v| !v.is_finite()) {
        block.scale = f32::NAN;
    } else if amax >= LEAST {
        block.scale = amax / 127.0;
        for (q, x) in block.q.iter_mut().zip(x) {
            *q = (x * (127.0 / amax)).round_ties_even() as i8;
        }
        block.less = [0..16, 16..32, 0..32].map(|h| -block.q[h].iter().map(|&q| i32::from(q)).sum::<i32>());
    }
    block.mins = block.less.map(|s| block.scale * s as f32);
    block
}

fn equal(a: &QBlock, b: &QBlock) -> bool {
    let floats = |b: &QBlock| [b.scale, b.mins[0], b.mins[1], b.mins[2]];
    let same = |(a, b): (f32, f32)| a == b || a.is_nan() && b.is_nan();
    (a.q, a.less) == (b.q, b.less) && floats(a).into_iter().zip(floats(b)).all(same)
}

/// What stays where nothing is written.
const SEVENS: QBlock = QBlock { q: [7; 32], scale: 7.0, less: [7; 3], mins: [7.0; 3] };

/// A block from a function of the index.
fn block(f: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..32).map(f).collect()
}

#[test]
fn every_block_has_the_documented_codes() {
    let mut r = Rng::new(3);
    assert_eq!(f64::from(LEAST), 2f64.powi(-80));
    let below = f32::from_bits(LEAST.to_bits() - 1);
    let mut cases = vec![
        block(|_| 0.0),
        block(|_| -0.0),
        block(|_| 2.5),
        block(|_| -2.5),
        block(|i| i as f32 - 15.5),
        block(|i| [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, -127.0][i % 8]), // ties
        block(|i| if i == 9 { f32::MAX } else { 1.0 }),
        block(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }),
        block(|_| f32::from_bits(1)),
        block(|i| if i == 31 { 1e-40 } else { 0.0 }),
        block(|i| if i == 0 { 3.6e-37 } else { 1e-38 }),
        block(|i| if i == 0 { LEAST } else { -LEAST / 3.0 }),
        block(|i| if i == 0 { below } else { -below / 3.0 }),
        block(|i| if i == 17 { -f32::MIN_POSITIVE } else { 0.0 }),
    ];
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        cases.push(block(|_| bad));
        cases.extend((0..32).map(|at| block(|i| if i == at { bad } else { i as f32 })));
        cases.extend((0..32).map(|at| block(|i| if i == at { bad } else { 0.0 })));
    }
    // Enough for two threads, and not a whole number of tasks.
    let scales = [1.0, 1e-22, 1e30, 37.0];
    cases.extend((0..1100).map(|i| r.floats(32).iter().map(|v| v * scales[i % 4]).collect()));
    let want: Vec<QBlock> = cases.iter().map(|x| reference(x)).collect();
    let x = cases.concat();
    everywhere(|ctx, at| {
        let mut got = vec![SEVENS; QBlock::count(1, x.len())];
        quantize(ctx, Source::Plain(&x), 1, x.len(), &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(equal(got, want), "{:?}, {at}: {got:?}, not {want:?}", cases[i]);
        }
        for (x, want) in cases.iter().zip(&want).take(200) {
            let mut alone = [QBlock::default(); 8];
            quantize(ctx, Source::Plain(x), 1, 32, &mut alone);
            assert!(equal(&alone[0], want), "{at}");
        }
        quantize(ctx, Source::Plain(&[]), 0, 32, &mut []);
    });
}

#[test]
fn codes_are_the_nearest_ones() {
    let x = Rng::new(4).floats(32 * 50);
    let mut blocks = vec![QBlock::default(); 56];
    scalar(|ctx| quantize(ctx, Source::Plain(&x), 1, x.len(), &mut blocks));
    for (b, x) in blocks.iter().zip(x.chunks(32)) {
        for (&q, &x) in b.q.iter().zip(x) {
            let error = f64::from(q) * f64::from(b.scale) - f64::from(x);
            assert!(error.abs() <= f64::from(b.scale) * 0.50001, "{x} as {q} times {}", b.scale);
        }
    }
}

#[test]
fn other_lengths_panic() {
    let refused = |x: &[f32], rows, cols, blocks| {
        let run = || scalar(|ctx| quantize(ctx, Source::Plain(x), rows, cols, &mut vec![QBlock::default(); blocks]));
        assert!(std::panic::catch_unwind(run).is_err());
    };
    refused(&[0.0; 33], 1, 33, 8);
    refused(&[0.0; 33], 1, 32, 8);
    refused(&[0.0; 32], 1, 32, 1);
    refused(&[0.0; 64], 2, 32, 8);
    let two = |a: &[f32], b: &[f32], n: usize| {
        let norm = Norm { kind: NormKind::Rms, eps: 1.0, weight: &vec![1.0; n], bias: None };
        let blocks = || vec![QBlock::default(); 8];
        let glu = || scalar(|ctx| quantize(ctx, Source::Glu(Unary::Silu, a, b), 1, 64, &mut blocks()));
        let norm = || scalar(|ctx| quantize(ctx, Source::Norm(norm, a), 1, 64, &mut blocks()));
        [std::panic::catch_unwind(glu).is_ok(), std::panic::catch_unwind(norm).is_ok()]
    };
    assert_eq!(two(&[0.0; 64], &[0.0; 64], 64), [true, true]);
    assert_eq!(two(&[0.0; 64], &[0.0; 63], 32), [false, false]);
}

#[test]
fn rows_lie_in_columns_of_eight_blocks() {
    let mut r = Rng::new(5);
    for (rows, width) in [(1, 20), (2, 8), (3, 1), (5, 9), (40, 19)] {
        let x = r.floats(rows * width * 32);
        everywhere(|ctx, at| {
            let mut got = vec![SEVENS; QBlock::count(rows, width * 32)];
            let mut plain = vec![SEVENS; QBlock::count(1, x.len())];
            quantize(ctx, Source::Plain(&x), rows, width * 32, &mut got);
            quantize(ctx, Source::Plain(&x), 1, x.len(), &mut plain);
            let mut got = got.iter();
            for column in (0..width).step_by(8) {
                for row in 0..rows {
                    for i in column..column + 8 {
                        let want = if i < width { &plain[row * width + i] } else { &SEVENS };
                        assert!(got.next().is_some_and(|got| equal(got, want)), "{rows} × {width}, {row}, {i}, {at}");
                    }
                }
            }
        });
    }
}

#[test]
fn what_is_made_of_other_values_is_what_would_be_quantised_of_them() {
    let mut r = Rng::new(6);
    for (rows, cols) in [(1, 32), (3, 256), (7, 288), (40, 1056)] {
        let [gate, up] = [(); 2].map(|()| r.floats(rows * cols));
        let (weight, bias) = (r.floats(cols), r.floats(cols));
        everywhere(|ctx, at| {
            let quantized = |source: Source<'_>| {
                let mut blocks = vec![SEVENS; QBlock::count(rows, cols)];
                quantize(ctx, source, rows, cols, &mut blocks);
                blocks
            };
            let check = |source: Source<'_>, value: &[f32], what: &str| {
                let (got, want) = (quantized(source), quantized(Source::Plain(value)));
                assert!(got.iter().zip(&want).all(|(a, b)| equal(a, b)), "{what} of {rows} × {cols}, {at}");
            };
            let mut value = vec![f32::NAN; rows * cols];
            for (kind, bias) in [(NormKind::Rms, None), (NormKind::Layer, Some(&bias[..]))] {
                let norm = Norm { kind, eps: 1e-5, weight: &weight, bias };
                alula_kernels::norm(ctx, norm, &gate, &mut value);
                check(Source::Norm(norm, &gate), &value, "norm");
            }
            for f in [Unary::Silu, Unary::GeluTanh] {
                map(ctx, f, &gate, &mut value);
                check(Source::Map(f, &gate), &value, "map");
                glu(ctx, f, &gate, &up, &mut value);
                check(Source::Glu(f, &gate, &up), &value, "glu");
            }
        });
    }
}
