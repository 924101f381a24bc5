//! Portable code: the reference that the others equal to the bit. Its longer operations are calls, so that kernels
//! compile in a bearable time.

use crate::{Isa, Kernel};
use std::array::from_fn;

/// The level that every machine has.
#[derive(Clone, Copy, Debug)]
pub struct Scalar;

type F = [f32; 16];
type I = [i32; 16];
type B = [u8; 64];

/// Half precision to single, exact; NaN payloads kept, NaNs made quiet (as the x86 and ARM instructions do).
fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let (exp, man) = (u32::from(h >> 10) & 31, u32::from(h) & 0x3ff);
    match (exp, man) {
        (31, 0) => f32::from_bits(sign | 0x7f80_0000),
        (31, _) => f32::from_bits(sign | 0x7fc0_0000 | man << 13),
        // Subnormals and zero: man * 2^-24, exact in f32.
        (0, _) => f32::from_bits(sign | (man as f32 * f32::from_bits(103 << 23)).to_bits()),
        _ => f32::from_bits(sign | (exp + 112) << 23 | man << 13),
    }
}

/// The nearest bfloat16, ties to even. NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 64;
    (if x.is_nan() { nan } else { rounded }) as u16
}

/// Single precision to half, to nearest even.
pub fn f32_to_f16(x: f32) -> u16 {
    let b = x.to_bits();
    let sign = (b >> 16 & 0x8000) as u16;
    let a = b & 0x7fff_ffff;
    if a > 0x7f80_0000 {
        return sign | 0x7e00 | (a >> 13 & 0x3ff) as u16;
    }
    if a >= 0x477f_f000 {
        return sign | 0x7c00; // 65520 and above round to infinity
    }
    if a < 0x3880_0000 {
        // Below 2^-14: adding 0.5 leaves the nearest multiple of 2^-24 in the low bits.
        let shifted = f32::from_bits(a) + 0.5;
        return sign | (shifted.to_bits() - 0x3f00_0000) as u16;
    }
    let rounded = a + 0xfff + (a >> 13 & 1);
    sign | ((rounded - (112 << 23)) >> 13) as u16
}

impl Isa for Scalar {
    const NAME: &'static str = "scalar";
    const TILE: (usize, usize) = (1, 1);
    const DOT4: bool = true;
    type F = F;
    type I = I;
    type B = B;
    type S = [i16; 32];

    fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, p: &[f32; 16]) -> F {
        *p
    }
    #[inline(never)]
    fn load_f16(self, p: &[u16; 16]) -> F {
        p.map(f16_to_f32)
    }
    #[inline(always)]
    fn load_bf16(self, p: &[u16; 16]) -> F {
        p.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    #[inline(always)]
    fn store(self, v: F, p: &mut [f32; 16]) {
        *p = v;
    }
    #[inline(never)]
    fn store_f16(self, v: F, p: &mut [u16; 16]) {
        *p = v.map(f32_to_f16);
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(never)]
    fn div(self, a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(never)]
    fn fma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn select_lt(self, a: F, b: F, x: F, y: F) -> F {
        from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn sum(self, mut v: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] += v[i + half];
            }
        }
        v[0]
    }
    #[inline(always)]
    fn max_lane(self, mut v: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] { v[i] } else { v[i + half] };
            }
        }
        v[0]
    }
    #[inline(always)]
    fn round(self, v: F) -> I {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        [x; 16]
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn shl(self, v: I, by: I) -> I {
        from_fn(|i| v[i].checked_shl(by[i] as u32).unwrap_or(0))
    }
    #[inline(always)]
    fn to_f(self, v: I) -> F {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    fn bits(self, v: F) -> I {
        v.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn with_bits(self, v: I) -> F {
        v.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn load_i(self, p: &[i32; 16]) -> I {
        *p
    }
    #[inline(always)]
    fn load_i8(self, p: &[i8; 16]) -> I {
        p.map(i32::from)
    }
    #[inline(always)]
    fn store_i8(self, v: I, p: &mut [i8; 16]) {
        *p = v.map(|x| x as i8);
    }
    #[inline(always)]
    fn store_i(self, v: I, p: &mut [i32; 16]) {
        *p = v;
    }
    #[inline(always)]
    fn load_b(self, p: &[u8; 64]) -> B {
        *p
    }
    #[inline(always)]
    fn store_b(self, v: B, p: &mut [u8; 64]) {
        *p = v;
    }
    #[inline(always)]
    fn splat_b(self, x: u8) -> B {
        [x; 64]
    }
    #[inline(always)]
    fn and_b(self, a: B, b: B) -> B {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or_b(self, a: B, b: B) -> B {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(never)]
    fn sub_b(self, a: B, b: B) -> B {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn shift_b(self, v: B, by: i32) -> B {
        from_fn(|i| {
            let pair = u16::from_le_bytes([v[i & !1], v[i | 1]]);
            (if by < 0 { pair << -by } else { pair >> by }).to_le_bytes()[i % 2]
        })
    }
    #[inline(always)]
    fn table(self, t: &[u8; 16]) -> B {
        from_fn(|i| t[i % 16])
    }
    #[inline(never)]
    fn lookup(self, table: B, index: B) -> B {
        index.map(|i| table[usize::from(i & 15)])
    }
    #[inline(never)]
    fn dot4(self, acc: I, w: B, x: i32) -> I {
        let x = x.to_le_bytes().map(|b| i32::from(b as i8));
        from_fn(|i| (0..4).fold(acc[i], |a, j| a.wrapping_add(i32::from(w[4 * i + j]) * x[j])))
    }
    #[inline(always)]
    fn zero_s(self) -> [i16; 32] {
        [0; 32]
    }
    #[inline(never)]
    fn dot4_small(self, acc: [i16; 32], w: B, x: i32) -> [i16; 32] {
        let x = x.to_le_bytes().map(|b| i16::from(b as i8));
        from_fn(|i| (0..2).fold(acc[i], |a, j| a.wrapping_add(i16::from(w[2 * i + j]).wrapping_mul(x[i % 2 * 2 + j]))))
    }
    #[inline(never)]
    fn widen(self, acc: I, s: [i16; 32]) -> I {
        from_fn(|i| acc[i].wrapping_add(i32::from(s[2 * i]) + i32::from(s[2 * i + 1])))
    }
}
