use crate::{EPS, ROWS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Ctx, RopeStyle, rope, rope_table, temperature};

/// (style, rotated dimensions, head width, heads). Whole and partial heads; enough for two threads.
const CASES: &[(RopeStyle, usize, usize, usize)] = &[
    (RopeStyle::Halves, 2, 2, 1),
    (RopeStyle::Halves, 64, 64, 9),
    (RopeStyle::Halves, 10, 16, 3),
    (RopeStyle::Halves, 32, 80, 2),
    (RopeStyle::Pairs, 2, 3, 2),
    (RopeStyle::Pairs, 64, 64, 9),
    (RopeStyle::Pairs, 6, 20, 5),
    (RopeStyle::Pairs, 96, 128, 1),
];

fn frequencies(dims: usize) -> Vec<f32> {
    (0..dims / 2).map(|i| 10000f64.powf(-2.0 * i as f64 / dims as f64) as f32).collect()
}

#[test]
fn tables_hold_cosines_and_sines() {
    let inv_freq = &frequencies(20)[..];
    for factor in [1.0, 1.25] {
        let positions = [0, 1, 2, 77, 4095, 131_071, u32::MAX];
        let mut table = vec![f32::NAN; 7 * 20];
        rope_table(inv_freq, factor, &positions, &mut table);
        let exact = positions.iter().flat_map(|&p| {
            // The angle is a single-precision product.
            let angle = move |i: usize| f64::from(p as f32 * inv_freq[i % 10]);
            (0..20).map(move |i| if i < 10 { angle(i).cos() } else { angle(i).sin() })
        });
        within(&table, exact.map(|v| (v * f64::from(factor), 2.01 * EPS * v.abs() * f64::from(factor))), &factor);
        assert_eq!(table[..10], [factor; 10]);
        assert_eq!(table[10..20], [0.0; 10]);
    }
}

#[test]
fn factors_grow_with_positions() {
    for (floor, scale) in [(1.0, 0.1), (7.0, 0.4), (8192.0, 0.1)] {
        let positions = [0, 5, 6, 7, 8190, 8191, 8192, 131_071, 10_485_760];
        let mut out = [f32::NAN; 9];
        temperature(floor, scale, &positions, &mut out);
        let exact =
            positions.map(|p| 1.0 + f64::from(scale) * ((f64::from(p) + 1.0) / f64::from(floor)).floor().ln_1p());
        within(&out, exact.map(|f| (f, 2.0 * EPS * f)), &floor);
    }
}

#[test]
fn heads_are_rotated() {
    let mut r = Rng::new(9);
    for &(style, dims, head, heads) in CASES {
        let what = format!("{style:?} {dims} of {head} in {heads} heads");
        let most = ROWS[ROWS.len() - 1];
        let positions: Vec<u32> = (0..most as u32).map(|i| i * 3).collect();
        let mut table = vec![0.0; most * dims];
        rope_table(&frequencies(dims), 1.0, &positions, &mut table);
        let width = head * heads;
        let x = r.floats(most * width);
        let run = |ctx: Ctx<'_>, from: usize, rows: usize| {
            let mut out = vec![f32::NAN; rows * width];
            rope(
                ctx,
                style,
                dims,
                head,
                &x[from * width..][..rows * width],
                &table[from * dims..][..rows * dims],
                &mut out,
            );
            out
        };
        let want = scalar(|ctx| run(ctx, 0, most));
        same(&want[..width], &x[..width], &format!("{what} at position 0"));
        let exact = (0..want.len()).map(|i| {
            let (row, e) = (i / width, i % head);
            let start = i - e;
            // The pair's index, this element's partner, and whether it is the first of both.
            let (pair, partner, first) = match style {
                _ if e >= dims => return (f64::from(x[i]), 0.0),
                RopeStyle::Halves if e < dims / 2 => (e, e + dims / 2, true),
                RopeStyle::Halves => (e - dims / 2, e - dims / 2, false),
                RopeStyle::Pairs => (e / 2, e ^ 1, e % 2 == 0),
            };
            let [c, s] = [pair, dims / 2 + pair].map(|at| f64::from(table[row * dims + at]));
            let (mine, other) = (f64::from(x[i]) * c, f64::from(x[start + partner]) * s);
            (if first { mine - other } else { mine + other }, 2.01 * EPS * (mine.abs() + other.abs()))
        });
        within(&want, exact, &what);
        everywhere(|ctx, at| {
            for rows in ROWS {
                same(&run(ctx, 0, rows), &want[..rows * width], &format!("{what}, {rows} rows, {at}"));
            }
            same(&run(ctx, most - 1, 1), &want[(most - 1) * width..], &format!("{what}, last row, {at}"));
        });
    }
}

#[test]
fn sizes_that_do_not_fit_panic() {
    // (dims, head, x, table): each is right but for one.
    let run = |dims: usize, head: usize, x: usize, table: usize| {
        let (x, table) = (vec![0.0; x], vec![0.0; table]);
        let mut out = vec![0.0; x.len()];
        std::panic::catch_unwind(move || scalar(|ctx| rope(ctx, RopeStyle::Pairs, dims, head, &x, &table, &mut out)))
    };
    assert!(run(4, 6, 24, 8).is_ok());
    for (dims, head, x, table) in
        [(0, 6, 24, 8), (3, 6, 24, 6), (8, 6, 24, 16), (4, 6, 25, 8), (4, 6, 26, 8), (4, 6, 24, 9), (4, 6, 24, 0)]
    {
        assert!(run(dims, head, x, table).is_err(), "{dims} {head} {x} {table}");
    }
    assert!(std::panic::catch_unwind(|| rope_table(&[1.0], 1.0, &[0, 1], &mut [0.0; 3])).is_err());
    assert!(std::panic::catch_unwind(|| rope_table(&[], 1.0, &[0], &mut [])).is_err());
}
