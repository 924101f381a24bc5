//! The run-time arguments of a plan: the only things that change from step to step.

/// Positions per cache page. Every paged layer keeps its keys and values in pages of this many tokens.
pub const PAGE: usize = 64;

/// What stands in a page table for a page that no row of the run sees.
pub const HOLE: u32 = u32::MAX;

/// One step's tokens, flat over the sequences that share the step.
///
/// Rows of every activation in the step are indexed like `tokens`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// Token ids, `[tokens]`.
    pub tokens: &'a [u32],
    /// Position of each token in its own sequence, `[tokens]`; ascending by one inside a sequence.
    pub positions: &'a [u32],
    /// Type of each token, `[tokens]`, or nothing where all are 0.
    pub types: &'a [u32],
    /// The sequences, in order; together they cover `0..tokens.len()` exactly.
    pub seqs: &'a [Seq<'a>],
    /// Ascending rows whose logits are wanted, `[outputs]`.
    pub outputs: &'a [u32],
    /// What the graph's [`alula_graph::Op::Input`] is, `[tokens, columns]`; nothing where it has none.
    pub hidden: &'a [f32],
}

/// A run of consecutive rows of a [`Batch`] that belong to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Seq<'a> {
    /// First row.
    pub start: usize,
    /// Number of rows, at least 1.
    pub len: usize,
    /// Tokens of the whole sequence as far as it is known, at least up to this run's end. Some rotary embeddings
    /// depend on it; all runs of a sequence must then be computed with the same length.
    pub length: usize,
    /// Page table: page `pages[p / PAGE]` holds position `p`; covers every position up to this run's last. Pages
    /// before the first row's [window](crate::Plan::window) may be anything, as [`HOLE`]. Counts for nothing where no layer keeps pages.
    pub pages: &'a [u32],
    /// Where the states of fixed size are kept, a slot to a sequence; no other run of the batch has it. Counts for nothing
    /// where there are none. A slot remembers the states before and after its last run, so a run begins where that one
    /// ended, where it began (as often as wanted, which makes it undone), or at position 0.
    pub slot: u32,
    /// The adapters of its rows, each once.
    pub adapters: &'a [Adapter],
}

/// An empty list in the memory of another one, for elements of the same size that borrow something else: so a list of what is
/// borrowed for a step can be kept from step to step.
pub fn emptied<T, U>(mut list: Vec<T>) -> Vec<U> {
    list.clear();
    list.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// An adapter of a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapter {
    /// Its number in the graph, see [`alula_graph::Op::Lora`].
    pub index: u32,
    /// Factor on what it adds.
    pub scale: f32,
}
