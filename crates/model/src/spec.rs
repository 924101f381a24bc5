//! A model as data.

use alula_graph::{Change, NormKind, Past, RopeStyle, RopeTable, Unary};

/// Everything that distinguishes one decoder from another. Biases, and norms of queries and keys, are not listed:
/// a model has them where its file has their tensors.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Columns of the hidden state.
    pub width: usize,
    /// Entries of the token embedding.
    pub vocab: usize,
    /// Longest sequence that the model was made for.
    pub context: usize,
    /// Factor on token embeddings.
    pub embed_scale: Option<f32>,
    /// Entries of a learned position embedding (GPT-2).
    pub positions: Option<usize>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// The norm before the head.
    pub norm: Norm,
    /// The head is the token embedding.
    pub tied: bool,
    /// c tanh(logit / c).
    pub soft_cap: Option<f32>,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// All its norms.
    pub norm: Norm,
    /// Where they stand.
    pub place: Place,
    /// What mixes tokens.
    pub mixer: Mixer,
    /// What works on each token alone.
    pub ffn: Ffn,
}

/// A norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Statistics.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// x += mixer(norm x); x += ffn(norm x).
    Pre,
    /// n = norm x; x += mixer(n) + ffn(n).
    Parallel,
    /// x += norm(mixer(norm x)); x += norm(ffn(norm x)).
    Sandwich,
}

/// What mixes tokens.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Causal attention.
    Attention(Attention),
}

/// Causal attention with grouped heads.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a query or key head.
    pub key_dim: usize,
    /// Columns of a value head.
    pub value_dim: usize,
    /// Index into [`Spec::ropes`].
    pub rope: Option<usize>,
    /// Keys that a query sees, itself among them.
    pub window: Option<usize>,
    /// Factor on scores.
    pub scale: f32,
    /// c tanh(score / c).
    pub soft_cap: Option<f32>,
}

/// What works on each token alone.
#[derive(Clone, Copy, Debug)]
pub enum Ffn {
    /// down(f(up x)).
    Plain {
        /// Function.
        act: Unary,
        /// Columns between.
        width: usize,
    },
    /// down(f(gate x) · up x).
    Gated {
        /// Function.
        act: Unary,
        /// Columns between.
        width: usize,
    },
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Frequencies.
    pub table: RopeTable,
    /// Which elements of a head form a pair.
    pub style: RopeStyle,
}

impl Spec {
    /// Lengths of a sequence with different regimes compute differently from the first token on (LongRoPE, dynamic
    /// NTK): when a sequence's regime changes, it must be computed anew.
    pub fn regime(&self, length: usize) -> usize {
        self.ropes.iter().map(|r| r.table.regime(length)).max().unwrap_or(0)
    }

    /// Whether sequences may be longer than [`context`](Spec::context): dynamic NTK has no limit of its own.
    pub fn endless(&self) -> bool {
        let ntk = |r: &Rope| matches!(&r.table.past, Some(Past { change: Change::Ntk { .. }, .. }));
        self.positions.is_none() && self.ropes.iter().any(ntk)
    }
}
