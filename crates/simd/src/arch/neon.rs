//! ARM64 Advanced SIMD: four registers per vector. Machines with products of bytes have levels of their own.
#![allow(unsafe_code)]

use crate::{Isa, Kernel};
use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

/// Runs intrinsics of the level whose token is held.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: a token is made only by `detect`, after the machine reported every feature used here; pointers
        // stay inside the arrays whose references they come from.
        unsafe { $($body)* }
    };
}

type F = [float32x4_t; 4];
type I = [int32x4_t; 4];
type B = [uint8x16_t; 4];

/// `acc` plus products of bytes, by an instruction that stable Rust has no intrinsic for; `shape` is how it reads `x`.
macro_rules! dot {
    ($name:literal, $feature:literal, $acc:expr, $w:expr, $x:expr, $shape:literal) => {{
        let mut acc: int32x4_t = $acc;
        asm!(
            concat!(".arch_extension ", $feature),
            concat!($name, " {acc:v}.4s, {w:v}.16b, {x:v}", $shape),
            acc = inout(vreg) acc, w = in(vreg) $w, x = in(vreg) $x,
            options(pure, nomem, nostack, preserves_flags)
        );
        acc
    }};
}

macro_rules! level {
    ($(#[$doc:meta])* $token:ident, $name:literal, [$($feature:tt),*], $enable:literal, $dot4:literal, { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $token(());

        impl $token {
            /// The token, if the machine has the instructions.
            pub fn detect() -> Option<Self> {
                ($(std::arch::is_aarch64_feature_detected!($feature))&&*).then_some(Self(()))
            }
        }

        impl Isa for $token {
            const NAME: &'static str = $name;
            const TILE: (usize, usize) = (1, 4);
            const DOT4: bool = $dot4;
            type F = F;
            type I = I;
            type B = B;
            type S = [int16x8_t; 4];

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
                simd!([vdupq_n_f32(x); 4])
            }
            #[inline(always)]
            fn load(self, p: &[f32; 16]) -> F {
                from_fn(|i| simd!(vld1q_f32(p.as_ptr().add(4 * i))))
            }
            #[inline(always)]
            fn load_f16(self, p: &[u16; 16]) -> F {
                from_fn(|i| simd!(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.as_ptr().add(4 * i))))))
            }
            #[inline(always)]
            fn load_bf16(self, p: &[u16; 16]) -> F {
                from_fn(|i| simd!(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.as_ptr().add(4 * i))))))
            }
            #[inline(always)]
            fn store(self, v: F, p: &mut [f32; 16]) {
                for (i, x) in v.into_iter().enumerate() {
                    simd!(vst1q_f32(p.as_mut_ptr().add(4 * i), x));
                }
            }
            #[inline(always)]
            fn store_f16(self, v: F, p: &mut [u16; 16]) {
                for (i, x) in v.into_iter().enumerate() {
                    simd!(vst1_u16(p.as_mut_ptr().add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(x))));
                }
            }
            #[inline(always)]
            fn add(self, a: F, b: F) -> F {
                from_fn(|i| simd!(vaddq_f32(a[i], b[i])))
            }
            #[inline(always)]
            fn sub(self, a: F, b: F) -> F {
                from_fn(|i| simd!(vsubq_f32(a[i], b[i])))
            }
            #[inline(always)]
            fn mul(self, a: F, b: F) -> F {
                from_fn(|i| simd!(vmulq_f32(a[i], b[i])))
            }
            #[inline(always)]
            fn div(self, a: F, b: F) -> F {
                from_fn(|i| simd!(vdivq_f32(a[i], b[i])))
            }
            #[inline(always)]
            fn fma(self, a: F, b: F, c: F) -> F {
                from_fn(|i| simd!(vfmaq_f32(c[i], a[i], b[i])))
            }
            #[inline(always)]
            fn max(self, a: F, b: F) -> F {
                // Not vmaxq: that one returns NaN where either is NaN.
                from_fn(|i| simd!(vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])))
            }
            #[inline(always)]
            fn min(self, a: F, b: F) -> F {
                from_fn(|i| simd!(vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])))
            }
            #[inline(always)]
            fn select_lt(self, a: F, b: F, x: F, y: F) -> F {
                from_fn(|i| simd!(vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i])))
            }
            #[inline(always)]
            fn sum(self, v: F) -> f32 {
                let mut lanes = [0f32; 16];
                self.store(v, &mut lanes);
                crate::Scalar.sum(lanes)
            }
            #[inline(always)]
            fn max_lane(self, v: F) -> f32 {
                let mut lanes = [0f32; 16];
                self.store(v, &mut lanes);
                crate::Scalar.max_lane(lanes)
            }
            #[inline(always)]
            fn round(self, v: F) -> I {
                from_fn(|i| simd!(vcvtnq_s32_f32(v[i])))
            }
            #[inline(always)]
            fn splat_i(self, x: i32) -> I {
                simd!([vdupq_n_s32(x); 4])
            }
            #[inline(always)]
            fn add_i(self, a: I, b: I) -> I {
                from_fn(|i| simd!(vaddq_s32(a[i], b[i])))
            }
            #[inline(always)]
            fn sub_i(self, a: I, b: I) -> I {
                from_fn(|i| simd!(vsubq_s32(a[i], b[i])))
            }
            #[inline(always)]
            fn shl(self, v: I, by: I) -> I {
                from_fn(|i| simd!(vshlq_s32(v[i], by[i])))
            }
            #[inline(always)]
            fn to_f(self, v: I) -> F {
                from_fn(|i| simd!(vcvtq_f32_s32(v[i])))
            }
            #[inline(always)]
            fn bits(self, v: F) -> I {
                from_fn(|i| simd!(vreinterpretq_s32_f32(v[i])))
            }
            #[inline(always)]
            fn with_bits(self, v: I) -> F {
                from_fn(|i| simd!(vreinterpretq_f32_s32(v[i])))
            }
            #[inline(always)]
            fn load_i(self, p: &[i32; 16]) -> I {
                from_fn(|i| simd!(vld1q_s32(p.as_ptr().add(4 * i))))
            }
            #[inline(always)]
            fn load_i8(self, p: &[i8; 16]) -> I {
                simd!({
                    let v = vld1q_s8(p.as_ptr());
                    let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
                    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
                })
            }
            #[inline(always)]
            fn store_i8(self, v: I, p: &mut [i8; 16]) {
                simd!({
                    let low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
                    let high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
                    vst1q_s8(p.as_mut_ptr(), vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
                })
            }
            #[inline(always)]
            fn store_i(self, v: I, p: &mut [i32; 16]) {
                for (i, x) in v.into_iter().enumerate() {
                    simd!(vst1q_s32(p.as_mut_ptr().add(4 * i), x));
                }
            }
            #[inline(always)]
            fn load_b(self, p: &[u8; 64]) -> B {
                from_fn(|i| simd!(vld1q_u8(p.as_ptr().add(16 * i))))
            }
            #[inline(always)]
            fn store_b(self, v: B, p: &mut [u8; 64]) {
                for (i, x) in v.into_iter().enumerate() {
                    simd!(vst1q_u8(p.as_mut_ptr().add(16 * i), x));
                }
            }
            #[inline(always)]
            fn splat_b(self, x: u8) -> B {
                simd!([vdupq_n_u8(x); 4])
            }
            #[inline(always)]
            fn and_b(self, a: B, b: B) -> B {
                from_fn(|i| simd!(vandq_u8(a[i], b[i])))
            }
            #[inline(always)]
            fn or_b(self, a: B, b: B) -> B {
                from_fn(|i| simd!(vorrq_u8(a[i], b[i])))
            }
            #[inline(always)]
            fn sub_b(self, a: B, b: B) -> B {
                from_fn(|i| simd!(vsubq_u8(a[i], b[i])))
            }
            #[inline(always)]
            fn shift_b(self, v: B, by: i32) -> B {
                let n = simd!(vdupq_n_s16(-by as i16));
                v.map(|v| simd!(vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(v), n))))
            }
            #[inline(always)]
            fn table(self, t: &[u8; 16]) -> B {
                simd!([vld1q_u8(t.as_ptr()); 4])
            }
            #[inline(always)]
            fn lookup(self, table: B, index: B) -> B {
                from_fn(|i| simd!(vqtbl1q_u8(table[i], index[i])))
            }
            #[inline(always)]
            fn zero_s(self) -> [int16x8_t; 4] {
                simd!([vdupq_n_s16(0); 4])
            }
            #[inline(always)]
            fn dot4_small(self, acc: [int16x8_t; 4], w: B, x: i32) -> [int16x8_t; 4] {
                // Codes are below 128 here, so they may be taken as signed.
                from_fn(|i| {
                    simd!({
                        let (w, x) = (vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_s32(vdupq_n_s32(x)));
                        let (low, high) = (vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
                        vaddq_s16(acc[i], vpaddq_s16(low, high))
                    })
                })
            }
            #[inline(always)]
            fn widen(self, acc: I, s: [int16x8_t; 4]) -> I {
                from_fn(|i| simd!(vpadalq_s16(acc[i], s[i])))
            }

            $($own)*
        }
    };
}

level!(
    /// Advanced SIMD, which every ARM64 machine has, with half-precision conversion (part of the base architecture).
    Neon, "neon", ["neon"], "neon", false, {
        #[inline(always)]
        fn dot4(self, acc: I, w: B, x: i32) -> I {
            // Products fit i16 only as 255 * 128 < 2^15; their sums are widened pairwise, so nothing saturates.
            from_fn(|i| {
                simd!({
                    let x = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(x)));
                    let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(w[i])));
                    let high = vreinterpretq_s16_u16(vmovl_high_u8(w[i]));
                    let a = vpaddlq_s16(vmulq_s16(low, x));
                    let b = vpaddlq_s16(vmulq_s16(high, x));
                    vaddq_s32(acc[i], vpaddq_s32(a, b))
                })
            })
        }
    }
);

level!(
    /// The same with dot products (ARMv8.2: Cortex-A75, Neoverse N1 and Apple A11 on).
    DotProd, "dotprod", ["neon", "dotprod"], "neon,dotprod", true, {
        const SIGNED: bool = true;
        const PRODUCTS: bool = true;

        #[inline(always)]
        fn dot4(self, acc: I, w: B, x: i32) -> I {
            let x = f32::from_bits(x as u32); // loaded to where it is needed
            from_fn(|i| simd!(dot!("sdot", "dotprod", acc[i], w[i], x, ".4b[0]")))
        }
        #[inline(always)]
        fn products<const L: usize, const T: usize>(self, w: &[[u8; 64]; L], x: [&[[i8; 4]; L]; T]) -> [I; T] {
            const { assert!(L == 4 || L == 8) }
            let mut sums = [self.splat_i(0); T];
            // Written out, a quarter of the lanes after the other, so that sums and activations stay in registers.
            macro_rules! quarters {
                ($i:literal: $($s:literal $x:literal),*) => {$(
                    if $s < L {
                        let four = simd!(vld1q_u8(w[$s].as_ptr().add(16 * $i)));
                        for t in 0..T {
                            let x = simd!(vld1q_s8(x[t][$s / 4 * 4..].as_flattened().as_ptr()));
                            sums[t][$i] = simd!(dot!("sdot", "dotprod", sums[t][$i], four, x, $x));
                        }
                    }
                )*};
                ($($i:literal)*) => {$(
                    quarters!($i: 0 ".4b[0]", 1 ".4b[1]", 2 ".4b[2]", 3 ".4b[3]",
                        4 ".4b[0]", 5 ".4b[1]", 6 ".4b[2]", 7 ".4b[3]");
                )*};
            }
            quarters!(0 1 2 3);
            sums
        }
    }
);

level!(
    /// The same with products of small matrices (ARMv8.6: Neoverse V1 and N2, Apple M2 on).
    I8mm, "i8mm", ["neon", "dotprod", "i8mm"], "neon,dotprod,i8mm", true, {
        const PRODUCTS: bool = true;

        #[inline(always)]
        fn dot4(self, acc: I, w: B, x: i32) -> I {
            let x = f32::from_bits(x as u32);
            from_fn(|i| simd!(dot!("usdot", "i8mm", acc[i], w[i], x, ".4b[0]")))
        }
        /// Eight inputs of two lanes in each register.
        #[inline(always)]
        fn pair(self, [a, b]: [B; 2]) -> [B; 2] {
            macro_rules! zip {
                ($zip:ident) => {
                    from_fn(|i| simd!(vreinterpretq_u8_u32($zip(vreinterpretq_u32_u8(a[i]), vreinterpretq_u32_u8(b[i])))))
                };
            }
            [zip!(vzip1q_u32), zip!(vzip2q_u32)]
        }
        #[inline(always)]
        fn products<const L: usize, const T: usize>(self, w: &[[u8; 64]; L], x: [&[[i8; 4]; L]; T]) -> [I; T] {
            const { assert!(L == 4 || L == 8) }
            assert!(T.is_multiple_of(2));
            let mut out = [self.splat_i(0); T];
            macro_rules! quarters {
                ($i:literal: $($s:literal)*) => {{
                    // Two lanes of rows t and t + 1, then the other two.
                    let mut sums = [self.splat_i(0)[0]; T];
                    $(if $s < L {
                        let two = [0, 1].map(|h| simd!(vld1q_u8(w[$s + h].as_ptr().add(16 * $i))));
                        for t in 0..T / 2 {
                            let eight = |t: usize| simd!(vld1_s8(x[t][$s..].as_flattened().as_ptr()));
                            let x = simd!(vcombine_s8(eight(2 * t), eight(2 * t + 1)));
                            for h in 0..2 {
                                sums[2 * t + h] = simd!(dot!("smmla", "i8mm", sums[2 * t + h], two[h], x, ".16b"));
                            }
                        }
                    })*
                    for t in 0..T / 2 {
                        out[2 * t][$i] = simd!(vuzp1q_s32(sums[2 * t], sums[2 * t + 1]));
                        out[2 * t + 1][$i] = simd!(vuzp2q_s32(sums[2 * t], sums[2 * t + 1]));
                    }
                }};
                ($($i:literal)*) => {$( quarters!($i: 0 2 4 6); )*};
            }
            quarters!(0 1 2 3);
            out
        }
    }
);
