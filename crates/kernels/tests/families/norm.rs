use crate::{EPS, ROWS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Ctx, Norm, NormKind, norm, norm_groups};

/// (kind, width, whether it has a bias, ε, added to every x). Widths on both sides of whole vectors; a head's width;
/// enough for two threads.
const CASES: &[(NormKind, usize, bool, f32, f32)] = &[
    (NormKind::Rms, 1, false, 1e-5, 0.0),
    (NormKind::Rms, 3, true, 1e-6, 0.0),
    (NormKind::Rms, 16, false, 1e-5, 0.0),
    (NormKind::Rms, 17, true, 0.1, 0.0),
    (NormKind::Rms, 64, false, 1e-6, 0.0),
    (NormKind::Rms, 576, false, 1e-5, 3.0),
    (NormKind::Layer, 1, true, 1e-5, 0.0),
    (NormKind::Layer, 2, true, 0.3, 0.0),
    (NormKind::Layer, 15, true, 1e-5, 0.0),
    (NormKind::Layer, 16, false, 1e-12, 0.0),
    (NormKind::Layer, 33, true, 1e-5, -2.0),
    (NormKind::Layer, 600, false, 1e-5, 0.5),
    (NormKind::Layer, 100, true, 1e-5, 1000.0), // a variance of E[x²] - E[x]² would be lost
];

#[test]
fn rows_are_normalised() {
    let mut r = Rng::new(8);
    for &(kind, n, has_bias, eps, shift) in CASES {
        let what = format!("{kind:?} of {n}");
        let most = ROWS[ROWS.len() - 1];
        let mut x: Vec<f32> = r.floats(most * n).iter().map(|v| v + shift).collect();
        x[..n].fill(0.0); // a row of zeros is finite
        let (weight, bias) = (r.floats(n), r.floats(n));
        let bias = has_bias.then_some(&bias[..]);
        let run = |ctx: Ctx<'_>, x: &[f32]| {
            let mut out = vec![f32::NAN; x.len()];
            norm(ctx, Norm { kind, eps, weight: &weight, bias }, x, &mut out);
            out
        };
        let want = scalar(|ctx| run(ctx, &x));
        let exact = x.chunks(n).flat_map(|x| {
            let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
            let largest = x.iter().fold(0f64, |m, v| m.max(v.abs()));
            let mean = if kind == NormKind::Rms { 0.0 } else { x.iter().sum::<f64>() / n as f64 };
            let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            let scale = 1.0 / (var + f64::from(eps)).sqrt();
            let (weight, bias) = (&weight, bias);
            (0..n).map(move |i| {
                let (w, b) = (f64::from(weight[i]), bias.map_or(0.0, |b| f64::from(b[i])));
                let y = (x[i] - mean) * scale * w;
                // Roundings of the sums over 16 lanes, and of the mean, which x - mean inherits.
                let sums = (n as f64 / 16.0 + 12.0) * EPS;
                let centre = if mean == 0.0 { 0.0 } else { (n as f64 / 16.0 + 6.0) * EPS * largest };
                (y + b, y.abs() * sums + centre * scale * w.abs() * 2.0 + (y + b).abs() * EPS)
            })
        });
        within(&want, exact, &what);
        everywhere(|ctx, at| {
            for rows in ROWS {
                same(&run(ctx, &x[..rows * n]), &want[..rows * n], &format!("{what}, {rows} rows, {at}"));
            }
            let last = (most - 1) * n;
            same(&run(ctx, &x[last..]), &want[last..], &format!("{what}, last row, {at}"));
        });
    }
}

#[test]
fn groups_take_turns_with_their_weights() {
    let mut r = Rng::new(9);
    for (groups, n, has_bias) in [(1, 17, false), (2, 16, true), (3, 5, true), (8, 600, false)] {
        let (kind, eps) = (if has_bias { NormKind::Layer } else { NormKind::Rms }, 1e-5);
        let (x, weight, bias) = (r.floats(9 * groups * n), r.floats(groups * n), r.floats(groups * n));
        let bias = has_bias.then_some(&bias[..]);
        let mut want = vec![f32::NAN; x.len()];
        for (i, (x, out)) in x.chunks(n).zip(want.chunks_mut(n)).enumerate() {
            let own = i % groups * n..(i % groups + 1) * n;
            let own = Norm { kind, eps, weight: &weight[own.clone()], bias: bias.map(|b| &b[own]) };
            scalar(|ctx| norm(ctx, own, x, out));
        }
        everywhere(|ctx, at| {
            let mut got = vec![f32::NAN; x.len()];
            norm_groups(ctx, Norm { kind, eps, weight: &weight, bias }, n, &x, &mut got);
            same(&got, &want, &format!("{groups} groups of {n}, {at}"));
        });
    }
}

#[test]
fn nothing_to_normalise() {
    scalar(|ctx| norm(ctx, Norm { kind: NormKind::Layer, eps: 1e-5, weight: &[1.0; 4], bias: None }, &[], &mut []));
}

#[test]
#[should_panic]
fn broken_rows_panic() {
    scalar(|ctx| {
        norm(ctx, Norm { kind: NormKind::Rms, eps: 1e-5, weight: &[1.0; 4], bias: None }, &[0.0; 6], &mut [0.0; 6])
    });
}

#[test]
#[should_panic]
fn a_bias_of_another_width_panics() {
    scalar(|ctx| {
        norm(
            ctx,
            Norm { kind: NormKind::Rms, eps: 1e-5, weight: &[1.0; 4], bias: Some(&[0.0; 3]) },
            &[0.0; 8],
            &mut [0.0; 8],
        )
    });
}
