//! Activations to 8-bit blocks, the partner of block-quantised weights.

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel};

/// Elements per block.
pub(crate) const QK: usize = 32;

/// 32 activations, each about its code times the scale. It fills a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub struct QBlock {
    /// Codes, -127..=127.
    pub q: [i8; QK],
    /// Largest magnitude / 127; 0 where that magnitude is below 127 / [`f32::MAX`] and NaN where an element is not
    /// finite: such a block has codes 0, so that products stay 0 or become NaN.
    pub scale: f32,
    /// Minus the sums of the codes of each half, and of all.
    pub less: [i32; 3],
    /// The same times `scale`: what a weight's minimum is multiplied by.
    pub mins: [f32; 3],
}

/// Blocks of a row that lie together: a column.
pub(crate) const RUNS: usize = 8;

impl QBlock {
    /// Blocks that [`quantize`] writes for `rows` rows of `cols` elements: columns are whole.
    pub fn count(rows: usize, cols: usize) -> usize {
        rows.saturating_mul(cols.div_ceil(QK * RUNS)).saturating_mul(RUNS)
    }
}

/// Quantises `[rows, cols]` elements in blocks of 32 along the rows.
///
/// In `out` each row's first 8 blocks come first, row by row, then each row's next 8, and so on: so do the kernels read
/// them. Where a row has no more blocks, nothing is written.
///
/// # Panics
/// If `cols` is not a multiple of 32, or the lengths are not `rows * cols` and [`QBlock::count`].
pub fn quantize(ctx: Ctx<'_>, x: &[f32], rows: usize, cols: usize, out: &mut [QBlock]) {
    assert!(cols.is_multiple_of(QK) && x.len() == rows * cols && out.len() == QBlock::count(rows, cols));
    /// Columns of a row that are a task.
    const TASK: usize = 8;
    let n = out.len() / RUNS;
    let shared = Shared::new(out);
    ctx.pool.run(n.div_ceil(TASK), x.len() > WORTH_SPLITTING, |task, _| {
        let (first, len) = (task * TASK, TASK.min(n - task * TASK));
        // SAFETY: one task a part; parts are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(first * RUNS, len * RUNS) };
        ctx.cpu.run(Columns { x, rows, cols, first, out });
    });
}

/// Some columns of rows, from the `first` of the result on.
struct Columns<'a> {
    x: &'a [f32],
    rows: usize,
    cols: usize,
    first: usize,
    out: &'a mut [QBlock],
}

impl Kernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, out) in self.out.chunks_exact_mut(RUNS).enumerate() {
            let (column, row) = ((self.first + i) / self.rows, (self.first + i) % self.rows);
            let x = &self.x[row * self.cols..][..self.cols][column * RUNS * QK..];
            each(isa, x, out);
        }
    }
}

/// Quantises as many blocks as there are elements or places for.
#[inline(always)]
fn each<I: Isa>(isa: I, x: &[f32], out: &mut [QBlock]) {
    let (halves, _) = x.as_chunks::<16>();
    let (zero, infinity) = (isa.splat(0.0), isa.splat(f32::INFINITY));
    for (h, block) in halves.chunks_exact(2).zip(out) {
        let v = [isa.load(&h[0]), isa.load(&h[1])];
        // Infinite where the element is not finite.
        let abs = [isa.max(v[0], isa.sub(zero, v[0])), isa.max(v[1], isa.sub(zero, v[1]))];
        let abs =
            [isa.select_lt(abs[0], infinity, abs[0], infinity), isa.select_lt(abs[1], infinity, abs[1], infinity)];
        let amax = isa.max_lane(isa.max(abs[0], abs[1]));
        let inverse = 127.0 / amax;
        if amax == f32::INFINITY || inverse == f32::INFINITY {
            let scale = if amax == f32::INFINITY { f32::NAN } else { 0.0 };
            *block = QBlock { scale, mins: [scale; 3], ..QBlock::default() };
            continue;
        }
        block.scale = amax / 127.0;
        let inverse = isa.splat(inverse);
        let q = [isa.round(isa.mul(v[0], inverse)), isa.round(isa.mul(v[1], inverse))];
        let (bytes, _) = block.q.as_chunks_mut::<16>();
        isa.store_i8(q[0], &mut bytes[0]);
        isa.store_i8(q[1], &mut bytes[1]);
        // Exact: integers below 4096.
        let first = -isa.sum(isa.to_f(q[0]));
        let second = -isa.sum(isa.to_f(q[1]));
        for (i, less) in [first, second, first + second].into_iter().enumerate() {
            // SAFETY: a small integer.
            #[allow(unsafe_code)]
            let whole = unsafe { less.to_int_unchecked() };
            block.less[i] = whole;
            // -0.0 is no integer's.
            block.mins[i] = block.scale * (less + 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use alula_simd::Cpu;

    #[test]
    fn codes_are_the_nearest_ones() {
        let x: Vec<f32> = (0..320).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 37.0).collect();
        let pool = Pool::new(1);
        for cpu in Cpu::all() {
            let mut out = vec![QBlock::default(); 16];
            quantize(Ctx { cpu, pool: &pool }, &x, 1, 320, &mut out);
            for (b, x) in out.iter().zip(x.chunks(32)) {
                let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert_eq!(b.scale, amax / 127.0);
                for (q, x) in b.q.iter().zip(x) {
                    assert!(
                        (f64::from(*q) * f64::from(amax) / 127.0 - f64::from(*x)).abs()
                            <= f64::from(amax) / 254.0 * 1.0001
                    );
                }
                let less = [0..16, 16..32, 0..32].map(|h| -b.q[h].iter().map(|&q| i32::from(q)).sum::<i32>());
                assert_eq!((b.less, b.mins), (less, less.map(|s| b.scale * s as f32)));
            }
        }
    }
}
