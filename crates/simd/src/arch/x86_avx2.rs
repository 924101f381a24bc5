//! AVX2 with FMA and F16C: two registers per vector. With AVX-VNNI the four-byte dot is one instruction for each.
#![allow(unsafe_code)]

use crate::{Isa, Kernel};
use std::arch::x86_64::*;

/// Runs intrinsics of the level whose token is held.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: a token is made only by `detect`, after the machine reported every feature used here; pointers
        // come from references to arrays of exactly the vector's size, and all accesses are unaligned ones.
        unsafe { $($body)* }
    };
}

/// `[op(a0, b0, …), op(a1, b1, …)]`. Not `map`: closures are compiled without the level's instructions unless inlined.
macro_rules! both {
    ($op:ident$(::<$n:literal>)?($($v:expr),*)) => { simd!([$op$(::<$n>)?($($v[0]),*), $op$(::<$n>)?($($v[1]),*)]) };
}

/// The same value. Keeps the compiler from adding up in another order, for which there are not enough registers.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(mut v: __m256i) -> __m256i {
    // SAFETY: no instructions.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags)) }
    v
}

type F = [__m256; 2];
type I = [__m256i; 2];

macro_rules! level {
    ($(#[$doc:meta])* $token:ident, $name:literal, [$($feature:tt),*], $enable:tt, $dot4:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $token(());

        impl $token {
            /// The token, if the machine has the instructions.
            pub fn detect() -> Option<Self> {
                ($(is_x86_feature_detected!($feature))&&*).then_some(Self(()))
            }
        }

        impl Isa for $token {
            const NAME: &'static str = $name;
            const TILE: (usize, usize) = (1, 4);
            const DOT4: bool = false;
            type F = F;
            type I = I;
            type B = I;
            type S = I;

            #[inline(always)]
            fn enter<K: Kernel>(self, kernel: K) -> K::Output {
                /// # Safety
                /// The machine has the enabled features.
                #[inline(never)]
                #[target_feature(enable = $enable)]
                unsafe fn inner<K: Kernel>(isa: $token, kernel: K) -> K::Output {
                    kernel.run(isa)
                }
                simd!(inner(self, kernel))
            }

            #[inline(always)]
            fn splat(self, x: f32) -> F {
                simd!([_mm256_set1_ps(x); 2])
            }
            #[inline(always)]
            fn load(self, p: &[f32; 16]) -> F {
                simd!([_mm256_loadu_ps(p.as_ptr()), _mm256_loadu_ps(p.as_ptr().add(8))])
            }
            #[inline(always)]
            fn load_f16(self, p: &[u16; 16]) -> F {
                simd!({
                    let p: *const __m128i = p.as_ptr().cast();
                    [_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p.add(1)))]
                })
            }
            #[inline(always)]
            fn load_bf16(self, p: &[u16; 16]) -> F {
                let p: *const __m128i = p.as_ptr().cast();
                let v = simd!([_mm_loadu_si128(p), _mm_loadu_si128(p.add(1))]);
                let v = both!(_mm256_cvtepu16_epi32(v));
                let v = both!(_mm256_slli_epi32::<16>(v));
                both!(_mm256_castsi256_ps(v))
            }
            #[inline(always)]
            fn store(self, v: F, p: &mut [f32; 16]) {
                simd!({
                    _mm256_storeu_ps(p.as_mut_ptr(), v[0]);
                    _mm256_storeu_ps(p.as_mut_ptr().add(8), v[1])
                })
            }
            #[inline(always)]
            fn store_f16(self, v: F, p: &mut [u16; 16]) {
                simd!({
                    let p: *mut __m128i = p.as_mut_ptr().cast();
                    _mm_storeu_si128(p, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[0]));
                    _mm_storeu_si128(p.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v[1]))
                })
            }
            #[inline(always)]
            fn add(self, a: F, b: F) -> F {
                both!(_mm256_add_ps(a, b))
            }
            #[inline(always)]
            fn sub(self, a: F, b: F) -> F {
                both!(_mm256_sub_ps(a, b))
            }
            #[inline(always)]
            fn mul(self, a: F, b: F) -> F {
                both!(_mm256_mul_ps(a, b))
            }
            #[inline(always)]
            fn div(self, a: F, b: F) -> F {
                both!(_mm256_div_ps(a, b))
            }
            #[inline(always)]
            fn fma(self, a: F, b: F, c: F) -> F {
                both!(_mm256_fmadd_ps(a, b, c))
            }
            #[inline(always)]
            fn max(self, a: F, b: F) -> F {
                both!(_mm256_max_ps(a, b))
            }
            #[inline(always)]
            fn min(self, a: F, b: F) -> F {
                both!(_mm256_min_ps(a, b))
            }
            #[inline(always)]
            fn select_lt(self, a: F, b: F, x: F, y: F) -> F {
                simd!([
                    _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
                    _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
                ])
            }
            #[inline(always)]
            fn sum(self, v: F) -> f32 {
                simd!({
                    let v = _mm256_add_ps(v[0], v[1]);
                    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
                })
            }
            #[inline(always)]
            fn max_lane(self, v: F) -> f32 {
                simd!({
                    let v = _mm256_max_ps(v[0], v[1]);
                    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
                    _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
                })
            }
            #[inline(always)]
            fn round(self, v: F) -> I {
                // The default rounding mode is to nearest even; nothing in Alula changes it.
                both!(_mm256_cvtps_epi32(v))
            }
            #[inline(always)]
            fn splat_i(self, x: i32) -> I {
                simd!([_mm256_set1_epi32(x); 2])
            }
            #[inline(always)]
            fn add_i(self, a: I, b: I) -> I {
                both!(_mm256_add_epi32(a, b))
            }
            #[inline(always)]
            fn sub_i(self, a: I, b: I) -> I {
                both!(_mm256_sub_epi32(a, b))
            }
            #[inline(always)]
            fn shl(self, v: I, by: I) -> I {
                both!(_mm256_sllv_epi32(v, by))
            }
            #[inline(always)]
            fn to_f(self, v: I) -> F {
                both!(_mm256_cvtepi32_ps(v))
            }
            #[inline(always)]
            fn bits(self, v: F) -> I {
                both!(_mm256_castps_si256(v))
            }
            #[inline(always)]
            fn with_bits(self, v: I) -> F {
                both!(_mm256_castsi256_ps(v))
            }
            #[inline(always)]
            fn prefetch(self, p: *const u8) {
                simd!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
            }
            #[inline(always)]
            fn load_i(self, p: &[i32; 16]) -> I {
                simd!({
                    let p: *const __m256i = p.as_ptr().cast();
                    [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
                })
            }
            #[inline(always)]
            fn load_i8(self, p: &[i8; 16]) -> I {
                simd!({
                    let v = _mm_loadu_si128(p.as_ptr().cast());
                    [_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v))]
                })
            }
            #[inline(always)]
            fn store_i8(self, v: I, p: &mut [i8; 16]) {
                simd!({
                    // Low bytes alone, so that packing has nothing to saturate; it goes by halves of registers.
                    let low = _mm256_set1_epi32(0xff);
                    let v = _mm256_packus_epi32(_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low));
                    let v = _mm256_permute4x64_epi64::<0b11_01_10_00>(v);
                    let v = _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
                    _mm_storeu_si128(p.as_mut_ptr().cast(), v)
                })
            }
            #[inline(always)]
            fn store_i(self, v: I, p: &mut [i32; 16]) {
                simd!({
                    let p: *mut __m256i = p.as_mut_ptr().cast();
                    _mm256_storeu_si256(p, v[0]);
                    _mm256_storeu_si256(p.add(1), v[1])
                })
            }
            #[inline(always)]
            fn load_b(self, p: &[u8; 64]) -> I {
                simd!({
                    let p: *const __m256i = p.as_ptr().cast();
                    [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
                })
            }
            #[inline(always)]
            fn store_b(self, v: I, p: &mut [u8; 64]) {
                simd!({
                    let p: *mut __m256i = p.as_mut_ptr().cast();
                    _mm256_storeu_si256(p, v[0]);
                    _mm256_storeu_si256(p.add(1), v[1])
                })
            }
            #[inline(always)]
            fn splat_b(self, x: u8) -> I {
                simd!([_mm256_set1_epi8(x as i8); 2])
            }
            #[inline(always)]
            fn and_b(self, a: I, b: I) -> I {
                both!(_mm256_and_si256(a, b))
            }
            #[inline(always)]
            fn or_b(self, a: I, b: I) -> I {
                both!(_mm256_or_si256(a, b))
            }
            #[inline(always)]
            fn sub_b(self, a: I, b: I) -> I {
                both!(_mm256_sub_epi8(a, b))
            }
            #[inline(always)]
            fn shift_b(self, v: I, by: i32) -> I {
                let n = simd!([_mm_cvtsi32_si128(by.abs()); 2]);
                if by < 0 { both!(_mm256_sll_epi16(v, n)) } else { both!(_mm256_srl_epi16(v, n)) }
            }
            #[inline(always)]
            fn table(self, t: &[u8; 16]) -> I {
                simd!([_mm256_broadcastsi128_si256(_mm_loadu_si128(t.as_ptr().cast())); 2])
            }
            #[inline(always)]
            fn lookup(self, table: I, index: I) -> I {
                both!(_mm256_shuffle_epi8(table, index))
            }
            #[inline(always)]
            fn dot4(self, acc: I, w: I, x: i32) -> I {
                let x = simd!([_mm256_set1_epi32(x); 2]);
                both!($dot4(acc, w, x))
            }
            #[inline(always)]
            fn zero_s(self) -> I {
                simd!([_mm256_setzero_si256(); 2])
            }
            #[inline(always)]
            fn dot4_small(self, acc: I, w: I, x: i32) -> I {
                let x = simd!([_mm256_set1_epi32(x); 2]);
                let sums = both!(_mm256_maddubs_epi16(w, x));
                let sums = both!(_mm256_add_epi16(acc, sums));
                both!(in_order(sums))
            }
            #[inline(always)]
            fn widen(self, acc: I, s: I) -> I {
                let one = simd!([_mm256_set1_epi16(1); 2]);
                let sums = both!(_mm256_madd_epi16(s, one));
                both!(_mm256_add_epi32(acc, sums))
            }
        }
    };
}

#[inline]
#[target_feature(enable = "avx2")]
fn widening_dot4(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // Bytes widened to 16 bits, even and odd apart: products up to 255 * 128, so a pair fits an i32.
    let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let x_odd = _mm256_srai_epi16::<8>(x);
    let even = _mm256_madd_epi16(_mm256_and_si256(w, _mm256_set1_epi16(0xff)), x_even);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(w), x_odd);
    _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
}

level!(
    /// AVX2, FMA and F16C (Haswell on).
    Avx2, "avx2", ["avx2", "fma", "f16c"], "avx2,fma,f16c", widening_dot4
);
level!(
    /// The same with AVX-VNNI (Alder Lake and Zen 5 on), for codes of 8 bits: those of up to 6 are as fast by small sums.
    AvxVnni, "avxvnni", ["avxvnni", "avx2", "fma", "f16c"], "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32
);
