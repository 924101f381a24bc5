//! The one machine that kernels see.

/// Numbers per vector, on every instruction set.
pub const LANES: usize = 16;

/// A computation that can be entered at any instruction-set level.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The computation. Mark helpers that it calls with the token `#[inline(always)]`: code that is not inlined
    /// here is compiled without the level's instructions.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// An instruction set, as operations on 16 lanes.
///
/// All float operations round to nearest even and keep subnormals. `fma` is one rounding, also where the machine
/// has no such instruction. Implementations are zero-sized tokens.
pub trait Isa: Copy + Send + Sync + 'static {
    /// The name that `ALULA_ISA` takes.
    const NAME: &'static str;
    /// Register tile of matrix kernels: panels of 16 outputs by rows of the left operand, as many as have room for
    /// their accumulators (a hint; never changes bits).
    const TILE: (usize, usize);
    /// Whether [`dot4`](Isa::dot4) is so fast that [`dot4_small`](Isa::dot4_small) gains nothing.
    const DOT4: bool;
    /// Whether [`dot4`](Isa::dot4) takes weights as signed.
    const SIGNED: bool = false;
    /// Whether [`products`](Isa::products) is faster than [`dot4`](Isa::dot4) where weights were prepared for it.
    const PRODUCTS: bool = false;
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 bytes: four per lane.
    type B: Copy;
    /// 32 × i16: two per lane.
    type S: Copy;

    /// Runs a kernel with this level's instructions enabled.
    fn enter<K: Kernel>(self, kernel: K) -> K::Output;

    /// Says that the cache line at `p`, which may be any address, will be read soon.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Lanes from memory.
    fn load(self, p: &[f32; 16]) -> Self::F;
    /// Lanes from IEEE half precision (exact).
    fn load_f16(self, p: &[u16; 16]) -> Self::F;
    /// Lanes from bfloat16 (exact).
    fn load_bf16(self, p: &[u16; 16]) -> Self::F;
    /// Lanes to memory.
    fn store(self, v: Self::F, p: &mut [f32; 16]);
    /// Lanes to IEEE half precision, to nearest even.
    fn store_f16(self, v: Self::F, p: &mut [u16; 16]);
    /// Lanes to bfloat16, to nearest even; NaN stays NaN.
    #[inline(always)]
    fn store_bf16(self, v: Self::F, p: &mut [u16; 16]) {
        let mut lanes = [0.0; 16];
        self.store(v, &mut lanes);
        *p = lanes.map(crate::f32_to_bf16);
    }
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { x } else { y }`, lane by lane.
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Sum of the lanes by the fixed tree: lane i + lane i+8, then +4, +2, +1.
    fn sum(self, v: Self::F) -> f32;
    /// Largest lane, by the same tree of [`max`](Isa::max).
    fn max_lane(self, v: Self::F) -> f32;
    /// Nearest integer, ties to even. Lanes must be within ±2³⁰.
    fn round(self, v: Self::F) -> Self::I;

    /// All lanes `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// Wrapping sum.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping difference.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Lanes shifted left, each by its own number of bits; 32 leave 0.
    fn shl(self, v: Self::I, by: Self::I) -> Self::I;
    /// Integers to floats, to nearest even.
    fn to_f(self, v: Self::I) -> Self::F;
    /// The bits of floats.
    fn bits(self, v: Self::F) -> Self::I;
    /// Floats from bits.
    fn with_bits(self, v: Self::I) -> Self::F;
    /// Integers from memory.
    fn load_i(self, p: &[i32; 16]) -> Self::I;
    /// Lanes from signed bytes.
    fn load_i8(self, p: &[i8; 16]) -> Self::I;
    /// The low bytes of lanes to memory.
    fn store_i8(self, v: Self::I, p: &mut [i8; 16]);
    /// Integers to memory.
    fn store_i(self, v: Self::I, p: &mut [i32; 16]);

    /// Two numbers a lane in bfloat16, as [`store_bf16`](Isa::store_bf16) rounds them: `low` in the lower halves.
    #[inline(always)]
    fn bf16_pairs(self, low: Self::F, high: Self::F) -> Self::I {
        let (mut l, mut h, mut out) = ([0; 16], [0; 16], [0; 16]);
        self.store_bf16(low, &mut l);
        self.store_bf16(high, &mut h);
        for i in 0..16 {
            out[i] = i32::from(l[i]) | i32::from(h[i]) << 16;
        }
        self.load_i(&out)
    }
    /// Byte `n` of each lane, with its sign.
    #[inline(always)]
    fn byte(self, v: Self::B, n: usize) -> Self::I {
        let (mut bytes, mut out) = ([0; 64], [0; 16]);
        self.store_b(v, &mut bytes);
        for i in 0..16 {
            out[i] = i32::from(bytes[4 * i + n] as i8);
        }
        self.load_i(&out)
    }

    /// 64 bytes from memory.
    fn load_b(self, p: &[u8; 64]) -> Self::B;
    /// 64 bytes to memory.
    fn store_b(self, v: Self::B, p: &mut [u8; 64]);
    /// All bytes `x`.
    fn splat_b(self, x: u8) -> Self::B;
    /// Bitwise and.
    fn and_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// Bitwise or.
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// Wrapping difference of bytes.
    fn sub_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// The bits of every pair of bytes (little endian) moved to the right, or to the left if `by` is negative.
    fn shift_b(self, v: Self::B, by: i32) -> Self::B;
    /// A table for [`lookup`](Isa::lookup).
    fn table(self, t: &[u8; 16]) -> Self::B;
    /// `table[index]` for 64 indices, each below 16.
    fn lookup(self, table: Self::B, index: Self::B) -> Self::B;
    /// Per lane: `acc` plus the dot product of the lane's four bytes in `w` with the four signed bytes of `x` (little
    /// endian). The bytes of `w` are unsigned, or signed where [`SIGNED`](Isa::SIGNED) says so. Exact: no intermediate
    /// saturates.
    fn dot4(self, acc: Self::I, w: Self::B, x: i32) -> Self::I;
    /// Two steps of four signed bytes per lane, as [`products`](Isa::products) wants them in memory.
    #[inline(always)]
    fn pair(self, steps: [Self::B; 2]) -> [Self::B; 2] {
        steps
    }
    /// The dot products of `L` steps of weights with those of `T` rows, from nothing; `L` is 4 or 8, and `T`
    /// is even. The lines of `w` are what [`pair`](Isa::pair) made of two steps each.
    #[inline(always)]
    fn products<const L: usize, const T: usize>(self, w: &[[u8; 64]; L], x: [&[[i8; 4]; L]; T]) -> [Self::I; T] {
        let mut out = [self.splat_i(0); T];
        for (out, x) in out.iter_mut().zip(x) {
            let dot = |lane: usize, s: usize| {
                (0..4).map(|k| i32::from(w[s][4 * lane + k] as i8) * i32::from(x[s][k])).sum::<i32>()
            };
            *out = self.load_i(&std::array::from_fn(|lane| (0..L).map(|s| dot(lane, s)).sum()));
        }
        out
    }
    /// No sums yet.
    fn zero_s(self) -> Self::S;
    /// [`dot4`](Isa::dot4) in two halves of two products each. The sums must stay inside an i16.
    fn dot4_small(self, acc: Self::S, w: Self::B, x: i32) -> Self::S;
    /// `acc` plus both halves.
    fn widen(self, acc: Self::I, s: Self::S) -> Self::I;
}
