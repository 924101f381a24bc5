//! A model as data.

use alula_graph::{Change, NormKind, Past, RopeStyle, RopeTable, Route, Temperature, Unary, Window};
use serde::Deserialize;

/// Everything that distinguishes one transformer from another. Biases, and norms of queries and keys, are not listed:
/// a model has them where its file has their tensors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Rows of its table before that of the first position (RoBERTa).
    #[serde(default)]
    pub first_position: usize,
    /// The token that has the last of these rows wherever it stands, and no position (padding in RoBERTa).
    pub padding: Option<u32>,
    /// Entries of an embedding of token types (BERT).
    pub types: Option<usize>,
    /// A norm of the embeddings (BERT).
    pub embed_norm: Option<Norm>,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Rotary embeddings that layers refer to.
    #[serde(default, deserialize_with = "crate::written::ropes")]
    pub ropes: Vec<Rope>,
    /// The norm before the head, unless layers end with norms of their own ([`Place::Post`]).
    pub norm: Norm,
    /// What is made of the last hidden states.
    #[serde(default)]
    pub head: Head,
    /// The head is the token embedding.
    pub tied: bool,
    /// c tanh(logit / c).
    pub soft_cap: Option<f32>,
    /// The layer that guesses the token after the next one (multi-token prediction, DeepSeek-V3, arXiv:2412.19437).
    #[serde(skip)]
    pub draft: Option<Layer>,
    /// Factor on logits.
    pub logit_scale: Option<f32>,
    /// Queries, keys and values are at most this, and at least its negative (OLMo).
    pub clip: Option<f32>,
    /// Factors on further values, by what they are called in a layer: products such as `attn_k`, and `attn_in` and `ssm_in`,
    /// what attention and a state space side by side begin with.
    #[serde(skip)]
    pub factors: Vec<(&'static str, f32)>,
}

/// What is made of the last hidden states.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Logits over the vocabulary, for each token that is asked for.
    #[default]
    Vocabulary,
    /// Nothing.
    Hidden(Pool),
    /// Scores of the text that the token which is asked for belongs to.
    Classes(Classes),
}

/// Which hidden states stand for the token that is asked for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Its own.
    Token,
    /// The mean of its whole sequence.
    Mean,
}

/// A head that scores texts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// What it scores.
    pub pool: Pool,
    /// It begins with a layer of the model's width with this function.
    pub dense: Option<Unary>,
    /// Then there is a norm.
    pub norm: Option<Norm>,
    /// Scores.
    pub count: usize,
}

/// One layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Statistics.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
}

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Place {
    /// x += mixer(norm x); x += ffn(norm x).
    Pre,
    /// x += k mixer(norm x); x += k ffn(norm x).
    Scaled(f32),
    /// n = norm x; x += mixer(n) + ffn(n).
    Parallel,
    /// x += norm(mixer(norm x)); x += norm(ffn(norm x)).
    Sandwich,
    /// x = norm(x + mixer x); x = norm(x + ffn x).
    Post,
    /// x += mixer x; x += ffn(norm x): x is normalised already.
    Normed,
}

/// What mixes tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixer {
    /// Attention.
    Attention(Attention),
    /// Multi-head latent attention.
    Latent(Latent),
    /// A selective state space.
    Ssm(Ssm),
    /// Both side by side, summed.
    Both(Attention, Ssm),
}

impl Mixer {
    /// Its attention, if it has one.
    pub fn attention(&self) -> Option<&Attention> {
        match self {
            Mixer::Attention(a) | Mixer::Both(a, _) => Some(a),
            Mixer::Ssm(_) | Mixer::Latent(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn attention_mut(&mut self) -> Option<&mut Attention> {
        match self {
            Mixer::Attention(a) | Mixer::Both(a, _) => Some(a),
            Mixer::Ssm(_) | Mixer::Latent(_) => None,
        }
    }

    /// Its state space, if it has one.
    pub fn ssm(&self) -> Option<&Ssm> {
        match self {
            Mixer::Ssm(s) | Mixer::Both(_, s) => Some(s),
            Mixer::Attention(_) | Mixer::Latent(_) => None,
        }
    }
}

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values of all heads are projections of one small
/// latent per token, which alone is remembered. Computed in the absorbed form, prompts too: queries are projected into the
/// latent space, so keys and values are never expanded.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Heads.
    pub heads: usize,
    /// Columns between the two projections of queries, if there are two.
    pub query_rank: Option<usize>,
    /// Columns of the latent.
    pub rank: usize,
    /// Columns of a query or key head that are not rotated.
    pub plain_dim: usize,
    /// Columns that are.
    pub rope_dim: usize,
    /// Columns of a value head.
    pub value_dim: usize,
    /// Index into [`Spec::ropes`].
    pub rope: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Added to the mean square by the norms of latents, which are not the layer's.
    pub eps: f32,
}

/// Attention with grouped heads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Which keys a query sees of those that it may see at all.
    pub window: Option<Window>,
    /// Factor on scores.
    pub scale: f32,
    /// c tanh(score / c).
    pub soft_cap: Option<f32>,
    /// A query sees its past alone.
    #[serde(default = "yes")]
    pub causal: bool,
    /// Heads of queries and keys are normalised as the layer is, without weights, after they are rotated (Llama 4).
    #[serde(default)]
    pub normed: bool,
    /// Queries are made sharper by their positions (Llama 4).
    pub temperature: Option<Temperature>,
}

impl Default for Attention {
    /// Causal, with the scale 1.
    fn default() -> Attention {
        let (heads, kv_heads, key_dim, value_dim) = (0, 0, 0, 0);
        let (rope, window, soft_cap, temperature) = (None, None, None, None);
        let (scale, causal, normed) = (1.0, true, false);
        Attention { heads, kv_heads, key_dim, value_dim, rope, window, scale, soft_cap, causal, normed, temperature }
    }
}

fn yes() -> bool {
    true
}

/// A selective state space: columns are gated, convolved over time, and scanned. Which of its parts have biases is seen
/// from the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssm {
    /// Columns that are scanned.
    pub inner: usize,
    /// Heads of equally many columns; each has a time step.
    pub heads: usize,
    /// Runs of heads that share B and C.
    pub groups: usize,
    /// Hidden numbers of a column.
    pub state: usize,
    /// Tokens that the convolution sees.
    pub taps: usize,
    /// Function after the convolution.
    pub act: Unary,
    /// Where time steps, B and C come from.
    pub kind: SsmKind,
}

/// Two generations of state spaces.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SsmKind {
    /// From the convolved columns, time steps by way of `rank` columns (Mamba, arXiv:2312.00752).
    Mamba {
        /// Columns that time steps are made from.
        rank: usize,
        /// A norm of these columns, of B and of C; it has weights of 1 where the file has none.
        norm: Option<Norm>,
    },
    /// From the layer's input; B and C are convolved too (Mamba-2, arXiv:2405.21060).
    Mamba2 {
        /// A norm of each group, and where it stands.
        norm: Option<(Norm, GateNorm)>,
        /// Least and largest time step.
        limits: Option<(f32, f32)>,
    },
}

/// Where a state space's norm stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GateNorm {
    /// Before the gate.
    Before,
    /// After it.
    After,
}

/// What works on each token alone.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ffn {
    /// Nothing does.
    None,
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
    /// Gated units of which each token has a few.
    Experts(Experts),
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts.
    pub count: usize,
    /// Function.
    pub act: Unary,
    /// Columns between, of each expert.
    pub width: usize,
    /// Scores are sigmoids of the router's logits, each for itself; otherwise their softmax.
    pub sigmoid: bool,
    /// How scores become a choice. A bias for it is found by its tensor.
    pub route: Route,
    /// Weights are factors on what goes into an expert, not on what comes out (Llama 4).
    #[serde(default)]
    pub before: bool,
    /// Columns of a unit that every token has too. A gate on it is found by its tensor.
    pub shared: Option<usize>,
}

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Frequencies.
    pub table: RopeTable,
    /// Which elements of a head form a pair.
    pub style: RopeStyle,
}

impl Default for Norm {
    /// Root mean square with 1e-5.
    fn default() -> Norm {
        Norm { kind: NormKind::Rms, eps: 1e-5 }
    }
}

impl Spec {
    /// Lengths of a sequence with different regimes compute differently from the first token on (LongRoPE, dynamic
    /// NTK): when a sequence's regime changes, it must be computed anew.
    pub fn regime(&self, length: usize) -> usize {
        self.ropes.iter().map(|r| r.table.regime(length)).max().unwrap_or(0)
    }

    /// Matrices that are parts of others: of experts, and of heads of latent attention.
    pub(crate) fn parts(&self) -> usize {
        let each = |l: &Layer| {
            let heads = if let Mixer::Latent(a) = &l.mixer { a.heads } else { 0 };
            heads + if let Ffn::Experts(e) = &l.ffn { e.count } else { 0 }
        };
        self.layers.iter().map(each).sum()
    }

    /// Whether any layer remembers more the longer a sequence is.
    pub fn grows(&self) -> bool {
        self.layers.iter().any(|l| !matches!(l.mixer, Mixer::Ssm(_)))
    }

    /// Whether sequences may be longer than [`context`](Spec::context): dynamic NTK has no limit of its own, nor have state
    /// spaces.
    pub fn endless(&self) -> bool {
        if !self.grows() {
            return self.positions.is_none();
        }
        let ntk = |r: &Rope| matches!(&r.table.past, Some(Past { change: Change::Ntk { .. }, .. }));
        self.positions.is_none() && self.ropes.iter().any(ntk)
    }
}
