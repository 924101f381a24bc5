use crate::{EPS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Conv, Ctx, Fixed, Run, Runs, conv};

/// (columns, taps, whether there is a bias): whole and broken vectors and tasks, more taps than rows, and none but the
/// token itself.
const CASES: &[(usize, usize, bool)] =
    &[(1, 4, true), (16, 4, false), (33, 2, true), (100, 1, true), (64, 7, false), (131, 200, true), (4096, 4, true)];

/// Rows of the longer sequence.
const ROWS: usize = 40;

/// Both sequences cut into pieces, the first with copies 0 and 1 in turns, the second, shorter one with 2 and 3.
fn pieces(ctx: Ctx<'_>, filters: &Conv, columns: usize, taps: usize, x: [&[f32]; 2], piece: usize) -> [Vec<f32>; 2] {
    let mut state = Fixed::new(4, (taps - 1) * columns).unwrap();
    let mut out = [Vec::new(), Vec::new()];
    for (turn, start) in (0..ROWS).step_by(piece).enumerate() {
        let (mut input, mut runs, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
        for (i, x) in x.iter().enumerate() {
            let part = &x[(start * columns).min(x.len())..((start + piece) * columns).min(x.len())];
            let first = input.len() / columns;
            if part.is_empty() {
                continue;
            }
            input.extend_from_slice(part);
            let copy = |turn: usize| 2 * i + turn % 2;
            let from = (start > 0).then(|| copy(turn + 1));
            runs.push(Run { rows: first..input.len() / columns, from, to: copy(turn) });
            cuts.push((i, part.len()));
        }
        let mut made = vec![f32::NAN; input.len()];
        conv(ctx, filters, &mut state, &Runs::new(runs), &input, &mut made);
        for (i, n) in cuts {
            out[i].extend(made.drain(..n));
        }
    }
    out
}

#[test]
fn columns_are_convolved() {
    let mut r = Rng::new(20);
    for &(columns, taps, has_bias) in CASES {
        let (weight, bias) = (r.floats(columns * taps), r.floats(columns));
        let bias = has_bias.then_some(&bias[..]);
        let filters = Conv::new(taps, &weight, bias);
        let x = [r.floats(ROWS * columns), r.floats(9 * columns)];
        let x = [&x[0][..], &x[1]];
        let want = scalar(|ctx| pieces(ctx, &filters, columns, taps, x, ROWS));
        for (x, got) in x.iter().zip(&want) {
            let exact = (0..x.len()).map(|i| {
                let (row, c) = (i / columns, i % columns);
                let bias = bias.map_or(0.0, |b| f64::from(b[c]));
                let products = (0..taps).filter_map(|k| {
                    let at = (row + k + 1).checked_sub(taps)?;
                    Some(f64::from(weight[c * taps + k]) * f64::from(x[at * columns + c]))
                });
                let (sum, most) = products.fold((bias, bias.abs()), |(s, m), p| (s + p, m + p.abs()));
                (sum, most * EPS * (taps + 1) as f64)
            });
            within(got, exact, &format!("{columns} columns, {taps} taps"));
        }
        everywhere(|ctx, at| {
            for piece in [1, 7, ROWS] {
                let got = pieces(ctx, &filters, columns, taps, x, piece);
                for (got, want) in got.iter().zip(&want) {
                    same(got, want, &format!("{columns} columns, {taps} taps, pieces of {piece}, {at}"));
                }
            }
        });
    }
}

#[test]
#[should_panic = "two runs write one copy"]
fn a_copy_is_written_once() {
    let run = |start| Run { rows: start..start + 1, from: None, to: 3 };
    Runs::new(vec![run(0), run(1)]);
}

#[test]
#[should_panic]
fn what_is_written_is_not_read() {
    Runs::new(vec![Run { rows: 0..1, from: None, to: 3 }, Run { rows: 1..2, from: Some(3), to: 0 }]);
}

#[test]
#[should_panic]
fn rows_belong_to_one_run() {
    Runs::new(vec![Run { rows: 0..2, from: None, to: 3 }, Run { rows: 1..2, from: None, to: 0 }]);
}

#[test]
#[should_panic]
fn copies_that_are_not_there_panic() {
    let runs = Runs::new(vec![Run { rows: 0..1, from: None, to: 1 }]);
    let mut state = Fixed::new(1, 2).unwrap();
    scalar(|ctx| conv(ctx, &Conv::new(3, &[1.0; 3], None), &mut state, &runs, &[1.0], &mut [0.0]));
}
