//! Softmax over rows. The sum runs over 16 lanes in ascending order, then the fixed tree.

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING, load_part, store_part};
use alula_simd::{Isa, Kernel, LANES, math};

/// eˣ over the sum of all of its row, for rows of `cols` elements.
///
/// # Panics
/// If the lengths do not fit.
pub fn softmax(ctx: Ctx<'_>, cols: usize, x: &[f32], out: &mut [f32]) {
    assert!(cols > 0 && x.len() == out.len() && x.len().is_multiple_of(cols));
    let shared = Shared::new(out);
    ctx.pool.run(x.len() / cols, x.len() > WORTH_SPLITTING, |row, _| {
        // SAFETY: one task a row; rows are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(row * cols, cols) };
        ctx.cpu.run(Row { x: &x[row * cols..][..cols], out });
    });
}

struct Row<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Row { x, out } = self;
        let mut max = isa.splat(f32::NEG_INFINITY);
        for c in x.chunks(LANES) {
            max = isa.max(masked(isa, c), max);
        }
        let max = isa.splat(isa.max_lane(max));
        let mut sum = isa.splat(0.0);
        for (c, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let e = math::exp(isa, isa.sub(masked(isa, c), max));
            sum = isa.add(sum, e);
            store_part(isa, e, out);
        }
        let inverse = isa.splat(1.0 / isa.sum(sum));
        for out in out.chunks_mut(LANES) {
            let y = isa.mul(load_part(isa, out), inverse);
            store_part(isa, y, out);
        }
    }
}

/// Up to 16 elements, and -∞ for those that are not there.
#[inline(always)]
fn masked<I: Isa>(isa: I, c: &[f32]) -> I::F {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    match c.first_chunk::<LANES>() {
        Some(full) => isa.load(full),
        None => {
            lanes[..c.len()].copy_from_slice(c);
            isa.load(&lanes)
        }
    }
}
