//! Every level equals the scalar one to the bit; elementary functions keep their stated bounds.

use alula_simd::{Cpu, Isa, Kernel, Scalar, math};

/// A small deterministic generator.
struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// All float operations on one set of inputs, as bits.
struct Everything {
    a: [f32; 16],
    b: [f32; 16],
    c: [f32; 16],
    h: [u16; 16],
    w: [u8; 64],
    x: i32,
}

impl Kernel for Everything {
    type Output = Vec<u32>;
    fn run<I: Isa>(self, isa: I) -> Vec<u32> {
        let (a, b, c) = (isa.load(&self.a), isa.load(&self.b), isa.load(&self.c));
        let mut out = Vec::new();
        let mut put = |v: I::F| {
            let mut lanes = [0f32; 16];
            isa.store(v, &mut lanes);
            // NaN bits differ by operand order; that they are NaN is the contract.
            out.extend(lanes.map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }));
        };
        put(isa.add(a, b));
        put(isa.sub(a, b));
        put(isa.mul(a, b));
        put(isa.div(a, b));
        put(isa.fma(a, b, c));
        put(isa.max(a, b));
        put(isa.min(a, b));
        put(isa.select_lt(a, b, b, c));
        put(isa.load_f16(&self.h));
        put(isa.load_bf16(&self.h));
        for f in [
            math::exp::<I>,
            math::tanh,
            math::erf,
            math::sigmoid,
            math::silu,
            math::gelu,
            math::gelu_tanh,
            math::softplus,
        ] {
            put(f(isa, a));
        }
        let mut h = [0u16; 16];
        isa.store_f16(a, &mut h);
        out.extend(h.map(u32::from));
        isa.store_bf16(a, &mut h);
        out.extend(h.map(u32::from));
        out.push(isa.sum(c).to_bits());
        out.push(isa.max_lane(c).to_bits());
        let table = isa.table(&std::array::from_fn(|i| (i * 37 + 11) as u8));
        let (w, low) = (isa.load_b(&self.w), isa.splat_b(15));
        let moved = [-7, -4, -1, 0, 1, 2, 4, 6].map(|by| isa.shift_b(w, by));
        for v in moved.into_iter().chain([isa.lookup(table, isa.and_b(w, low)), isa.or_b(w, low), isa.sub_b(low, w)]) {
            let mut bytes = [0u8; 64];
            isa.store_b(v, &mut bytes);
            out.extend(bytes.map(u32::from));
            let mut i = [0i32; 16];
            // What a signed level must take off the weights beforehand it adds to the sum.
            let taken = if I::SIGNED { 128 } else { 0 };
            let sum: i32 = self.x.to_le_bytes().iter().map(|&x| i32::from(x as i8)).sum();
            let start = isa.add_i(isa.round(isa.splat(2.5)), isa.splat_i(taken * sum));
            isa.store_i(isa.dot4(start, isa.sub_b(v, isa.splat_b(taken as u8)), self.x), &mut i);
            out.extend(i.map(|v| v as u32));
        }
        let mut i = [0i32; 16];
        for by in [0, 1, 23, 31, 32] {
            let v = isa.shl(isa.bits(b), isa.splat_i(by));
            isa.store_i(v, &mut i);
            out.extend(i.map(|v| v as u32));
            let mut bytes = [0i8; 16];
            isa.store_i8(v, &mut bytes);
            out.extend(bytes.map(|v| v as u32));
        }
        let x = self.x.to_le_bytes().map(|b| (b as i8).max(-127) as u8);
        let small = (0..8).fold(isa.zero_s(), |s, _| isa.dot4_small(s, isa.and_b(w, low), i32::from_le_bytes(x)));
        isa.store_i(isa.widen(isa.load_i8(&std::array::from_fn(|i| self.w[i] as i8)), small), &mut i);
        out.extend(i.map(|v| v as u32));
        for v in [isa.bf16_pairs(a, b), isa.byte(w, 0), isa.byte(w, 1), isa.byte(w, 2), isa.byte(w, 3)] {
            isa.store_i(v, &mut i);
            out.extend(i.map(|v| v as u32));
        }
        out.extend(self.products::<I, 4>(isa));
        out.extend(self.products::<I, 8>(isa));
        out
    }
}

impl Everything {
    /// `L` steps of lines that differ times four rows that differ.
    #[inline(always)]
    fn products<I: Isa, const L: usize>(&self, isa: I) -> Vec<u32> {
        let mut lines = [[0; 64]; L];
        for (s, lines) in lines.as_chunks_mut().0.iter_mut().enumerate() {
            let w = isa.load_b(&self.w);
            let [first, second]: &mut [_; 2] = lines;
            let pair = isa.pair([w, isa.sub_b(w, isa.load_b(&std::array::from_fn(|i| (37 * (i + s)) as u8)))]);
            isa.store_b(pair[0], first);
            isa.store_b(pair[1], second);
        }
        let x: [[[i8; 4]; L]; 4] = std::array::from_fn(|t| {
            std::array::from_fn(|s| self.x.rotate_left((5 * t + s) as u32).to_le_bytes().map(|x| x as i8))
        });
        let mut out = Vec::new();
        for sums in isa.products(&lines, x.each_ref()) {
            let mut i = [0i32; 16];
            isa.store_i(sums, &mut i);
            out.extend(i.map(|v| v as u32));
        }
        out
    }
}

#[test]
fn bfloat16_is_the_nearest_one() {
    let mut r = Rng(7);
    for i in 0..100_000 {
        let x = f32::from_bits(if i < 70_000 { i << 16 | 0x7fff | (i & 1) } else { r.next() as u32 });
        let bits = alula_simd::f32_to_bf16(x);
        let near = |bits: u16| f64::from(f32::from_bits(u32::from(bits) << 16));
        if x.is_nan() {
            assert!(near(bits).is_nan());
        } else if near(bits).is_finite() {
            let error = |bits: u16| (near(bits) - f64::from(x)).abs();
            for other in [bits.wrapping_sub(1), bits.wrapping_add(1)] {
                let even = error(bits) == error(other) && bits.is_multiple_of(2);
                assert!(!near(other).is_finite() || error(bits) < error(other) || even, "{x:e} as {bits:x}");
            }
        }
    }
}

#[test]
fn levels_agree_to_the_bit() {
    let mut r = Rng(0x9e37_79b9_7f4a_7c15);
    let special =
        [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, -1e-40, 65504.0, 65520.0, 6e-8];
    for round in 0..3000 {
        let mut float = |i: usize| match (round, i) {
            (0..200, _) => special[r.next() as usize % special.len()],
            (200..1000, _) => f32::from_bits(r.next() as u32),
            _ => (r.unit() - 0.5) * 20.0,
        };
        let (a, b) = (std::array::from_fn(&mut float), std::array::from_fn(&mut float));
        let c = std::array::from_fn(|_| r.unit() - 0.5);
        let h = std::array::from_fn(|_| r.next() as u16);
        let w = std::array::from_fn(|_| if round % 3 == 0 { 255 } else { r.next() as u8 });
        let x = if round % 3 == 0 { i32::from_le_bytes([0x80; 4]) } else { r.next() as i32 };
        let make = || Everything { a, b, c, h, w, x };
        let want = Scalar.enter(make());
        for cpu in Cpu::all() {
            let got = cpu.run(make());
            let bad = want.iter().zip(&got).position(|(w, g)| w != g);
            assert_eq!(bad, None, "{} differs from scalar in round {round} (word {bad:?})", cpu.name());
        }
    }
}

#[test]
fn half_precision_is_exact() {
    for bits in 0..=u16::MAX {
        let mut out = [0f32; 16];
        Scalar.store(Scalar.load_f16(&[bits; 16]), &mut out);
        let (exp, man) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
        let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
        let want = match exp {
            0 => sign * man * 2f64.powi(-24),
            31 if man == 0.0 => sign * f64::INFINITY,
            31 => f64::NAN,
            _ => sign * (1.0 + man / 1024.0) * 2f64.powi(exp - 15),
        };
        assert!(f64::from(out[0]) == want || want.is_nan() && out[0].is_nan(), "{bits:#x}");
        if !want.is_nan() {
            let mut back = [0u16; 16];
            Scalar.store_f16(out, &mut back);
            assert_eq!(back[0], bits);
        }
    }
}

#[test]
fn half_precision_rounds_to_nearest_even() {
    let store = |x: f32| {
        let mut h = [0u16; 16];
        Scalar.store_f16([x; 16], &mut h);
        h[0]
    };
    let load = |bits: u16| {
        let mut out = [0f32; 16];
        Scalar.store(Scalar.load_f16(&[bits; 16]), &mut out);
        out[0]
    };
    for bits in 0..0x7bff {
        let (a, b) = (load(bits), load(bits + 1));
        let middle = (a + b) / 2.0; // exact
        assert_eq!(store(middle), bits + bits % 2);
        assert_eq!(store(middle.next_down()), bits);
        assert_eq!(store(middle.next_up()), bits + 1);
        assert_eq!(store(-middle.next_up()), (bits + 1) | 0x8000);
    }
    assert_eq!([65519.996, 65520.0, f32::MAX, f32::INFINITY].map(store), [0x7bff, 0x7c00, 0x7c00, 0x7c00]);
    assert!(load(store(f32::from_bits(0x7f80_0001))).is_nan());
}

/// Largest error of `f` against `want` over a dense range: in ULP of the result, and absolute.
fn error(f: impl Fn([f32; 16]) -> [f32; 16], want: impl Fn(f64) -> f64, lo: f32, hi: f32) -> (f64, f64) {
    let steps = 400_000;
    let (mut ulps, mut abs) = (0f64, 0f64);
    for i in 0..=steps {
        let x = lo + (hi - lo) * (i as f32 / steps as f32);
        let (got, want) = (f64::from(f([x; 16])[0]), want(f64::from(x)));
        let ulp = 2f64.powi((want.abs().log2().floor() as i32).max(-126) - 23);
        ulps = ulps.max((got - want).abs() / ulp);
        abs = abs.max((got - want).abs());
    }
    (ulps, abs)
}

/// erf by its Maclaurin series in double precision, good for |x| < 5.
fn erf64(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn functions_keep_their_bounds() {
    let (ulps, _) = error(|x| math::exp(Scalar, x), f64::exp, -87.33, 88.0);
    assert!(ulps <= 1.5, "exp: {ulps} ULP");
    let (ulps, _) = error(|x| math::tanh(Scalar, x), f64::tanh, -10.0, 10.0);
    assert!(ulps <= 3.0, "tanh: {ulps} ULP");
    let (_, abs) = error(|x| math::erf(Scalar, x), erf64, -4.5, 4.5);
    assert!(abs <= 1.5e-7, "erf: {abs}");
    let (_, abs) = error(|x| math::gelu(Scalar, x), |x| x * 0.5 * (1.0 + erf64(x / 2f64.sqrt())), -5.0, 5.0);
    assert!(abs <= 5e-7, "gelu: {abs}");
    assert_eq!(math::exp(Scalar, [f32::NEG_INFINITY; 16])[0], 0.0);
    assert_eq!(math::exp(Scalar, [0.0; 16])[0], 1.0);
    let (_, abs) = error(|x| math::gelu_tanh(Scalar, x), gelu_tanh64, -9.0, 9.0);
    assert!(abs <= 1e-6, "gelu_tanh: {abs}");
    let (ulps, _) = error(|x| math::sigmoid(Scalar, x), |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0);
    assert!(ulps <= 3.0, "sigmoid: {ulps} ULP");
    let (ulps, _) = error(|x| math::silu(Scalar, x), |x| x / (1.0 + (-x).exp()), -80.0, 80.0);
    assert!(ulps <= 3.0, "silu: {ulps} ULP");
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    for (lo, hi) in [(-87.0, -5.0), (-5.0, 5.0), (5.0, 100.0)] {
        let (ulps, _) = error(|x| math::softplus(Scalar, x), softplus, lo, hi);
        assert!(ulps <= 3.0, "softplus from {lo} to {hi}: {ulps} ULP");
    }
}

fn gelu_tanh64(x: f64) -> f64 {
    x * 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

#[test]
fn functions_have_their_limits() {
    type F = fn(Scalar, [f32; 16]) -> [f32; 16];
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // At -∞, a large negative number, a large positive one, +∞.
    let cases: [(&str, F, [f32; 4]); 5] = [
        ("exp", math::exp, [0.0, 0.0, 88f64.exp() as f32, 88f64.exp() as f32]),
        ("tanh", math::tanh, [-1.0, -1.0, 1.0, 1.0]),
        ("erf", math::erf, [-1.0, -1.0, 1.0, 1.0]),
        ("sigmoid", math::sigmoid, [1.0 / 88f32.exp(), 1.0 / 88f32.exp(), 1.0, 1.0]),
        ("softplus", math::softplus, [0.0, 0.0, 1e30, inf]),
    ];
    for (name, f, want) in cases {
        for (x, want) in [-inf, -1e30, 1e30, inf].into_iter().zip(want) {
            let got = f(Scalar, [x; 16])[0];
            assert!(got == want || (got - want).abs() <= want.abs() * 3e-7, "{name}({x}) is {got}, not {want}");
        }
    }
    let all: [F; 8] =
        [math::exp, math::tanh, math::erf, math::sigmoid, math::silu, math::gelu, math::gelu_tanh, math::softplus];
    for f in all {
        for x in [nan, -nan] {
            assert!(f(Scalar, [x; 16])[0].is_nan());
        }
    }
}

#[test]
fn sums_and_maxima_use_the_fixed_tree() {
    struct Tree([f32; 16]);
    impl Kernel for Tree {
        type Output = (f32, f32);
        fn run<I: Isa>(self, isa: I) -> (f32, f32) {
            (isa.sum(isa.load(&self.0)), isa.max_lane(isa.load(&self.0)))
        }
    }
    // Lane i has 2^(2 i): every order of additions rounds differently.
    let v: [f32; 16] =
        std::array::from_fn(|i| 1.7f32 * 4f32.powi((i * 7 % 16) as i32) * if i % 3 == 0 { -1.0 } else { 1.0 });
    let tree = |f: fn(f32, f32) -> f32| {
        let mut v = v.to_vec();
        while v.len() > 1 {
            let half = v.len() / 2;
            v = (0..half).map(|i| f(v[i], v[i + half])).collect();
        }
        v[0]
    };
    for cpu in Cpu::all() {
        assert_eq!(cpu.run(Tree(v)), (tree(|a, b| a + b), tree(f32::max)), "{}", cpu.name());
    }
}

#[test]
fn levels_are_picked_by_name() {
    for cpu in Cpu::all() {
        struct Name;
        impl Kernel for Name {
            type Output = (&'static str, (usize, usize));
            fn run<I: Isa>(self, _: I) -> (&'static str, (usize, usize)) {
                (I::NAME, I::TILE)
            }
        }
        assert_eq!(Cpu::pick(Some(cpu.name())).expect("it is there").name(), cpu.name());
        let (name, tile) = cpu.run(Name);
        assert!(name == cpu.name() && tile >= (1, 1));
    }
    let fastest = Cpu::all().last().map(Cpu::name);
    assert_eq!(Cpu::pick(None).ok().as_ref().map(Cpu::name), fastest);
    assert_eq!(Cpu::pick(Some("")).ok().as_ref().map(Cpu::name), fastest);
    if std::env::var("ALULA_ISA").is_err() {
        assert_eq!(Cpu::from_env().ok().as_ref().map(Cpu::name), fastest);
    }
}

#[test]
fn an_unknown_level_is_refused() {
    let e = Cpu::pick(Some("sse9")).unwrap_err().to_string();
    assert!(e.contains("sse9") && e.contains("scalar"), "{e}");
}
