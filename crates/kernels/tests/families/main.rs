//! Every op family against a plain double-precision reference, and to the bit over instruction sets, threads and
//! batches. Each file has one table of cases.

mod attend;
mod conv;
mod experts;
mod lora;
mod map;
mod matmul;
mod norm;
mod quantize;
mod rope;
mod scan;

use alula_kernels::{Ctx, Pool};
use alula_simd::Cpu;

/// Numbers that look random and are the same each time.
struct Rng(u64);

impl Rng {
    fn new(seed: usize) -> Rng {
        Rng((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// In [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

/// Calls `f` for every instruction set of this machine with one thread and with two.
fn everywhere(mut f: impl FnMut(Ctx<'_>, &str)) {
    let pools = [Pool::new(1), Pool::new(2)];
    for cpu in Cpu::all() {
        for pool in &pools {
            f(Ctx { cpu, pool }, &format!("{} with {} threads", cpu.name(), pool.threads()));
        }
    }
}

/// The level that the reference results are computed at before the others are compared with it.
fn scalar<R>(f: impl FnOnce(Ctx<'_>) -> R) -> R {
    f(Ctx { cpu: Cpu::all()[0], pool: &Pool::new(1) })
}

/// The rows that calls are made with.
const ROWS: [usize; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 23, 33, 65, 130];

/// Equal bits; any NaN equals any other.
#[track_caller]
fn same(got: &[f32], want: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan(), "{what}: element {i} is {g:e}, not {w:e}");
    }
}

/// Every element within its own bound.
#[track_caller]
fn within(got: &[f32], want: impl IntoIterator<Item = (f64, f64)>, what: &dyn std::fmt::Display) {
    let mut n = 0;
    for (i, (&g, (w, bound))) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= bound, "{what}: element {i} is {g:e}, not {w:e} ± {bound:e}");
        n += 1;
    }
    assert_eq!(got.len(), n, "{what}");
}

/// Half the distance between 1 and the next number.
const EPS: f64 = f32::EPSILON as f64 / 2.0;
