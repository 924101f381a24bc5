//! Which rows of a step have which adapters.

use crate::Batch;
use alula_graph::Dim;
use std::ops::Range;

/// Runs of rows with an adapter, and its factor there.
type Runs = Vec<(Range<usize>, f32)>;

/// Of each adapter, the runs among the rows of tokens, and among those of results.
pub(crate) struct Adapted(Vec<[Runs; 2]>);

impl Adapted {
    /// For batches of a graph that has so many adapters; there are no runs yet.
    pub(crate) fn new(adapters: usize) -> Adapted {
        Adapted(vec![[Runs::new(), Runs::new()]; adapters])
    }

    /// How many adapters there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The runs are now those of a batch. `row_seq` says which sequence a token's row is of.
    pub(crate) fn set(&mut self, batch: &Batch<'_>, row_seq: &[u32]) {
        let all = &mut self.0;
        all.as_flattened_mut().iter_mut().for_each(Runs::clear);
        if batch.seqs.iter().all(|s| s.adapters.is_empty()) {
            return;
        }
        let mut add = |side: usize, rows: Range<usize>, seq: usize| {
            for a in batch.seqs[seq].adapters {
                let runs = &mut all[a.index as usize][side];
                match runs.last_mut() {
                    Some((last, scale)) if last.end == rows.start && *scale == a.scale => last.end = rows.end,
                    _ => runs.push((rows.clone(), a.scale)),
                }
            }
        };
        for (i, s) in batch.seqs.iter().enumerate() {
            add(0, s.start..s.start + s.len, i);
        }
        for (i, row) in batch.outputs.iter().enumerate() {
            add(1, i..i + 1, row_seq[*row as usize] as usize);
        }
    }

    /// The runs of an adapter among rows of that kind.
    pub(crate) fn runs(&self, adapter: usize, rows: Dim) -> &[(Range<usize>, f32)] {
        &self.0[adapter][usize::from(rows == Dim::Outputs)]
    }
}
