//! Where tiles of a product lie: the rows, panels and inputs that are worked on between two expansions, and the sums that
//! rest in memory meanwhile.
#![allow(unsafe_code)]
// No closures around vector code: they are compiled without the level's instructions unless inlined.
#![allow(clippy::needless_range_loop)]

use crate::dots;
use crate::matmul::Task;
use crate::quantize::{QBlock, RUNS};
use alula_simd::{Isa, LANES};
use std::array::from_fn;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows that share a chunk at most.
const ROWS: usize = 512;
/// The most rows of a tile.
const MOST: usize = dots::TILE;

/// What is computed between two expansions.
pub(crate) struct Group<const P: usize> {
    pub(crate) panels: [usize; P],
    pub(crate) rows: Range<usize>,
    pub(crate) inputs: Range<usize>,
}

/// Every group of `P` panels, at most [`ROWS`] rows and `chunk` of `all` inputs, inputs ascending. The last panel
/// stands twice in a group that is not full: it is then computed twice.
pub(crate) fn groups<const P: usize>(
    panels: &Range<usize>,
    rows: usize,
    chunk: usize,
    all: usize,
) -> impl Iterator<Item = Group<P>> {
    let end = panels.end;
    let parts = rows.div_ceil(ROWS); // about equal ones, so that each has enough rows for a tile
    panels.clone().step_by(P).flat_map(move |p| {
        (0..parts).flat_map(move |i| {
            let (t, end_row) = (rows * i / parts, rows * (i + 1) / parts);
            (0..all).step_by(chunk).map(move |k| Group {
                panels: from_fn(|i| (p + i).min(end - 1)),
                rows: t..end_row,
                inputs: k..all.min(k + chunk),
            })
        })
    })
}

/// Sums between chunks, of every tile: `[tile, T, P]` vectors.
#[repr(C, align(64))]
pub(crate) struct Sums<const P: usize, const T: usize>([[[f32; LANES]; P]; ROWS + MOST]);

impl<const P: usize, const T: usize> Sums<P, T> {
    /// A tile's sums so far: none at the first input.
    #[inline(always)]
    pub(crate) fn get<I: Isa>(this: &MaybeUninit<Self>, isa: I, tile: usize, input: usize) -> [[I::F; T]; P] {
        let mut acc = [[isa.splat(0.0); T]; P];
        if input > 0 {
            assert!((tile + 1) * T <= ROWS + MOST);
            let rows: *const [[f32; LANES]; P] = this.as_ptr().cast();
            for i in 0..T {
                for p in 0..P {
                    // SAFETY: within the array; `set` wrote it after the chunk before.
                    acc[p][i] = isa.load(unsafe { &(*rows.add(tile * T + i))[p] });
                }
            }
        }
        acc
    }

    /// Where a tile's sums are, which are 0 at the first input.
    #[inline(always)]
    pub(crate) fn rest<I: Isa>(
        this: &mut MaybeUninit<Self>,
        isa: I,
        tile: usize,
        input: usize,
    ) -> *mut [[f32; LANES]; P] {
        if input == 0 {
            Sums::set(this, isa, tile, [[isa.splat(0.0); T]; P]);
        }
        this.as_mut_ptr().cast::<[[f32; LANES]; P]>().wrapping_add(tile * T)
    }

    #[inline(always)]
    pub(crate) fn set<I: Isa>(this: &mut MaybeUninit<Self>, isa: I, tile: usize, acc: [[I::F; T]; P]) {
        assert!((tile + 1) * T <= ROWS + MOST);
        let rows: *mut [[f32; LANES]; P] = this.as_mut_ptr().cast();
        for i in 0..T {
            for p in 0..P {
                // SAFETY: within the array.
                isa.store(acc[p][i], unsafe { &mut (*rows.add(tile * T + i))[p] });
            }
        }
    }
}

/// A tile of `P` panels by `T` rows: where its sums come from and go to.
pub(crate) struct Place<'a, const P: usize, const T: usize> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) group: &'a Group<P>,
    pub(crate) sums: &'a mut MaybeUninit<Sums<P, T>>,
    pub(crate) tile: usize,
}

impl<const P: usize, const T: usize> Place<'_, P, T> {
    /// The tile's first row. The last tile begins earlier if it would not be full; some rows are computed twice then.
    #[inline(always)]
    pub(crate) fn row(&self) -> usize {
        let rows = &self.group.rows;
        assert!(T <= rows.len() && rows.end <= self.task.rows);
        rows.start + (self.tile * T).min(rows.len() - T)
    }

    /// Says that the tile's results will be written soon, if these are the last of `all` inputs. Rows of the result lie
    /// far apart.
    #[inline(always)]
    pub(crate) fn fetch<I: Isa>(&self, isa: I, all: usize) {
        if self.group.inputs.end == all {
            for i in 0..T {
                for panel in self.group.panels {
                    self.task.fetch(isa, panel, self.row() + i);
                }
            }
        }
    }

    /// The group's column of the tile's rows, for groups of runs.
    #[inline(always)]
    pub(crate) fn column<'x>(&self, x: &'x [QBlock]) -> &'x [QBlock] {
        &x[self.group.inputs.start * self.task.rows + self.row() * RUNS..][..T * RUNS]
    }

    #[inline(always)]
    pub(crate) fn get<I: Isa>(&self, isa: I) -> [[I::F; T]; P] {
        Sums::get(self.sums, isa, self.tile, self.group.inputs.start)
    }

    /// `all`: inputs of the product, in the units of the group.
    #[inline(always)]
    pub(crate) fn set<I: Isa>(self, isa: I, all: usize, acc: [[I::F; T]; P]) {
        if self.group.inputs.end == all {
            self.task.put(isa, self.group.panels, self.row(), acc);
        } else {
            Sums::set(self.sums, isa, self.tile, acc);
        }
    }
}
