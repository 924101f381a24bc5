//! AVX-512: one register per vector. With VNNI the four-byte dot is one instruction.
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

/// Bfloat16 in the upper halves of lanes, rounded to nearest even; the lower halves are anything. NaN stays NaN.
#[inline(always)]
unsafe fn to_bf16(v: __m512) -> __m512i {
    simd!({
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000))
    })
}

macro_rules! level {
    ($(#[$doc:meta])* $token:ident, $name:literal, [$($feature:tt),*], $enable:tt, $vnni:literal, $dot4:ident) => {
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
            const TILE: (usize, usize) = (2, 6);
            const DOT4: bool = $vnni;
            type F = __m512;
            type I = __m512i;
            type B = __m512i;
            type S = __m512i;

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
            fn splat(self, x: f32) -> __m512 {
                simd!(_mm512_set1_ps(x))
            }
            #[inline(always)]
            fn load(self, p: &[f32; 16]) -> __m512 {
                simd!(_mm512_loadu_ps(p.as_ptr()))
            }
            #[inline(always)]
            fn load_f16(self, p: &[u16; 16]) -> __m512 {
                simd!(_mm512_cvtph_ps(_mm256_loadu_si256(p.as_ptr().cast())))
            }
            #[inline(always)]
            fn load_bf16(self, p: &[u16; 16]) -> __m512 {
                simd!({
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.as_ptr().cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                })
            }
            #[inline(always)]
            fn store(self, v: __m512, p: &mut [f32; 16]) {
                simd!(_mm512_storeu_ps(p.as_mut_ptr(), v))
            }
            #[inline(always)]
            fn store_f16(self, v: __m512, p: &mut [u16; 16]) {
                simd!({
                    let h = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
                    _mm256_storeu_si256(p.as_mut_ptr().cast(), h)
                })
            }
            #[inline(always)]
            fn store_bf16(self, v: __m512, p: &mut [u16; 16]) {
                simd!(_mm256_storeu_si256(
                    p.as_mut_ptr().cast(),
                    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(to_bf16(v)))
                ))
            }
            #[inline(always)]
            fn bf16_pairs(self, low: __m512, high: __m512) -> __m512i {
                simd!(_mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(to_bf16(low)), to_bf16(high)))
            }
            #[inline(always)]
            fn byte(self, v: __m512i, n: usize) -> __m512i {
                let up = 24 - 8 * n as i32;
                simd!(_mm512_srai_epi32::<24>(_mm512_sllv_epi32(v, _mm512_set1_epi32(up))))
            }
            #[inline(always)]
            fn add(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_add_ps(a, b))
            }
            #[inline(always)]
            fn sub(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_sub_ps(a, b))
            }
            #[inline(always)]
            fn mul(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_mul_ps(a, b))
            }
            #[inline(always)]
            fn div(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_div_ps(a, b))
            }
            #[inline(always)]
            fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
                simd!(_mm512_fmadd_ps(a, b, c))
            }
            #[inline(always)]
            fn max(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_max_ps(a, b))
            }
            #[inline(always)]
            fn min(self, a: __m512, b: __m512) -> __m512 {
                simd!(_mm512_min_ps(a, b))
            }
            #[inline(always)]
            fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
                simd!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x))
            }
            #[inline(always)]
            fn sum(self, v: __m512) -> f32 {
                simd!({
                    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
                })
            }
            #[inline(always)]
            fn max_lane(self, v: __m512) -> f32 {
                simd!({
                    let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                    let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                    let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
                    _mm_cvtss_f32(_mm_max_ss(v, _mm_shuffle_ps::<1>(v, v)))
                })
            }
            #[inline(always)]
            fn round(self, v: __m512) -> __m512i {
                simd!(_mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v))
            }
            #[inline(always)]
            fn splat_i(self, x: i32) -> __m512i {
                simd!(_mm512_set1_epi32(x))
            }
            #[inline(always)]
            fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
                simd!(_mm512_add_epi32(a, b))
            }
            #[inline(always)]
            fn sub_i(self, a: __m512i, b: __m512i) -> __m512i {
                simd!(_mm512_sub_epi32(a, b))
            }
            #[inline(always)]
            fn shl(self, v: __m512i, by: __m512i) -> __m512i {
                simd!(_mm512_sllv_epi32(v, by))
            }
            #[inline(always)]
            fn to_f(self, v: __m512i) -> __m512 {
                simd!(_mm512_cvtepi32_ps(v))
            }
            #[inline(always)]
            fn bits(self, v: __m512) -> __m512i {
                simd!(_mm512_castps_si512(v))
            }
            #[inline(always)]
            fn with_bits(self, v: __m512i) -> __m512 {
                simd!(_mm512_castsi512_ps(v))
            }
            #[inline(always)]
            fn prefetch(self, p: *const u8) {
                simd!(_mm_prefetch::<_MM_HINT_T0>(p.cast()))
            }
            #[inline(always)]
            fn load_i(self, p: &[i32; 16]) -> __m512i {
                simd!(_mm512_loadu_si512(p.as_ptr().cast()))
            }
            #[inline(always)]
            fn load_i8(self, p: &[i8; 16]) -> __m512i {
                simd!(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.as_ptr().cast())))
            }
            #[inline(always)]
            fn store_i8(self, v: __m512i, p: &mut [i8; 16]) {
                simd!(_mm_storeu_si128(p.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)))
            }
            #[inline(always)]
            fn store_i(self, v: __m512i, p: &mut [i32; 16]) {
                simd!(_mm512_storeu_si512(p.as_mut_ptr().cast(), v))
            }
            #[inline(always)]
            fn load_b(self, p: &[u8; 64]) -> __m512i {
                simd!(_mm512_loadu_si512(p.as_ptr().cast()))
            }
            #[inline(always)]
            fn store_b(self, v: __m512i, p: &mut [u8; 64]) {
                simd!(_mm512_storeu_si512(p.as_mut_ptr().cast(), v))
            }
            #[inline(always)]
            fn splat_b(self, x: u8) -> __m512i {
                simd!(_mm512_set1_epi8(x as i8))
            }
            #[inline(always)]
            fn and_b(self, a: __m512i, b: __m512i) -> __m512i {
                simd!(_mm512_and_si512(a, b))
            }
            #[inline(always)]
            fn or_b(self, a: __m512i, b: __m512i) -> __m512i {
                simd!(_mm512_or_si512(a, b))
            }
            #[inline(always)]
            fn sub_b(self, a: __m512i, b: __m512i) -> __m512i {
                simd!(_mm512_sub_epi8(a, b))
            }
            #[inline(always)]
            fn shift_b(self, v: __m512i, by: i32) -> __m512i {
                simd!({
                    let n = _mm_cvtsi32_si128(by.abs());
                    if by < 0 { _mm512_sll_epi16(v, n) } else { _mm512_srl_epi16(v, n) }
                })
            }
            #[inline(always)]
            fn table(self, t: &[u8; 16]) -> __m512i {
                simd!(_mm512_broadcast_i32x4(_mm_loadu_si128(t.as_ptr().cast())))
            }
            #[inline(always)]
            fn lookup(self, table: __m512i, index: __m512i) -> __m512i {
                simd!(_mm512_shuffle_epi8(table, index))
            }
            #[inline(always)]
            fn dot4(self, acc: __m512i, w: __m512i, x: i32) -> __m512i {
                simd!($dot4(acc, w, _mm512_set1_epi32(x)))
            }
            #[inline(always)]
            fn zero_s(self) -> __m512i {
                simd!(_mm512_setzero_si512())
            }
            #[inline(always)]
            fn dot4_small(self, acc: __m512i, w: __m512i, x: i32) -> __m512i {
                simd!(_mm512_add_epi16(acc, _mm512_maddubs_epi16(w, _mm512_set1_epi32(x))))
            }
            #[inline(always)]
            fn widen(self, acc: __m512i, s: __m512i) -> __m512i {
                simd!(_mm512_add_epi32(acc, _mm512_madd_epi16(s, _mm512_set1_epi16(1))))
            }
        }
    };
}

/// # Safety
/// The machine has AVX-512 BW.
#[inline(always)]
unsafe fn widening_dot4(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
    // SAFETY: as above. Bytes widened to 16 bits, even and odd apart: products up to 255 * 128, pairs fit i32.
    unsafe {
        let w_even = _mm512_and_si512(w, _mm512_set1_epi16(0xff));
        let w_odd = _mm512_srli_epi16::<8>(w);
        let x_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
        let x_odd = _mm512_srai_epi16::<8>(x);
        let even = _mm512_madd_epi16(w_even, x_even);
        _mm512_add_epi32(acc, _mm512_add_epi32(even, _mm512_madd_epi16(w_odd, x_odd)))
    }
}

level!(
    /// AVX-512 F, BW, DQ and VL (Skylake-X on).
    Avx512, "avx512", ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"],
    "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c", false, widening_dot4
);
level!(
    /// The same with VNNI (Cascade Lake on).
    Avx512Vnni, "avx512vnni", ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"],
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c", true, _mm512_dpbusd_epi32
);
