//! Element by element: functions of one value, of two, and gated units.

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING, load_part, store_part};
use alula_simd::{Isa, Kernel, LANES, math};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    Relu2,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x · sigmoid(x).
    Silu,
    /// x Φ(x).
    Gelu,
    /// Its tanh approximation.
    GeluTanh,
    /// x · sigmoid(1.702 x).
    GeluQuick,
    /// k x.
    Scale(f32),
    /// c tanh(x / c) (Gemma 2's soft cap).
    SoftCap(f32),
    /// ln(1 + eˣ).
    Softplus,
    /// min(max(x, lo), hi).
    Clamp(f32, f32),
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a · b.
    Mul,
}

impl Unary {
    #[inline(always)]
    pub(crate) fn apply<I: Isa>(self, isa: I, x: I::F) -> I::F {
        match self {
            Unary::Relu => isa.max(isa.splat(0.0), x), // NaN stays NaN
            Unary::Relu2 => {
                let y = isa.max(isa.splat(0.0), x);
                isa.mul(y, y)
            }
            Unary::Sigmoid => math::sigmoid(isa, x),
            Unary::Silu => math::silu(isa, x),
            Unary::Gelu => math::gelu(isa, x),
            Unary::GeluTanh => math::gelu_tanh(isa, x),
            Unary::GeluQuick => isa.mul(x, math::sigmoid(isa, isa.mul(x, isa.splat(1.702)))),
            Unary::Scale(k) => isa.mul(x, isa.splat(k)),
            Unary::SoftCap(c) => isa.mul(math::tanh(isa, isa.div(x, isa.splat(c))), isa.splat(c)),
            Unary::Softplus => math::softplus(isa, x),
            Unary::Clamp(lo, hi) => isa.min(isa.splat(hi), isa.max(isa.splat(lo), x)), // NaN stays NaN
        }
    }
}

/// Elements per task.
const CHUNK: usize = 4096;

/// What is done to elements.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    Map(Unary),
    Zip(Binary),
    Glu(Unary),
}

struct Chunk<'a> {
    step: Step,
    a: &'a [f32],
    b: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Chunk<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        each(isa, self.step, self.a, self.b, self.out);
    }
}

/// `out = step(a, b)`.
///
/// # Panics
/// If they are not of one length.
#[inline(always)]
pub(crate) fn each<I: Isa>(isa: I, step: Step, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    // Not a function with a closure, which would be compiled without the level's instructions where it is not inlined.
    macro_rules! all {
        (|$a:ident, $b:ident| $f:expr) => {{
            let ((a, ends), (b, more_ends), (out, rest)) = (a.as_chunks(), b.as_chunks(), out.as_chunks_mut());
            for i in 0..out.len() {
                let ($a, $b) = (isa.load(&a[i]), isa.load(&b[i]));
                isa.store($f, &mut out[i]);
            }
            if !rest.is_empty() {
                let ($a, $b) = (load_part(isa, ends), load_part(isa, more_ends));
                store_part(isa, $f, rest);
            }
        }};
    }
    match step {
        Step::Map(f) => all!(|a, _b| f.apply(isa, a)),
        Step::Zip(Binary::Add) => all!(|a, b| isa.add(a, b)),
        Step::Zip(Binary::Mul) => all!(|a, b| isa.mul(a, b)),
        Step::Glu(f) => all!(|a, b| isa.mul(f.apply(isa, a), b)),
    }
}

fn run(ctx: Ctx<'_>, step: Step, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == out.len() && b.len() == out.len());
    let n = out.len();
    let shared = Shared::new(out);
    ctx.pool.run(n.div_ceil(CHUNK), n > WORTH_SPLITTING, |task, _| {
        let (start, len) = (task * CHUNK, CHUNK.min(n - task * CHUNK));
        // SAFETY: one task a chunk; chunks are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(start, len) };
        ctx.cpu.run(Chunk { step, a: &a[start..][..len], b: &b[start..][..len], out });
    });
}

/// `out = f(x)`.
pub fn map(ctx: Ctx<'_>, f: Unary, x: &[f32], out: &mut [f32]) {
    run(ctx, Step::Map(f), x, x, out);
}

/// `out = f(a, b)`.
pub fn zip(ctx: Ctx<'_>, f: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
    run(ctx, Step::Zip(f), a, b, out);
}

/// `out = f(gate) · up` (Shazeer 2020, arXiv:2002.05202).
pub fn glu(ctx: Ctx<'_>, f: Unary, gate: &[f32], up: &[f32], out: &mut [f32]) {
    run(ctx, Step::Glu(f), gate, up, out);
}

/// `out = f(x, b)`, with one element of `b` for each row of `cols` elements.
///
/// # Panics
/// If the lengths do not fit.
pub fn zip_rows(ctx: Ctx<'_>, f: Binary, x: &[f32], b: &[f32], cols: usize, out: &mut [f32]) {
    assert!(cols > 0 && x.len() == out.len() && x.len() == b.len() * cols);
    let (n, shared) = (out.len(), Shared::new(out));
    ctx.pool.run(b.len(), n > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * cols, cols) };
        ctx.cpu.run(Row { f, x: &x[row * cols..][..cols], b: b[row], out });
    });
}

struct Row<'a> {
    f: Binary,
    x: &'a [f32],
    b: f32,
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let b = isa.splat(self.b);
        for (x, out) in self.x.chunks(LANES).zip(self.out.chunks_mut(LANES)) {
            let x = load_part(isa, x);
            let y = match self.f {
                Binary::Add => isa.add(x, b),
                Binary::Mul => isa.mul(x, b),
            };
            store_part(isa, y, out);
        }
    }
}
