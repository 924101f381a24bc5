//! States of fixed size, and which of them a step reads and writes.
#![allow(unsafe_code)]

use crate::Buf;
use crate::buf::Shared;
use std::ops::Range;

/// Neighbouring rows of one sequence, and where its state is before and after them.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its rows, at least one.
    pub rows: Range<usize>,
    /// The copy that it begins with; `None`: all numbers are 0.
    pub from: Option<usize>,
    /// The copy that it leaves behind, which no run of the step begins with.
    pub to: usize,
}

/// The runs of a step. Rows ascend, and no copy that is written is another run's.
#[derive(Debug, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// These runs.
    ///
    /// # Panics
    /// If they are not as said above.
    pub fn new(runs: impl IntoIterator<Item = Run>) -> Runs {
        let mut all = Runs::default();
        runs.into_iter().for_each(|run| all.push(run));
        all
    }

    /// One run more.
    ///
    /// # Panics
    /// If they are then not as said above.
    pub fn push(&mut self, run: Run) {
        assert!(!run.rows.is_empty() && self.rows() <= run.rows.start, "rows must ascend");
        assert!(self.0.iter().all(|other| other.to != run.to), "two runs write one copy");
        let reads = |reader: &Run, writer: &Run| reader.from == Some(writer.to);
        assert!(!reads(&run, &run) && !self.0.iter().any(|other| reads(other, &run) || reads(&run, other)));
        self.0.push(run);
    }

    /// None are left; their memory stays.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All of them.
    pub fn all(&self) -> &[Run] {
        &self.0
    }

    /// Rows up to the end of the last run.
    pub(crate) fn rows(&self) -> usize {
        self.0.last().map_or(0, |r| r.rows.end)
    }
}

/// Copies of one layer's state, each of `len` numbers.
pub struct Fixed {
    floats: Buf,
    len: usize,
}

impl Fixed {
    /// `copies` of `len` zeros; `None` where there is not so much memory.
    pub fn new(copies: usize, len: usize) -> Option<Fixed> {
        Some(Fixed { floats: Buf::try_zeroed(Fixed::size(copies, len)?)?, len })
    }

    /// Bytes that it takes; `None` where that is no number.
    pub fn size(copies: usize, len: usize) -> Option<usize> {
        copies.checked_mul(len)?.checked_mul(4)
    }

    /// Makes the copy `to` what the copy `from` is.
    ///
    /// Panics if there are not so many copies.
    pub fn copy(&mut self, from: usize, to: usize) {
        let len = self.len;
        self.floats.floats_mut().copy_within(from * len..(from + 1) * len, to * len);
    }

    /// The state for these runs.
    pub(crate) fn open<'a>(&'a mut self, runs: &'a Runs) -> Open<'a> {
        Open { len: self.len, floats: Shared::new(self.floats.floats_mut()), runs }
    }
}

/// A state that several threads work on, each on its own part of a run's copy.
pub(crate) struct Open<'a> {
    floats: Shared<f32>,
    len: usize,
    runs: &'a Runs,
}

impl Open<'_> {
    /// Part of what a run begins with, which nobody writes; `None`: zeros.
    pub(crate) fn before(&self, run: usize, part: Range<usize>) -> Option<&[f32]> {
        assert!(part.start <= part.end && part.end <= self.len);
        let from = self.runs.0[run].from?;
        // SAFETY: the copy is inside the buffer, as `get` checks, and no run of the step writes it.
        Some(unsafe { self.floats.get(from * self.len + part.start, part.len()) })
    }

    /// Part of what a run leaves behind.
    ///
    /// # Safety
    /// No two live parts of one run overlap.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts of a slice, as the contract says")]
    pub(crate) unsafe fn after(&self, run: usize, part: Range<usize>) -> &mut [f32] {
        assert!(part.start <= part.end && part.end <= self.len);
        // SAFETY: no two runs write one copy; within a run by the contract.
        unsafe { self.floats.part(self.runs.0[run].to * self.len + part.start, part.len()) }
    }
}
