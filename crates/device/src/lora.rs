//! Which rows of a step have which adapters.

use crate::Batch;
use alula_graph::Dim;
use std::ops::Range;

/// Runs of rows with an adapter, and its factor there.
type Runs = Vec<(Range<usize>, f32)>;

/// Of each adapter, the runs among the rows of tokens, and among those of results.
pub(crate) struct Adapted(Vec<[Runs; 2]>);

impl Adapted {
    /// For a batch of a graph that has so many adapters. `row_seq` says which sequence a token's row is of.
    pub(crate) fn new(batch: &Batch<'_>, adapters: usize, row_seq: &[u32]) -> Adapted {
        let mut all = vec![[Runs::new(), Runs::new()]; adapters];
        if batch.seqs.iter().all(|s| s.adapters.is_empty()) {
            return Adapted(all);
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
        Adapted(all)
    }

    /// The runs of an adapter among rows of that kind, with `scale` times its factor.
    pub(crate) fn runs(&self, adapter: usize, rows: Dim, scale: f32) -> Runs {
        let runs = &self.0[adapter][usize::from(rows == Dim::Outputs)];
        runs.iter().map(|(rows, own)| (rows.clone(), own * scale)).collect()
    }
}
