use crate::{EPS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Binary, Ctx, Unary, glu, map, mean, zip};

/// What each function is, and its bound: relative to the result, and relative to x.
type Case = (Unary, fn(f64) -> f64, f64, f64);

const CASES: &[Case] = &[
    (Unary::Relu, |x| x.max(0.0), 0.0, 0.0),
    (Unary::Relu2, |x| x.max(0.0).powi(2), EPS, 0.0),
    (Unary::GeluQuick, |x| x / (1.0 + (-f64::from(1.702f32) * x).exp()), 60.0 * EPS, 0.0),
    (Unary::Silu, |x| x / (1.0 + (-x).exp()), 6.0 * EPS, 0.0),
    (Unary::Gelu, |x| x * 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)), 2.0 * EPS, 1e-7),
    (
        Unary::GeluTanh,
        |x| x * 0.5 * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh()),
        2.0 * EPS,
        5e-7,
    ),
    (Unary::Scale(0.3), |x| x * f64::from(0.3f32), EPS, 0.0),
    (Unary::Scale(-7.0), |x| x * -7.0, EPS, 0.0),
    (Unary::SoftCap(30.0), |x| 30.0 * (x / 30.0).tanh(), 10.0 * EPS, 0.0),
    (Unary::SoftCap(0.5), |x| 0.5 * (x / 0.5).tanh(), 10.0 * EPS, 0.0),
    (Unary::Softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), 6.0 * EPS, 0.0),
    (Unary::Clamp(-0.25, 3.0), |x| x.clamp(-0.25, 3.0), 0.0, 0.0),
    (Unary::Clamp(0.5, f32::INFINITY), |x| x.max(0.5), 0.0, 0.0),
];

/// Whole and broken vectors, whole and broken tasks, enough of them for two threads.
const LENGTHS: &[usize] = &[0, 1, 15, 16, 17, 100, 4096, 4097, 40_001];

/// Calls `run` at every level and length; all agree with the longest call at the scalar level.
fn bits(what: &str, run: &dyn Fn(Ctx<'_>, usize, &mut [f32])) -> Vec<f32> {
    let longest = LENGTHS[LENGTHS.len() - 1];
    let mut want = vec![f32::NAN; longest];
    scalar(|ctx| run(ctx, longest, &mut want));
    everywhere(|ctx, at| {
        for &n in LENGTHS {
            let mut got = vec![f32::NAN; n];
            run(ctx, n, &mut got);
            same(&got, &want[..n], &format!("{what}, {n} elements, {at}"));
        }
    });
    want
}

/// Wide numbers, with special ones among the first.
fn inputs(seed: usize) -> Vec<f32> {
    let mut r = Rng::new(seed);
    let mut x: Vec<f32> = (0..LENGTHS[LENGTHS.len() - 1]).map(|i| r.unit() * [1.0, 12.0, 0.01][i % 3]).collect();
    x[..10].copy_from_slice(&[0.0, -0.0, 1e-42, 90.0, -90.0, 1e30, -1e30, 20.0, -20.0, 0.625]);
    x
}

#[test]
fn functions_of_one_number() {
    let x = inputs(5);
    for &(f, exact, relative, of_x) in CASES {
        let what = format!("{f:?}");
        let got = bits(&what, &|ctx, n, out| map(ctx, f, &x[..n], out));
        let want = x.iter().map(|&x| {
            let y = exact(f64::from(x));
            // The exponential stops at 88, so that silu of a large negative number is x / exp(88).
            let tiny = 1e-36 + f64::from(x).abs() * 1e-38;
            let bound = y.abs() * relative + f64::from(x).abs().min(6.0) * of_x + tiny;
            (y, if y > f64::from(f32::MAX) { f64::INFINITY } else { bound })
        });
        within(&got, want, &what);
    }
}

#[test]
fn functions_of_two_numbers() {
    let (a, b) = (inputs(6), Rng::new(7).floats(LENGTHS[LENGTHS.len() - 1]));
    for (f, exact) in [(Binary::Add, (|a, b| a + b) as fn(f32, f32) -> f32), (Binary::Mul, |a, b| a * b)] {
        let got = bits(&format!("{f:?}"), &|ctx, n, out| zip(ctx, f, &a[..n], &b[..n], out));
        let want: Vec<f32> = a.iter().zip(&b).map(|(&a, &b)| exact(a, b)).collect();
        same(&got, &want, &format!("{f:?}"));
    }
    for &(f, ..) in CASES {
        let got = bits(&format!("glu {f:?}"), &|ctx, n, out| glu(ctx, f, &a[..n], &b[..n], out));
        let mut want = vec![0.0; a.len()];
        scalar(|ctx| map(ctx, f, &a, &mut want));
        want.iter_mut().zip(&b).for_each(|(w, b)| *w *= b);
        same(&got, &want, &format!("glu {f:?}"));
    }
}

#[test]
fn nan_stays_nan_and_infinities_have_their_limits() {
    let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let nan = f32::NAN;
    let want: [(Unary, [f32; 3]); 9] = [
        (Unary::Relu, [nan, x[1], 0.0]),
        (Unary::Relu2, [nan, x[1], 0.0]),
        (Unary::Silu, [nan, x[1], x[2]]), // -∞ / (1 + exp(88)); the limit 0 is not computed there
        (Unary::Gelu, [nan, x[1], nan]),
        (Unary::GeluTanh, [nan, x[1], nan]),
        (Unary::Scale(2.0), [nan, x[1], x[2]]),
        (Unary::SoftCap(5.0), [nan, 5.0, -5.0]),
        (Unary::Softplus, [nan, x[1], 0.0]),
        (Unary::Clamp(-2.0, 7.0), [nan, 7.0, -2.0]),
    ];
    everywhere(|ctx, at| {
        for (f, want) in want {
            let mut got = [0.0; 3];
            map(ctx, f, &x, &mut got);
            same(&got, &want, &format!("{f:?}, {at}"));
        }
    });
}

#[test]
#[should_panic]
fn other_lengths_panic() {
    scalar(|ctx| zip(ctx, Binary::Add, &[0.0; 3], &[0.0; 2], &mut [0.0; 3]));
}

#[test]
fn means_are_those_of_rows() {
    let mut r = Rng::new(40);
    for (rows, cols) in [(1, 1), (1, 17), (2, 3), (100, 16), (513, 40)] {
        let x = r.floats(rows * cols);
        let mut out = vec![f32::NAN; cols];
        mean(&x, &mut out);
        let column = |c: usize| x.iter().skip(c).step_by(cols).map(|x| f64::from(*x));
        let want = (0..cols).map(|c| {
            let (sum, all) = (column(c).sum::<f64>(), column(c).map(f64::abs).sum::<f64>());
            (sum / rows as f64, all * EPS * 1.1)
        });
        within(&out, want, &format!("{rows} rows of {cols}"));
    }
    assert!(std::panic::catch_unwind(|| mean(&[], &mut [0.0])).is_err());
    assert!(std::panic::catch_unwind(|| mean(&[0.0; 3], &mut [0.0; 2])).is_err());
}
