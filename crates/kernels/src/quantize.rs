//! Activations to 8-bit blocks, the partner of block-quantised weights.

use crate::buf::Shared;
use crate::{Ctx, WORTH_SPLITTING};
use alula_simd::{Isa, Kernel};

/// Elements per block.
pub(crate) const QK: usize = 32;

/// 32 activations, each about its code times the scale.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct QBlock {
    /// Codes, -127..=127.
    pub q: [i8; QK],
    /// Largest magnitude / 127; 0 where that magnitude is below 127 / [`f32::MAX`] and NaN where an element is not
    /// finite: such a block has codes 0, so that sums stay 0 or become NaN.
    pub scale: f32,
    /// Sums of the codes of each half.
    pub sums: [i32; 2],
}

/// Quantises rows of 32-element blocks: `x` holds `32 * out.len()` elements.
pub fn quantize(ctx: Ctx<'_>, x: &[f32], out: &mut [QBlock]) {
    assert_eq!(x.len(), out.len() * QK);
    const CHUNK: usize = 64;
    let n = out.len();
    let shared = Shared::new(out);
    ctx.pool.run(n.div_ceil(CHUNK), x.len() > WORTH_SPLITTING, |task, _| {
        let (start, len) = (task * CHUNK, CHUNK.min(n - task * CHUNK));
        // SAFETY: one task a chunk; chunks are disjoint.
        #[allow(unsafe_code)]
        let out = unsafe { shared.part(start, len) };
        ctx.cpu.run(Blocks { x: &x[start * QK..][..len * QK], out });
    });
}

struct Blocks<'a> {
    x: &'a [f32],
    out: &'a mut [QBlock],
}

impl Kernel for Blocks<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (halves, _) = self.x.as_chunks::<16>();
        for (h, block) in halves.chunks_exact(2).zip(self.out) {
            let v = [isa.load(&h[0]), isa.load(&h[1])];
            let abs = v.map(|v| isa.max(v, isa.sub(isa.splat(0.0), v)));
            let amax = isa.max_lane(isa.max(abs[0], abs[1]));
            // 0 times a number is 0, unless it is infinite or NaN.
            let zero = isa.splat(0.0);
            let finite = isa.sum(isa.fma(v[0], zero, isa.mul(v[1], zero))) == 0.0;
            let inverse = 127.0 / amax;
            if !finite || inverse.is_infinite() {
                *block = QBlock { scale: if finite { 0.0 } else { f32::NAN }, ..QBlock::default() };
                continue;
            }
            let inverse = isa.splat(inverse);
            block.scale = amax / 127.0;
            for (i, v) in v.into_iter().enumerate() {
                let mut q = [0i32; 16];
                isa.store_i(isa.round(isa.mul(v, inverse)), &mut q);
                for (b, q) in block.q[16 * i..].iter_mut().zip(q) {
                    *b = q as i8;
                }
                block.sums[i] = block.q[16 * i..][..16].iter().map(|&q| i32::from(q)).sum();
            }
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
            let mut out = vec![QBlock::default(); 10];
            quantize(Ctx { cpu, pool: &pool }, &x, &mut out);
            for (b, x) in out.iter().zip(x.chunks(32)) {
                let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert_eq!(b.scale, amax / 127.0);
                for (q, x) in b.q.iter().zip(x) {
                    assert!(
                        (f64::from(*q) * f64::from(amax) / 127.0 - f64::from(*x)).abs()
                            <= f64::from(amax) / 254.0 * 1.0001
                    );
                }
                assert_eq!(b.sums[0], b.q[..16].iter().map(|&q| i32::from(q)).sum::<i32>());
                assert_eq!(b.sums[1], b.q[16..].iter().map(|&q| i32::from(q)).sum::<i32>());
            }
        }
    }
}
