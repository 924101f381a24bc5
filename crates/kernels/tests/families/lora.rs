use crate::{EPS, Rng, everywhere, same, scalar, within};
use alula_kernels::{Ctx, Low, Packed, lora};
use alula_tensor::{DType, Tensor};
use std::ops::Range;

fn matrix(ctx: Ctx<'_>, values: &[f32], dtype: DType, rows: usize, cols: usize) -> Packed {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|v| alula_simd::f32_to_f16(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| alula_simd::f32_to_bf16(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    Packed::new(ctx, dtype, rows, cols, &bytes)
}

/// As stored.
fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    let bytes: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|v| alula_simd::f32_to_f16(*v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|v| alula_simd::f32_to_bf16(*v).to_le_bytes()).collect(),
        _ => return values.to_vec(),
    };
    let range = 0..bytes.len();
    Tensor::new(dtype, vec![values.len()], bytes.into(), range).unwrap().to_f32()
}

#[test]
fn products_are_added_to_their_rows_alone() {
    let mut r = Rng::new(41);
    for (i, (k, rank, n)) in [(1, 1, 1), (16, 4, 16), (47, 3, 33), (130, 17, 260)].into_iter().enumerate() {
        for (dtype, given) in [(DType::F32, false), (DType::F16, false), (DType::BF16, false), (DType::F32, true)] {
            let k = if given { rank } else { k };
            let (a, b) = (r.floats(rank * k), r.floats(n * rank));
            let (a, b) = (rounded(&a, dtype), rounded(&b, dtype));
            let (x, y) = (r.floats(70 * k), r.floats(70 * n));
            let run = |ctx: Ctx<'_>, runs: &[(Range<usize>, f32)]| {
                let (a, b) = (matrix(ctx, &a, dtype, rank, k), matrix(ctx, &b, dtype, n, rank));
                let low = Low { a: (!given).then_some(&a), b: &b, scale: 0.5 };
                let (mut out, mut scratch) = (y.clone(), vec![f32::NAN; low.scratch(70)]);
                lora(ctx, low, runs, &x, &mut scratch, &mut out);
                out
            };
            let all = [(3..4, 2.0f32), (7..31, -0.5), (31..70, 0.25)];
            let want = scalar(|ctx| run(ctx, &all));
            let factor = |row: usize| all.iter().find(|r| r.0.contains(&row)).map_or(0.0, |r| f64::from(r.1));
            let exact = (0..70 * n).map(|at| {
                let (row, j) = (at / n, at % n);
                let low = |c: usize| -> (f64, f64) {
                    let x = &x[row * k..][..k];
                    if given {
                        return (f64::from(x[c]), 0.0);
                    }
                    let terms = x.iter().zip(&a[c * k..]).map(|(x, a)| f64::from(*x) * f64::from(*a));
                    terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs() * EPS * k as f64))
                };
                let (mut sum, mut bound) = (0.0, 0.0);
                for c in 0..rank {
                    let (t, e) = low(c);
                    let w = f64::from(b[j * rank + c]);
                    (sum, bound) = (sum + w * t, bound + w.abs() * (e + t.abs() * EPS * (rank + 2) as f64));
                }
                let (s, y) = (factor(row) * 0.5, f64::from(y[at]));
                if s == 0.0 { (y, 0.0) } else { (y + s * sum, s.abs() * bound + EPS * (y.abs() + (s * sum).abs())) }
            });
            within(&want, exact, &format!("{i}, {dtype}"));
            everywhere(|ctx, at| {
                same(&run(ctx, &all), &want, &format!("{i}, {dtype}, {at}"));
                // Row by row.
                let single: Vec<_> = all.iter().flat_map(|(r, s)| r.clone().map(move |i| (i..i + 1, *s))).collect();
                same(&run(ctx, &single), &want, &format!("{i}, {dtype}, rows alone, {at}"));
                same(&run(ctx, &[]), &y, &format!("{i}, {dtype}, none, {at}"));
            });
        }
    }
}
