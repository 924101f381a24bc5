use crate::{EPS, ROWS, Rng, everywhere, same, scalar, within};
use alula_kernels::{
    BTile, Ctx, Input, Packed, Pool, Product, QBlock, Source, TILED, matmul, matmuls, quantize, round,
};
use alula_simd::Cpu;
use alula_tensor::{Codes, DType, FORMATS, Format};

/// (output rows, columns for float types, columns in blocks of 32 or 256 for the others). More output rows than a
/// task has panels of 16, and none, one or some of them in the last panel.
const CASES: &[(usize, usize, usize)] =
    &[(1, 1, 1), (15, 7, 2), (16, 64, 1), (17, 33, 2), (100, 129, 1), (131, 256, 2)];

/// A weight matrix of random blocks whose values are neither all tiny nor huge.
fn random(format: &Format, n: usize, r: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    let mut values = vec![0f32; format.block];
    while out.len() < n * format.bytes {
        let block: Vec<u8> = (0..format.bytes).map(|_| (r.next() >> 32) as u8).collect();
        (format.decode)(&block, &mut values);
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        if (0.05..50.0).contains(&largest) && !values.iter().any(|v| v.is_nan()) {
            out.extend(block);
        }
    }
    out
}

/// The documented order of a block-quantised product: an exact integer sum per scale, then one fused multiply-add,
/// and one for the minimum.
fn integer_reference(format: &Format, codes: &Codes, row: &[u8], x: &[QBlock]) -> f32 {
    let groups = format.block / codes.group;
    let width = codes.group.min(32);
    let (mut q, mut scales, mut mins) = (vec![0i8; format.block], vec![0i8; groups], vec![0i8; groups]);
    let mut acc = 0f32;
    for (b, block) in row.chunks(format.bytes).enumerate() {
        let [d, dmin] = (codes.unpack)(block, &mut q, &mut scales, &mut mins);
        if let Some(table) = codes.table {
            q.iter_mut().for_each(|q| *q = table[*q as usize]);
        }
        for (part, q) in q.chunks(width).enumerate() {
            let at = b * format.block + part * width;
            let (group, x, first) = (part * width / codes.group, &x[at / 32], at % 32);
            let x8 = &x.q[first..first + width];
            let sum: i32 = q.iter().zip(x8).map(|(&q, &x)| i32::from(q) * i32::from(x)).sum();
            let total: i32 = x8.iter().map(|&x| i32::from(x)).sum();
            acc = (sum as f32).mul_add(d * f32::from(scales[group]) * x.scale, acc);
            if codes.has_min {
                acc = (dmin * f32::from(mins[group])).mul_add(-(total as f32 * x.scale), acc);
            }
        }
    }
    acc
}

/// The product at some level.
fn product(ctx: Ctx<'_>, w: &Packed, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.cols() * w.rows()];
    if w.quantized() {
        let rows = x.len() / w.cols();
        let mut blocks = vec![QBlock::default(); QBlock::count(rows, w.cols())];
        quantize(ctx, Source::Plain(x), rows, w.cols(), &mut blocks);
        matmul(ctx, Input::Q8(&blocks), w, bias, &mut out);
    } else {
        matmul(ctx, Input::F32(x), w, bias, &mut out);
    }
    out
}

fn check(format: &Format, n: usize, k: usize, r: &mut Rng) {
    let what = format!("{} [{n}, {k}]", format.name);
    // Neither the matrix's bytes nor x lie on a boundary.
    let bytes = [&[0][..], &random(format, n * k / format.block, r)].concat();
    let bytes = &bytes[1..];
    let most = ROWS[ROWS.len() - 1];
    let x = &r.floats(most * k + 1)[1..];
    let bias = r.floats(n);
    let bias = (n % 2 == 1).then_some(&bias[..]);
    let pack = |ctx: Ctx<'_>| Packed::new(ctx, format.dtype, n, k, bytes);
    let want = scalar(|ctx| product(ctx, &pack(ctx), x, bias));

    let mut values = vec![0f32; n * k];
    (format.decode)(bytes, &mut values);
    let dot = |i: usize, f: &dyn Fn(f64) -> f64| -> f64 {
        let (x, w) = (&x[i / n * k..][..k], &values[i % n * k..][..k]);
        x.iter().zip(w).map(|(&x, &w)| f(f64::from(x) * f64::from(w))).sum()
    };
    let offset = |i: usize| bias.map_or(0.0, |b| f64::from(b[i % n]));
    let exact: Vec<f64> = (0..want.len()).map(|i| dot(i, &|p| p) + offset(i)).collect();
    if let Some(codes) = format.codes {
        let mut blocks = vec![QBlock::default(); QBlock::count(1, x.len())];
        scalar(|ctx| quantize(ctx, Source::Plain(x), 1, x.len(), &mut blocks));
        let row = k / format.block * format.bytes;
        let scalar: Vec<f32> = (0..want.len())
            .map(|i| {
                let (x, w) = (&blocks[i / n * (k / 32)..][..k / 32], &bytes[i % n * row..][..row]);
                let sum = integer_reference(format, &codes, w, x);
                bias.map_or(sum, |b| sum + b[i % n])
            })
            .collect();
        same(&want, &scalar, &format!("{what} against integers"));
        // Activations have 8 bits: an error of (1/127)²/12 against a signal of 1/3.
        let error: f64 = want.iter().zip(&exact).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
        let signal: f64 = exact.iter().map(|w| w * w).sum();
        assert!(error <= 4e-5 * signal, "{what}: NMSE {:e}", error / signal);
    } else {
        // A rounding per input, each at most EPS of a partial sum.
        let bound = |i: usize| (k + 1) as f64 * EPS * (dot(i, &f64::abs) + offset(i).abs());
        within(&want, exact.iter().enumerate().map(|(i, &w)| (w, bound(i))), &what);
    }

    everywhere(|ctx, at| {
        let w = pack(ctx);
        assert_eq!((w.rows(), w.cols(), w.quantized()), (n, k, format.codes.is_some()));
        // Every small number of rows at one size, some at the others.
        let rows: Vec<usize> = if n == 33 { (1..34).chain(ROWS).collect() } else { ROWS.to_vec() };
        for rows in rows {
            let got = product(ctx, &w, &x[..rows * k], bias);
            same(&got, &want[..rows * n], &format!("{what}, {rows} rows, {at}"));
        }
        // The last row alone.
        let got = product(ctx, &w, &x[(most - 1) * k..], bias);
        same(&got, &want[(most - 1) * n..], &format!("{what}, last row, {at}"));
    });
}

#[test]
fn every_format_is_exact_in_its_documented_order() {
    let mut r = Rng::new(1);
    for format in FORMATS {
        for &(n, float, blocks) in CASES {
            check(format, n, if format.codes.is_some() { blocks * format.block } else { float }, &mut r);
        }
        check(format, 33, 512, &mut r);
    }
}

/// Blocks of 32 whose scale is 1 and whose other bytes are equal, and the value that they stand for.
const LARGEST: &[(DType, u8, i32)] = &[
    (DType::Q8_0, 127, 127),
    (DType::Q8_0, 128, -128),
    (DType::IQ4NL, 0, -127),
    (DType::IQ4NL, 255, 113),
    (DType::Q4_0, 0, -8),
    (DType::Q5_0, 255, 15),
];

#[test]
fn sums_of_the_largest_codes_are_exact() {
    let (n, blocks, most) = (20, 9, ROWS[ROWS.len() - 1]);
    for &(dtype, byte, value) in LARGEST {
        let block: Vec<u8> = (0..dtype.format().bytes).map(|i| [0, 0x3c].get(i).copied().unwrap_or(byte)).collect();
        let bytes = block.repeat(n * blocks);
        // Codes of 127 and -127 in turn, row by row.
        let x: Vec<f32> = (0..most * 32 * blocks).map(|i| [1.0, -1.0][i / (32 * blocks) % 2]).collect();
        let sum = (value * 32 * 127) as f32;
        let want = [sum, -sum].map(|sum| (0..blocks).fold(0f32, |acc, _| sum.mul_add(1.0 / 127.0, acc)));
        everywhere(|ctx, at| {
            let w = Packed::new(ctx, dtype, n, 32 * blocks, &bytes);
            for rows in ROWS {
                let want: Vec<f32> = (0..rows * n).map(|i| want[i / n % 2]).collect();
                same(&product(ctx, &w, &x[..rows * 32 * blocks], None), &want, &format!("{dtype} {value} {at}"));
            }
        });
    }
}

/// Where the machine has a unit for it.
#[test]
fn products_in_bfloat16_are_close_and_depend_on_their_row_alone() {
    let pools = [Pool::new(1), Pool::new(2)];
    for cpu in Cpu::all().into_iter().map(Cpu::fast).filter(|c| c.bf16().is_some()) {
        let mut r = Rng::new(6);
        for format in FORMATS {
            for (n, k) in
                [(33, if format.block == 1 { 1100 } else { 1280 }), (16, format.block), (65, 2 * format.block)]
            {
                let bytes = random(format, n * k / format.block, &mut r);
                let most = 2 * TILED + 3;
                let (x, bias) = (r.floats(most * k), r.floats(n));
                let product = |pool: &Pool, rows: usize| {
                    let ctx = Ctx { cpu, pool };
                    let w = Packed::new(ctx, format.dtype, n, k, &bytes);
                    let mut tiles = vec![BTile::default(); BTile::count(rows, k)];
                    round(ctx, &x[..rows * k], rows, k, &mut tiles);
                    let mut out = vec![f32::NAN; rows * n];
                    matmul(ctx, Input::B16(&tiles), &w, Some(&bias), &mut out);
                    out
                };
                let got = product(&pools[1], most);
                let mut values = vec![0f32; n * k];
                (format.decode)(&bytes, &mut values);
                let (mut error, mut signal) = (0.0, 0.0);
                for (i, got) in got.iter().enumerate() {
                    let (x, w) = (&x[i / n * k..][..k], &values[i % n * k..][..k]);
                    let exact: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    error += (f64::from(*got) - exact - f64::from(bias[i % n])).powi(2);
                    signal += exact.powi(2);
                }
                // Both factors are rounded to 8 bits: errors of (2⁻⁹)²/3 of a product each.
                assert!(error < 2e-5 * signal, "{} [{n}, {k}]: NMSE {:e}", format.name, error / signal);
                for rows in [1, TILED, TILED + 1] {
                    same(&product(&pools[0], rows), &got[..rows * n], &format!("{}, {rows} rows", format.name));
                }
            }
        }
    }
}

#[test]
fn infinite_and_nan_inputs_reach_their_own_rows_only() {
    let mut r = Rng::new(2);
    for dtype in [DType::F32, DType::Q8_0, DType::Q4K] {
        let format = dtype.format();
        let bytes = random(format, 20 * 256 / format.block, &mut r);
        let clean = r.floats(3 * 256);
        let mut x = clean.clone();
        x[256 + 77] = f32::NAN;
        x[512 + 200] = f32::INFINITY;
        everywhere(|ctx, at| {
            let w = Packed::new(ctx, dtype, 20, 256, &bytes);
            let (want, got) = (product(ctx, &w, &clean, None), product(ctx, &w, &x, None));
            same(&got[..20], &want[..20], &at);
            assert!(got[20..].iter().all(|v| !v.is_finite()), "{dtype} {at}: {:?}", &got[20..]);
        });
    }
}

#[test]
fn products_of_one_job_are_those_of_many() {
    let mut r = Rng::new(9);
    for dtype in [DType::F16, DType::Q4K, DType::Q8_0] {
        let format = dtype.format();
        let k = 512;
        let sizes = [100, 16, 37];
        let bytes = sizes.map(|n| random(format, n * k / format.block, &mut r));
        let bias = r.floats(37);
        let x = r.floats(50 * k);
        everywhere(|ctx, at| {
            let w: Vec<Packed> = sizes.iter().zip(&bytes).map(|(&n, b)| Packed::new(ctx, dtype, n, k, b)).collect();
            for rows in [1, 5, 50] {
                let x = &x[..rows * k];
                let mut blocks = vec![QBlock::default(); QBlock::count(rows, k)];
                quantize(ctx, Source::Plain(x), rows, k, &mut blocks);
                let input = if w[0].quantized() { Input::Q8(&blocks) } else { Input::F32(x) };
                let bias = [None, None, Some(&bias[..])];
                let outs = || sizes.map(|n| vec![f32::NAN; rows * n]);
                let (mut want, mut got) = (outs(), outs());
                for i in 0..3 {
                    matmul(ctx, input, &w[i], bias[i], &mut want[i]);
                }
                let mut out = got.iter_mut();
                let products = [0, 1, 2].map(|i| out.next().map(|out| Product::new(input, &w[i], bias[i], out)));
                matmuls(ctx, &products);
                for (got, want) in got.iter().zip(&want) {
                    same(got, want, &format!("{dtype}, {rows} rows, {at}"));
                }
            }
        });
    }
}

/// More rows than share an expansion: the groups they fall into change nothing.
#[test]
fn rows_of_several_groups() {
    let mut r = Rng::new(10);
    for dtype in [DType::F16, DType::Q4K, DType::Q6K, DType::Q8_0] {
        let format = dtype.format();
        let (n, k, most) = (37, 256, 1041);
        let bytes = random(format, n * k / format.block, &mut r);
        let x = r.floats(most * k);
        everywhere(|ctx, at| {
            let w = Packed::new(ctx, dtype, n, k, &bytes);
            let all = product(ctx, &w, &x, None);
            for rows in [512, 513, 527] {
                let last = most - rows;
                same(&product(ctx, &w, &x[last * k..], None), &all[last * n..], &format!("{dtype}, {rows} rows, {at}"));
            }
            for row in [0, 511, 512, 520, 521, 1040] {
                let one = product(ctx, &w, &x[row * k..][..k], None);
                same(&one, &all[row * n..][..n], &format!("{dtype}, row {row}, {at}"));
            }
        });
    }
}

#[test]
fn nothing_times_something() {
    scalar(|ctx| {
        let none = Packed::new(ctx, DType::F32, 0, 5, &[]);
        assert_eq!(none.bytes(), 0);
        matmul(ctx, Input::F32(&[]), &none, None, &mut []);
        let w = Packed::new(ctx, DType::F16, 3, 5, &[0; 30]);
        assert_eq!(w.bytes(), 5 * 32);
        matmul(ctx, Input::F32(&[]), &w, None, &mut []);
    });
}

#[test]
fn operands_that_do_not_fit_panic() {
    let refused = |f: &(dyn Fn(Ctx<'_>) + std::panic::RefUnwindSafe)| {
        assert!(std::panic::catch_unwind(|| scalar(f)).is_err());
    };
    refused(&|ctx| _ = Packed::new(ctx, DType::F32, 2, 3, &[0; 25]));
    refused(&|ctx| _ = Packed::new(ctx, DType::F32, 2, 0, &[]));
    refused(&|ctx| _ = Packed::new(ctx, DType::Q4_0, 1, 33, &[0; 18]));
    let float = |ctx: Ctx<'_>| Packed::new(ctx, DType::F32, 2, 3, &[0; 24]);
    let block = |ctx: Ctx<'_>| Packed::new(ctx, DType::Q8_0, 2, 32, &[0; 68]);
    refused(&|ctx| matmul(ctx, Input::F32(&[0.0; 4]), &float(ctx), None, &mut [0.0; 2]));
    refused(&|ctx| matmul(ctx, Input::F32(&[0.0; 3]), &float(ctx), None, &mut [0.0; 3]));
    refused(&|ctx| matmul(ctx, Input::F32(&[0.0; 3]), &float(ctx), Some(&[0.0]), &mut [0.0; 2]));
    refused(&|ctx| matmul(ctx, Input::F32(&[0.0; 32]), &block(ctx), None, &mut [0.0; 2]));
    refused(&|ctx| matmul(ctx, Input::Q8(&[QBlock::default(); 16]), &block(ctx), None, &mut [0.0; 2]));
    refused(&|ctx| matmul(ctx, Input::Q8(&[QBlock::default(); 8]), &float(ctx), None, &mut [0.0; 2]));
}
