use crate::{Rng, everywhere, same, scalar};
use alula_kernels::{Ctx, Fixed, Run, Runs, Scan, ScanInput, scan};

/// (heads, groups, columns of a head, hidden numbers, whether each of them has its own decay).
const CASES: &[(usize, usize, usize, usize, bool)] = &[
    (1, 1, 1, 1, true),
    (100, 1, 1, 16, true),
    (33, 3, 1, 5, true), // groups end within a vector
    (32, 1, 1, 16, false),
    (2, 1, 64, 128, false),
    (6, 2, 8, 16, false), // two heads a vector
    (6, 3, 5, 7, false),  // heads and groups end within a vector
    (4, 4, 20, 600, false),
    (512, 1, 1, 16, true), // enough for two threads
];

/// Rows of the longer sequence.
const ROWS: usize = 39;

/// Everything of one sequence.
struct Sequence {
    x: Vec<f32>,
    dt: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Sequence {
    fn random(r: &mut Rng, rows: usize, width: usize, heads: usize, shared: usize) -> Sequence {
        let dt = r.floats(rows * heads).into_iter().map(|v| 0.3 + 0.3 * v).collect();
        Sequence { x: r.floats(rows * width), dt, b: r.floats(rows * shared), c: r.floats(rows * shared) }
    }

    fn part(&self, rows: std::ops::Range<usize>, of: usize) -> [&[f32]; 4] {
        let cut = |v: &'_ Vec<f32>| v.len() / of * rows.start.min(of)..v.len() / of * rows.end.min(of);
        [&self.x[cut(&self.x)], &self.dt[cut(&self.dt)], &self.b[cut(&self.b)], &self.c[cut(&self.c)]]
    }
}

/// Both sequences cut into pieces, the first with copies 0 and 1 in turns, the second with 2 and 3.
fn pieces(
    ctx: Ctx<'_>,
    weights: &Scan,
    len: usize,
    width: usize,
    s: &[(Sequence, usize); 2],
    piece: usize,
) -> [Vec<f32>; 2] {
    let mut state = Fixed::new(4, len).unwrap();
    let mut out = [Vec::new(), Vec::new()];
    for (turn, start) in (0..ROWS).step_by(piece).enumerate() {
        let (mut input, mut runs, mut cuts) = ([const { Vec::new() }; 4], Vec::new(), Vec::new());
        for (i, (s, rows)) in s.iter().enumerate().filter(|s| start < s.1.1) {
            let first = input[0].len() / width;
            let parts = s.part(start..start + piece, *rows);
            input.iter_mut().zip(parts).for_each(|(all, part)| all.extend_from_slice(part));
            let copy = |turn: usize| 2 * i + turn % 2;
            let from = (start > 0).then(|| copy(turn + 1));
            runs.push(Run { rows: first..input[0].len() / width, from, to: copy(turn) });
            cuts.push((i, parts[0].len()));
        }
        let [x, dt, b, c] = &input;
        let mut made = vec![f32::NAN; x.len()];
        scan(ctx, weights, &mut state, &Runs::new(runs), ScanInput { x, dt, b, c }, &mut made);
        for (i, n) in cuts {
            out[i].extend(made.drain(..n));
        }
    }
    out
}

#[test]
fn columns_are_scanned() {
    let mut r = Rng::new(21);
    for &(heads, groups, dim, n, each) in CASES {
        let (width, what) = (heads * dim, format!("{heads} heads of {dim} in {groups} groups with {n}"));
        let a: Vec<f32> = r.floats(if each { heads * n } else { heads }).iter().map(|v| -1.2 + v).collect();
        let d = r.floats(heads);
        let weights = Scan::new(heads, groups, dim, n, &a, &d);
        let s = [ROWS, 9].map(|rows| (Sequence::random(&mut r, rows, width, heads, groups * n), rows));
        let want = scalar(|ctx| pieces(ctx, &weights, width * n, width, &s, ROWS));
        for ((s, rows), got) in s.iter().zip(&want) {
            for column in 0..width {
                let (head, group) = (column / dim, column / dim / (heads / groups));
                let mut hidden = vec![0f64; n];
                for row in 0..*rows {
                    let number = |v: &Vec<f32>, width: usize, i: usize| f64::from(v[row * width + i]);
                    let (x, dt) = (number(&s.x, width, column), number(&s.dt, heads, head));
                    let (mut y, mut most) = (f64::from(d[head]) * x, 1.0);
                    for (k, h) in hidden.iter_mut().enumerate() {
                        let a = f64::from(if each { a[head * n + k] } else { a[head] });
                        let at = group * n + k;
                        *h = *h * (dt * a).exp() + dt * x * number(&s.b, groups * n, at);
                        y += *h * number(&s.c, groups * n, at);
                        most += h.abs();
                    }
                    let got = f64::from(got[row * width + column]);
                    assert!((got - y).abs() <= 1e-6 * most, "{what}: row {row}, column {column} is {got}, not {y}");
                }
            }
        }
        everywhere(|ctx, at| {
            for piece in [1, 7, ROWS] {
                let got = pieces(ctx, &weights, width * n, width, &s, piece);
                for (got, want) in got.iter().zip(&want) {
                    same(got, want, &format!("{what}, pieces of {piece}, {at}"));
                }
            }
        });
    }
}

#[test]
#[should_panic]
fn rows_that_are_not_there_panic() {
    let weights = Scan::new(1, 1, 2, 2, &[-1.0], &[1.0]);
    let runs = Runs::new(vec![Run { rows: 0..2, from: None, to: 0 }]);
    let (mut state, x) = (Fixed::new(1, 4).unwrap(), [1.0; 4]);
    let input = ScanInput { x: &x, dt: &[1.0; 1], b: &x, c: &x };
    scalar(|ctx| scan(ctx, &weights, &mut state, &runs, input, &mut [0.0; 4]));
}
