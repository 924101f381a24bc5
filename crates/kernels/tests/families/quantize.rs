use crate::{Rng, everywhere, scalar};
use alula_kernels::{QBlock, quantize};

/// The documented result for one block.
fn reference(x: &[f32]) -> QBlock {
    let mut block = QBlock::default();
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    if x.iter().any(|v| !v.is_finite()) {
        block.scale = f32::NAN;
    } else if amax >= 127.0 / f32::MAX {
        block.scale = amax / 127.0;
        for (q, x) in block.q.iter_mut().zip(x) {
            *q = (x * (127.0 / amax)).round_ties_even() as i8;
        }
        block.sums = [0, 16].map(|h| block.q[h..h + 16].iter().map(|&q| i32::from(q)).sum());
    }
    block
}

fn equal(a: &QBlock, b: &QBlock) -> bool {
    (a.q, a.sums) == (b.q, b.sums) && (a.scale.to_bits() == b.scale.to_bits() || a.scale.is_nan() && b.scale.is_nan())
}

/// A block from a function of the index.
fn block(f: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..32).map(f).collect()
}

#[test]
fn every_block_has_the_documented_codes() {
    let mut r = Rng::new(3);
    let smallest = f32::from_bits((127.0 / f32::MAX).to_bits() + 1);
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
        block(|i| if i == 0 { smallest } else { -smallest / 3.0 }),
        block(|i| if i == 17 { -f32::MIN_POSITIVE } else { 0.0 }),
    ];
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        cases.push(block(|_| bad));
        cases.extend((0..32).map(|at| block(|i| if i == at { bad } else { i as f32 })));
        cases.extend((0..32).map(|at| block(|i| if i == at { bad } else { 0.0 })));
    }
    // Enough for two threads, and not a whole number of tasks.
    let scales = [1.0, 1e-30, 1e30, 37.0];
    cases.extend((0..1100).map(|i| r.floats(32).iter().map(|v| v * scales[i % 4]).collect()));
    let want: Vec<QBlock> = cases.iter().map(|x| reference(x)).collect();
    let x = cases.concat();
    everywhere(|ctx, at| {
        let mut got = vec![QBlock { q: [7; 32], scale: 7.0, sums: [7; 2] }; want.len()];
        quantize(ctx, &x, &mut got);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(equal(got, want), "{:?}, {at}: {got:?}, not {want:?}", cases[i]);
        }
        for (x, want) in cases.iter().zip(&want).take(200) {
            let mut alone = [QBlock::default()];
            quantize(ctx, x, &mut alone);
            assert!(equal(&alone[0], want), "{at}");
        }
        quantize(ctx, &[], &mut []);
    });
}

#[test]
fn codes_are_the_nearest_ones() {
    let x = Rng::new(4).floats(32 * 50);
    let mut blocks = vec![QBlock::default(); 50];
    scalar(|ctx| quantize(ctx, &x, &mut blocks));
    for (b, x) in blocks.iter().zip(x.chunks(32)) {
        for (&q, &x) in b.q.iter().zip(x) {
            let error = f64::from(q) * f64::from(b.scale) - f64::from(x);
            assert!(error.abs() <= f64::from(b.scale) * 0.50001, "{x} as {q} times {}", b.scale);
        }
    }
}

#[test]
#[should_panic]
fn other_lengths_panic() {
    scalar(|ctx| quantize(ctx, &[0.0; 33], &mut [QBlock::default()]));
}
