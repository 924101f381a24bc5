//! Causal convolution over time, each column with its own filter, as state space models have it before their scan.
//!
//! An output element has one accumulator: the bias, then the taps from the oldest token to the newest. Lanes are columns.
#![allow(unsafe_code)]

use crate::buf::Shared;
use crate::state::{Fixed, Open, Runs};
use crate::{Ctx, WORTH_SPLITTING, load_part, store_part};
use alula_simd::{Isa, Kernel, LANES};
use std::ops::Range;

/// Filters.
pub struct Conv {
    taps: usize,
    /// `[taps, columns]`.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// Columns of a task.
const COLUMNS: usize = 4 * LANES;

static ZEROS: [f32; LANES] = [0.0; LANES];

impl Conv {
    /// Filters of `taps` taps, the last for the token itself: `weight` is `[columns, taps]`, `bias` `[columns]`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn new(taps: usize, weight: &[f32], bias: Option<&[f32]>) -> Conv {
        assert!(taps > 0 && weight.len().is_multiple_of(taps));
        let columns = weight.len() / taps;
        assert!(bias.is_none_or(|b| b.len() == columns));
        let transposed = (0..taps).flat_map(|k| (0..columns).map(move |c| weight[c * taps + k])).collect();
        Conv { taps, weight: transposed, bias: bias.map(<[f32]>::to_vec) }
    }

    fn columns(&self) -> usize {
        self.weight.len() / self.taps
    }
}

/// Convolves every run of `x`, `[rows, columns]`, to `out`. The state is the last `taps - 1` rows that a sequence had,
/// oldest first.
///
/// # Panics
/// If the sizes do not fit together.
pub fn conv(ctx: Ctx<'_>, conv: &Conv, state: &mut Fixed, runs: &Runs, x: &[f32], out: &mut [f32]) {
    let columns = conv.columns();
    assert!(x.len() == out.len() && runs.rows() * columns <= x.len());
    let (state, out) = (state.open(runs), Shared::new(out));
    let parts = columns.div_ceil(COLUMNS);
    let worth = runs.rows() * columns * conv.taps > WORTH_SPLITTING;
    ctx.pool.run(runs.all().len() * parts, worth, |task, _| {
        let (run, first) = (task / parts, task % parts * COLUMNS);
        let columns = first..columns.min(first + COLUMNS);
        let rows = runs.all()[run].rows.clone();
        ctx.cpu.run(Task { conv, state: &state, run, rows, columns, x, out: &out });
    });
}

/// Some columns of a run.
struct Task<'a> {
    conv: &'a Conv,
    state: &'a Open<'a>,
    run: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    x: &'a [f32],
    out: &'a Shared<f32>,
}

impl Task<'_> {
    /// `w` columns of row `i` of what the run sees: the state, then its own rows. `None`: zeros.
    #[inline(always)]
    fn seen(&self, i: usize, first: usize, w: usize) -> Option<&[f32]> {
        let (old, columns) = (self.conv.taps - 1, self.conv.columns());
        if i < old {
            let at = i * columns + first;
            return self.state.before(self.run, at..at + w);
        }
        Some(&self.x[(self.rows.start + i - old) * columns + first..][..w])
    }
}

impl Kernel for Task<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (columns, taps) = (self.conv.columns(), self.conv.taps);
        for t in 0..self.rows.len() {
            for first in self.columns.clone().step_by(LANES) {
                let w = LANES.min(self.columns.end - first);
                let mut acc = match &self.conv.bias {
                    Some(b) => load_part(isa, &b[first..first + w]),
                    None => isa.splat(0.0),
                };
                for k in 0..taps {
                    let x = match self.seen(t + k, first, w) {
                        Some(x) => load_part(isa, x),
                        None => isa.splat(0.0),
                    };
                    acc = isa.fma(load_part(isa, &self.conv.weight[k * columns + first..][..w]), x, acc);
                }
                // SAFETY: one task for each column of a row.
                let out = unsafe { self.out.part((self.rows.start + t) * columns + first, w) };
                store_part(isa, acc, out);
            }
        }
        for i in 0..taps - 1 {
            for first in self.columns.clone().step_by(LANES) {
                let w = LANES.min(self.columns.end - first);
                let at = i * columns + first;
                // SAFETY: one task for each column of a run.
                let after = unsafe { self.state.after(self.run, at..at + w) };
                after.copy_from_slice(self.seen(self.rows.len() + i, first, w).unwrap_or(&ZEROS[..w]));
            }
        }
    }
}
