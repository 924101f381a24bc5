//! The model as the engine sees it.

use alula_device::Batch;

/// What went wrong inside a [`Runner`]: its own error, kept as it is.
pub type RunError = Box<dyn std::error::Error + Send + Sync>;

/// A model with its cache, that computes one step at a time.
///
/// A row's logits may depend only on the tokens of its own sequence up to its position, which the runner finds in
/// its cache through the row's page table and slot, and in the batch itself.
pub trait Runner {
    /// Tokens in the vocabulary: the width of a row of logits.
    fn vocab(&self) -> usize;
    /// Length of the longest sequence that it can compute.
    fn context(&self) -> usize;
    /// A sequence of `length` tokens must be computed anew when its regime changes as it grows: some rotary
    /// embeddings depend on the whole length ([`alula_device::Seq::length`]).
    fn regime(&self, _length: usize) -> usize {
        0
    }
    /// Cache pages, numbered from 0, of [`alula_device::PAGE`] positions each.
    fn pages(&self) -> usize;
    /// Positions that a token sees at most, its own among them, if that is bounded for all layers: page tables may then have
    /// [`alula_device::HOLE`] for pages before those.
    fn window(&self) -> Option<usize> {
        None
    }
    /// Slots, numbered from 0: sequences that it can compute in turns, where it keeps more of them than pages.
    fn slots(&self) -> usize {
        usize::MAX
    }
    /// Checkpoints, numbered from 0, where it keeps states of fixed size in its slots; `None` where all that it keeps of a sequence
    /// is in pages. Then a sequence may begin behind positions that others have computed in pages of its table, and go on
    /// from any position; otherwise only from where its slot stands.
    fn checkpoints(&self) -> Option<usize> {
        None
    }
    /// Keeps what a slot has at `position`, where its last run ended, in a checkpoint.
    fn save(&mut self, _slot: u32, _position: usize, _checkpoint: u32) -> Result<(), RunError> {
        Err("the model has no checkpoints".into())
    }
    /// Puts a slot where a checkpoint stands.
    fn restore(&mut self, _checkpoint: u32, _slot: u32) -> Result<(), RunError> {
        Err("the model has no checkpoints".into())
    }
    /// Rows that one step may have, at least 1.
    fn max_tokens(&self) -> usize;
    /// Rows of logits that one step may give, at least 1.
    fn max_outputs(&self) -> usize {
        self.max_tokens()
    }
    /// Adapters that sequences may have, numbered from 0. A row's logits then depend on those of its sequence too.
    fn adapters(&self) -> usize {
        0
    }
    /// Computes one step. Returns logits `[batch.outputs.len(), vocab]`, row-major, valid until the next call.
    ///
    /// After an error the same step may be asked for again: computing the positions of a sequence's last step twice must be
    /// harmless.
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], RunError>;
    /// The states that the logits of the last run were made of, `[batch.outputs.len(), width]`, row-major; empty where there
    /// are none to see.
    fn hidden(&self) -> &[f32] {
        &[]
    }
    /// Whether it can guess tokens. A model with states of fixed size cannot: after a wrong guess it would have to go on from
    /// a position between two that they stand at.
    fn guesses(&self) -> bool {
        false
    }
    /// Guesses the token after the next one. Each row of `batch` is a token and the position of the one before it, which was
    /// row `rows[i]` of the last run. Returns logits like [`run`](Runner::run). Positions are given in the same order as there,
    /// all that proved right, none left out but those that were found in shared pages: what is kept for guesses is shared with them.
    fn guess(&mut self, _batch: &Batch<'_>, _rows: &[u32]) -> Result<&[f32], RunError> {
        Ok(&[])
    }
}

impl<R: Runner + ?Sized> Runner for Box<R> {
    fn vocab(&self) -> usize {
        (**self).vocab()
    }
    fn context(&self) -> usize {
        (**self).context()
    }
    fn regime(&self, length: usize) -> usize {
        (**self).regime(length)
    }
    fn pages(&self) -> usize {
        (**self).pages()
    }
    fn window(&self) -> Option<usize> {
        (**self).window()
    }
    fn slots(&self) -> usize {
        (**self).slots()
    }
    fn checkpoints(&self) -> Option<usize> {
        (**self).checkpoints()
    }
    fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(), RunError> {
        (**self).save(slot, position, checkpoint)
    }
    fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(), RunError> {
        (**self).restore(checkpoint, slot)
    }
    fn max_tokens(&self) -> usize {
        (**self).max_tokens()
    }
    fn max_outputs(&self) -> usize {
        (**self).max_outputs()
    }
    fn adapters(&self) -> usize {
        (**self).adapters()
    }
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], RunError> {
        (**self).run(batch)
    }
    fn hidden(&self) -> &[f32] {
        (**self).hidden()
    }
    fn guesses(&self) -> bool {
        (**self).guesses()
    }
    fn guess(&mut self, batch: &Batch<'_>, rows: &[u32]) -> Result<&[f32], RunError> {
        (**self).guess(batch, rows)
    }
}
