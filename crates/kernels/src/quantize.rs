//! Activations to 8-bit blocks, the partner of block-quantised weights.

use crate::buf::Shared;
use crate::{Ctx, Norm, Unary, WORTH_SPLITTING, map};
use alula_simd::{Isa, Kernel, LANES};

/// Elements per block.
pub(crate) const QK: usize = 32;

/// 32 activations, each about its code times the scale. It fills a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub struct QBlock {
    /// Codes, -127..=127.
    pub q: [i8; QK],
    /// Largest magnitude / 127; 0 where that magnitude is below 2⁻⁸⁰ and NaN where an element is not finite: such a block
    /// has codes 0, so that products stay 0 or become NaN.
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

/// What is quantised: a value, or what is made of one and needed nowhere else.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The elements as they are.
    Plain(&'a [f32]),
    /// Their [`norm`](crate::norm()).
    Norm(Norm<'a>, &'a [f32]),
    /// A function of each, as [`map`](crate::map()) has it.
    Map(Unary, &'a [f32]),
    /// f(gate) · up, as [`glu`](crate::glu()) has it.
    Glu(Unary, &'a [f32], &'a [f32]),
}

impl<'a> Source<'a> {
    /// What is read: two values, or one twice.
    fn parts(self) -> (&'a [f32], &'a [f32]) {
        match self {
            Source::Plain(x) | Source::Map(_, x) | Source::Norm(_, x) => (x, x),
            Source::Glu(_, gate, up) => (gate, up),
        }
    }
}

/// Quantises `[rows, cols]` elements in blocks of 32 along the rows.
///
/// In `out` each row's first 8 blocks come first, row by row, then each row's next 8, and so on: so do the kernels read
/// them. Where a row has no more blocks, nothing is written.
///
/// # Panics
/// If `cols` is not a multiple of 32, or the lengths are not `rows * cols` and [`QBlock::count`].
pub fn quantize(ctx: Ctx<'_>, source: Source<'_>, rows: usize, cols: usize, out: &mut [QBlock]) {
    let (a, b) = source.parts();
    assert!(a.len() == rows * cols && b.len() == a.len());
    quantize_each(ctx, source, rows, (rows, cols), |row| Spot { from: row, first: 0, row, rows }, out);
}

/// Where a row is taken from, and where its blocks go.
pub(crate) struct Spot {
    /// Row of the source.
    pub(crate) from: usize,
    /// The first row of the matrix that it belongs to, among all rows.
    pub(crate) first: usize,
    /// Its row in that matrix, which has `rows`.
    pub(crate) row: usize,
    pub(crate) rows: usize,
}

/// The same for `jobs` rows of several matrices that lie one after another, of `rows` rows together: each says where it comes
/// from and goes to.
///
/// # Panics
/// If `cols` is not a multiple of 32, or a row is not there.
pub(crate) fn quantize_each(
    ctx: Ctx<'_>,
    source: Source<'_>,
    jobs: usize,
    (rows, cols): (usize, usize),
    spot: impl Fn(usize) -> Spot + Sync,
    out: &mut [QBlock],
) {
    let (a, b) = source.parts();
    assert!(cols.is_multiple_of(QK));
    assert_eq!(out.len(), QBlock::count(rows, cols));
    let out = Shared::new(out);
    ctx.pool.run(jobs, jobs * cols > WORTH_SPLITTING, |i, _| {
        let spot = spot(i);
        assert!(spot.row < spot.rows && spot.first + spot.rows <= rows);
        let part = spot.from * cols..(spot.from + 1) * cols;
        let out = out.slice(QBlock::count(spot.first, cols), QBlock::count(spot.rows, cols));
        ctx.cpu.run(Row { source, a: &a[part.clone()], b: &b[part], row: spot.row, rows: spot.rows, out: &out });
    });
}

/// A row.
struct Row<'a> {
    source: Source<'a>,
    a: &'a [f32],
    b: &'a [f32],
    row: usize,
    rows: usize,
    out: &'a Shared<QBlock>,
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Row { source, a, b, row, rows, out } = self;
        let stats = match source {
            Source::Norm(norm, _) => Some(norm.stats(isa, a)),
            _ => None,
        };
        let columns = a.chunks(COLUMN).zip(b.chunks(COLUMN));
        for (i, (a, b)) in columns.enumerate() {
            let mut made = [0.0; COLUMN];
            let made = &mut made[..a.len()];
            let x = match source {
                Source::Plain(_) => a,
                Source::Norm(norm, _) => {
                    norm.apply(isa, stats.unwrap_or_default(), i * COLUMN, a, made);
                    made
                }
                Source::Map(f, _) => {
                    map::each(isa, map::Step::Map(f), a, b, made);
                    made
                }
                Source::Glu(f, ..) => {
                    map::each(isa, map::Step::Glu(f), a, b, made);
                    made
                }
            };
            // SAFETY: a row's columns belong to one task.
            #[allow(unsafe_code)]
            let out = unsafe { out.part((i * rows + row) * RUNS, RUNS) };
            blocks(isa, x.as_chunks().0, out);
        }
    }
}

/// Smaller magnitudes count as 0: they change no sum that anybody sees, and products of subnormal numbers, which their scales
/// would bring, take processors a hundred times as long.
const LEAST: f32 = 8.271_806e-25;

/// Elements of a column.
const COLUMN: usize = RUNS * QK;

/// Quantises up to a column of blocks, in loops that leave the machine to overlap them.
#[inline(always)]
fn blocks<I: Isa>(isa: I, x: &[[f32; LANES]], out: &mut [QBlock]) {
    let (zero, infinity) = (isa.splat(0.0), isa.splat(f32::INFINITY));
    let mut most = [0.0; RUNS];
    for (most, half) in most.iter_mut().zip(x.as_chunks::<2>().0) {
        let v = [isa.load(&half[0]), isa.load(&half[1])];
        // Infinite where the element is not finite.
        let abs = [isa.max(v[0], isa.sub(zero, v[0])), isa.max(v[1], isa.sub(zero, v[1]))];
        let abs =
            [isa.select_lt(abs[0], infinity, abs[0], infinity), isa.select_lt(abs[1], infinity, abs[1], infinity)];
        *most = isa.max_lane(isa.max(abs[0], abs[1]));
    }
    let (mut scales, mut inverses) = ([0.0; RUNS], [0.0; RUNS]);
    for i in 0..RUNS {
        let whole = most[i] < f32::INFINITY;
        let fine = whole && most[i] >= LEAST;
        inverses[i] = if fine { 127.0 / most[i] } else { 0.0 };
        scales[i] = if fine {
            most[i] / 127.0
        } else if whole {
            0.0
        } else {
            f32::NAN
        };
    }
    // NaN, which 0 times what is not finite is too, becomes code 0.
    let mut codes = Codes([[0; LANES]; 2 * RUNS]);
    for (i, (half, codes)) in x.as_chunks::<2>().0.iter().zip(codes.0.as_chunks_mut::<2>().0).enumerate() {
        let inverse = isa.splat(inverses[i]);
        for (half, codes) in half.iter().zip(codes) {
            isa.store_i8(isa.round(isa.mul(isa.load(half), inverse)), codes);
        }
    }
    // Minus the sum of four codes each; where bytes are taken as unsigned, 4 · 128 - Σ (code + 128).
    let mut less = [[0; LANES]; COLUMN / 64];
    let (start, offset) = if I::SIGNED { (0, 0) } else { (4 * 128, 128) };
    for (less, codes) in less.iter_mut().zip(codes.bytes()) {
        let shifted = isa.sub_b(isa.load_b(codes), isa.splat_b(offset));
        isa.store_i(isa.dot4(isa.splat_i(start), shifted, -1), less);
    }
    let halves = less.as_flattened().as_chunks::<4>().0.as_chunks::<2>().0;
    for (i, block) in out.iter_mut().take(x.len() / 2).enumerate() {
        // Nothing is read back from the block: the store would have to be over first.
        let [first, second]: [i32; 2] = [halves[i][0].iter().sum(), halves[i][1].iter().sum()];
        let (both, scale) = (first + second, scales[i]);
        block.q.as_chunks_mut().0.copy_from_slice(&codes.0[2 * i..2 * i + 2]);
        block.scale = scale;
        block.less = [first, second, both];
        block.mins = [scale * first as f32, scale * second as f32, scale * both as f32];
    }
}

/// The codes of a column.
#[repr(align(64))]
struct Codes([[i8; LANES]; 2 * RUNS]);

impl Codes {
    fn bytes(&self) -> &[[u8; 64]; COLUMN / 64] {
        // SAFETY: as many bytes, and every byte is one of either sign.
        #[allow(unsafe_code)]
        unsafe {
            &*self.0.as_ptr().cast()
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
            quantize(Ctx { cpu, pool: &pool }, Source::Plain(&x), 1, 320, &mut out);
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
