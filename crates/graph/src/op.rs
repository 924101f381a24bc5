//! The op families: what each computes, and the shape of what it makes.
//!
//! To add one: a variant, its row in [`OPS`], its arm in [`Op::def`], and its kernel on each device that supports it.

use crate::{Change, Past, RopeTable, Shape};
use serde::Deserialize;

/// One dimension of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Tokens of the step.
    Tokens,
    /// Rows of the step whose results are wanted.
    Outputs,
    /// A fixed size.
    N(usize),
}

/// What an embedding is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Token ids.
    Tokens,
    /// Positions in the sequence.
    Positions,
    /// Positions among those tokens of the sequence that are not this one, which itself has the row of its number; the first
    /// of the others has the next row (RoBERTa). The sequence must be whole in the step.
    Places(u32),
    /// Types of tokens: which of two texts they are of (BERT).
    Types,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Unary {
    /// max(x, 0).
    Relu,
    /// max(x, 0)² (arXiv:2109.08668).
    Relu2,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x · sigmoid(x) (arXiv:1702.03118).
    Silu,
    /// x Φ(x) (arXiv:1606.08415).
    Gelu,
    /// The tanh approximation of it.
    GeluTanh,
    /// The approximation of it by x · sigmoid(1.702 x).
    GeluQuick,
    /// k x.
    Scale(f32),
    /// c tanh(x / c).
    SoftCap(f32),
    /// ln(1 + eˣ).
    Softplus,
    /// min(max(x, lo), hi).
    Clamp(f32, f32),
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a · b.
    Mul,
}

/// Which statistics a norm uses.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Root mean square (arXiv:1910.07467).
    Rms,
    /// Mean and variance (arXiv:1607.06450).
    Layer,
}

/// Which elements of a head form a rotated pair.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// (i, i + dims/2).
    Halves,
    /// (2i, 2i + 1).
    Pairs,
}

/// Which keys a query sees of those that it may see at all.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged, deny_unknown_fields, expecting = "expected a number of tokens, or `{ chunk = ... }` of them")]
pub enum Window {
    /// So many last ones, its own among them; where attention looks both ways, so many on each side of its own.
    Sliding(usize),
    /// Those of its own chunk: sequences are cut every `chunk` tokens (Llama 4).
    Chunked {
        /// Tokens.
        chunk: usize,
    },
}

impl Window {
    /// Keys that a query sees at most; where attention looks both ways, on each side of its own.
    pub fn most(self) -> usize {
        match self {
            Window::Sliding(n) | Window::Chunked { chunk: n } => n,
        }
    }
}

/// What a layer remembers of a sequence. An allocator needs to know nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateSpec {
    /// Keys and values of every token, in pages.
    Paged {
        /// Key heads.
        heads: usize,
        /// Elements of a key.
        key_dim: usize,
        /// Elements of a value.
        value_dim: usize,
        /// Values are not kept: they are the first elements of the keys (latent attention).
        shared: bool,
        /// Which of them are read.
        window: Option<Window>,
    },
    /// As many numbers however long the sequence is, all 0 before its first token.
    Fixed {
        /// Numbers in single precision.
        len: usize,
    },
}

/// Queries of far positions are made sharper (arXiv:2501.19399): factors of 1 + scale · ln(1 + ⌊(position + 1) / floor⌋).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Temperature {
    /// Tokens that share a factor.
    pub floor: f32,
    /// How fast factors grow.
    pub scale: f32,
}

/// How a token's scores become its experts (Shazeer et al. 2017, arXiv:1701.06538).
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Experts of a token.
    pub used: usize,
    /// Only experts of the best groups are taken (DeepSeek-V2, arXiv:2405.04434).
    pub groups: Option<Groups>,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Factor on weights.
    pub scale: f32,
    /// Scores are logits, and weights the sigmoids of those that are chosen: sigmoids of large logits are all the same.
    #[serde(default)]
    pub sigmoid: bool,
}

/// Groups of neighbouring experts.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Groups in all, at most [`Groups::MOST`].
    pub all: usize,
    /// Groups of a token.
    pub used: usize,
    /// A group is as good as the sum of its best two (DeepSeek-V3, arXiv:2412.19437), else as its best.
    pub two: bool,
}

impl Groups {
    /// No model has more.
    pub const MOST: usize = 64;
}

/// An op family with its attributes. Values are `[rows, columns]`; heads lie side by side in the columns.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Rows of a table: weights `[table [entries, width]]` → `[Tokens, width]`.
    Embed(Index),
    /// x · wᵀ + b: inputs `[x [rows, k]]`, weights `[w [n, k]]` or `[w, b [n]]` → `[rows, n]`.
    MatMul,
    /// Normalises each run of `n` columns: inputs `[x]`, weights `[w [n]]` or `[w, b]` → like x. Weights of shape
    /// `[groups, n]` have a row for each of the `groups` runs that a row of x consists of.
    Norm {
        /// Statistics.
        kind: NormKind,
        /// Added to the variance or mean square.
        eps: f32,
    },
    /// Cosines and sines of the step's positions: → `[Tokens, dims]`.
    RopeTable(RopeTable),
    /// A factor for each of the step's positions: → `[Tokens, 1]`.
    Temperature(Temperature),
    /// Rotates the first `dims` of every `head_dim` columns: inputs `[x, table [Tokens, dims]]` → like x.
    Rope {
        /// Pairing.
        style: RopeStyle,
        /// Columns of a head.
        head_dim: usize,
    },
    /// Attention with the layer's state, which first takes in k and v: inputs `[q, k, v]` →
    /// `[Tokens, heads * value_dim]`. Where values are shared, v is k.
    Attend {
        /// Index into the graph's states.
        state: usize,
        /// Query heads, a multiple of the state's heads.
        heads: usize,
        /// Factor on scores.
        scale: f32,
        /// c tanh(score / c).
        soft_cap: Option<f32>,
        /// Tokens see those before them alone. Else they see all of their sequence, which must be whole in the step.
        causal: bool,
    },
    /// A function of each element.
    Map(Unary),
    /// A function of each pair of elements: inputs `[a, b]`; b may have one column, which then meets all of a.
    Zip(Binary),
    /// f(gate) · up: inputs `[gate, up]` (arXiv:2002.05202).
    Glu(Unary),
    /// The rows whose results are wanted: `[Tokens, n]` → `[Outputs, n]`.
    Outputs,
    /// eˣ over the sum of a row's.
    Softmax,
    /// The experts of each row: inputs `[scores [rows, experts]]`, weights none or `[bias [experts]]`, which counts for the
    /// choice alone → `[rows, 2 used]`: their numbers ascending, then their weights.
    Route(Route),
    /// Gated units that each row's experts compute, weighted and summed: inputs `[x, routes]`, weights the gates `[n, k]` of all
    /// experts, then their ups `[n, k]`, then their downs `[k, n]` → like x.
    Experts {
        /// Function of gates.
        act: Unary,
        /// Weights are factors on what goes into an expert, not on what comes out (Llama 4).
        before: bool,
    },
    /// Products of parts: the columns of x in as many parts as there are weights `[n, k]`, each times its own → all
    /// `[rows, parts * n]`.
    Parts,
    /// What the caller gives for each token: → `[Tokens, columns]`.
    Input(usize),
    /// The columns of two values in turn, for each of so many heads: inputs `[a, b]` → `[rows, a.cols + b.cols]`.
    Concat {
        /// Heads.
        heads: usize,
    },
    /// For each row whose result is wanted, the mean of its sequence's rows, all of which must be in the step:
    /// `[Tokens, n]` → `[Outputs, n]`.
    Mean,
    /// A convolution over time of each column with its own filter, the last tap being the token itself: inputs
    /// `[x [Tokens, c]]`, weights `[w [c, taps]]` or `[w, b [c]]` → like x.
    Conv {
        /// Index into the graph's states: the last `taps - 1` rows of x, `(taps - 1) * c` numbers.
        state: usize,
    },
    /// A selective scan (arXiv:2312.00752, arXiv:2405.21060): each column x of a head has `n` hidden numbers, which every
    /// token changes by h = exp(dt A) h + dt B x and from which it reads y = C·h + D x. Inputs `[x [Tokens, heads * p],
    /// dt [Tokens, heads], B [Tokens, groups * n], C [Tokens, groups * n]]`, weights `[A [heads], D [heads]]` → like x. Where
    /// heads are single columns, A may be `[heads, n]`.
    Scan {
        /// Index into the graph's states: `heads * p * n` numbers.
        state: usize,
        /// Heads: columns that share dt, A and D.
        heads: usize,
        /// Runs of heads that share B and C.
        groups: usize,
    },
    /// Products of low rank that rows of some sequences get beside others (LoRA, arXiv:2106.09685): y + scale · B (A x), summed
    /// over the adapters that a row's sequence has, in this order. Inputs `[y [rows, n], x [rows, k]]`, weights `[A [r, k],
    /// B [n, r]]` for each; of one alone A may be missing, where x is what it makes → like y.
    Lora(Vec<Low>),
}

/// One of the products of [`Op::Lora`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Low {
    /// Number of its adapter.
    pub adapter: usize,
    /// Factor on the product, beside the one that a sequence has for the adapter.
    pub scale: f32,
}

/// Shape of an op's output from those of its inputs and weights, or what is wrong with them.
pub type Infer = fn(op: &Op, inputs: &[&Shape], weights: &[&[usize]], states: &[StateSpec]) -> Result<Shape, String>;

/// One row per op family.
pub struct OpDef {
    /// Name, as `supports` messages and profiles show it.
    pub name: &'static str,
    /// How many values it takes.
    pub inputs: usize,
    /// How many weights it takes, at least and at most.
    pub weights: (usize, usize),
    /// Shape inference.
    pub infer: Infer,
}

/// The op families.
pub static OPS: &[OpDef] = &[
    OpDef { name: "Embed", inputs: 0, weights: (1, 1), infer: embed },
    OpDef { name: "MatMul", inputs: 1, weights: (1, 2), infer: matmul },
    OpDef { name: "Norm", inputs: 1, weights: (1, 2), infer: norm },
    OpDef { name: "RopeTable", inputs: 0, weights: (0, 0), infer: rope_table },
    OpDef { name: "Temperature", inputs: 0, weights: (0, 0), infer: temperature },
    OpDef { name: "Rope", inputs: 2, weights: (0, 0), infer: rope },
    OpDef { name: "Attend", inputs: 3, weights: (0, 0), infer: attend },
    OpDef { name: "Map", inputs: 1, weights: (0, 0), infer: same },
    OpDef { name: "Zip", inputs: 2, weights: (0, 0), infer: zip },
    OpDef { name: "Glu", inputs: 2, weights: (0, 0), infer: same },
    OpDef { name: "Outputs", inputs: 1, weights: (0, 0), infer: outputs },
    OpDef { name: "Softmax", inputs: 1, weights: (0, 0), infer: same },
    OpDef { name: "Route", inputs: 1, weights: (0, 1), infer: route },
    OpDef { name: "Experts", inputs: 2, weights: (3, usize::MAX), infer: experts },
    OpDef { name: "Parts", inputs: 1, weights: (1, usize::MAX), infer: parts },
    OpDef { name: "Input", inputs: 0, weights: (0, 0), infer: input },
    OpDef { name: "Concat", inputs: 2, weights: (0, 0), infer: concat },
    OpDef { name: "Mean", inputs: 1, weights: (0, 0), infer: outputs },
    OpDef { name: "Conv", inputs: 1, weights: (1, 2), infer: conv },
    OpDef { name: "Scan", inputs: 4, weights: (2, 2), infer: scan },
    OpDef { name: "Lora", inputs: 2, weights: (1, usize::MAX), infer: lora },
];

impl Op {
    /// Whether a sequence must be whole in one step: its rows depend on later ones.
    pub fn whole(&self) -> bool {
        matches!(self, Op::Attend { causal: false, .. } | Op::Mean | Op::Embed(Index::Places(_)))
    }

    /// The family's row.
    pub fn def(&self) -> &'static OpDef {
        &OPS[match self {
            Op::Embed(_) => 0,
            Op::MatMul => 1,
            Op::Norm { .. } => 2,
            Op::RopeTable(_) => 3,
            Op::Temperature(_) => 4,
            Op::Rope { .. } => 5,
            Op::Attend { .. } => 6,
            Op::Map(_) => 7,
            Op::Zip(_) => 8,
            Op::Glu(_) => 9,
            Op::Outputs => 10,
            Op::Softmax => 11,
            Op::Route(_) => 12,
            Op::Experts { .. } => 13,
            Op::Parts => 14,
            Op::Input(_) => 15,
            Op::Concat { .. } => 16,
            Op::Mean => 17,
            Op::Conv { .. } => 18,
            Op::Scan { .. } => 19,
            Op::Lora(_) => 20,
        }]
    }
}

type Inferred = Result<Shape, String>;

fn require(ok: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if ok { Ok(()) } else { Err(wrong()) }
}

/// A row per token of the step.
fn tokens(inputs: &[&Shape]) -> Result<(), String> {
    require(inputs.iter().all(|s| s.rows == Dim::Tokens), || "rows are those of outputs, not of tokens".into())
}

fn embed(_: &Op, _: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    match *weights[0] {
        [_, width] if width > 0 => Ok(Shape::new(Dim::Tokens, width)),
        _ => Err(format!("the table must have 2 dimensions and columns, not {:?}", weights[0])),
    }
}

fn matmul(_: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let [n, k] = *weights[0] else { return Err(format!("the matrix must have 2 dimensions, not {:?}", weights[0])) };
    require(inputs[0].cols == k, || format!("{} columns meet a matrix of {k}", inputs[0].cols))?;
    require(n > 0, || "the matrix has no rows".into())?;
    let bias = weights.get(1);
    require(bias.is_none_or(|b| **b == [n]), || format!("the bias is {bias:?}, not [{n}]"))?;
    Ok(Shape::new(inputs[0].rows, n))
}

fn norm(_: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let (cols, w) = (inputs[0].cols, weights[0]);
    match *w {
        [n] => require(n > 0 && cols.is_multiple_of(n), || format!("{cols} columns in groups of {n}"))?,
        [groups, n] => {
            let all = groups.checked_mul(n);
            require(n > 0 && all == Some(cols), || format!("{cols} columns in {groups} groups of {n}"))?;
        }
        _ => return Err(format!("the weight must have 1 or 2 dimensions, not {w:?}")),
    }
    require(weights.get(1).is_none_or(|b| *b == w), || format!("the bias is {:?}, not {w:?}", weights.get(1)))?;
    Ok(*inputs[0])
}

fn rope_table(op: &Op, _: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::RopeTable(t) = op else { return Err("not a RopeTable".into()) };
    let pairs = t.inv_freq.len();
    let complete = match &t.past {
        Some(Past { change: Change::Table(long), .. }) => long.len() == pairs,
        Some(Past { original, change: Change::Ntk { .. } }) => pairs > 1 && *original > 0,
        None => true,
    };
    require(pairs > 0 && complete, || "frequencies are missing".into())?;
    Ok(Shape::new(Dim::Tokens, 2 * pairs))
}

fn temperature(op: &Op, _: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Temperature(t) = op else { return Err("not a Temperature".into()) };
    require(t.floor >= 1.0, || format!("{} tokens cannot share a factor", t.floor))?;
    Ok(Shape::new(Dim::Tokens, 1))
}

fn rope(op: &Op, inputs: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Rope { head_dim, .. } = *op else { return Err("not a Rope".into()) };
    let (x, dims) = (inputs[0], inputs[1].cols);
    require(head_dim >= dims && dims.is_multiple_of(2) && x.cols.is_multiple_of(head_dim), || {
        format!("{dims} rotated dimensions in heads of {head_dim} in {} columns", x.cols)
    })?;
    tokens(inputs)?;
    Ok(*x)
}

fn attend(op: &Op, inputs: &[&Shape], _: &[&[usize]], states: &[StateSpec]) -> Inferred {
    let Op::Attend { state, heads, .. } = *op else { return Err("not an Attend".into()) };
    let Some(&StateSpec::Paged { heads: kv, key_dim, value_dim, shared, .. }) = states.get(state) else {
        return Err(format!("state {state} is missing"));
    };
    require(!shared || value_dim <= key_dim, || format!("values of {value_dim} cannot be parts of keys of {key_dim}"))?;
    let want = [heads * key_dim, kv * key_dim, kv * if shared { key_dim } else { value_dim }];
    let have = [inputs[0].cols, inputs[1].cols, inputs[2].cols];
    let sizes = kv > 0 && heads > 0 && heads.is_multiple_of(kv) && key_dim > 0 && value_dim > 0;
    require(want == have && sizes, || {
        format!("query, key and value columns are {have:?}, not {want:?} ({heads} heads, {kv} key heads)")
    })?;
    tokens(inputs)?;
    Ok(Shape::new(Dim::Tokens, heads * value_dim))
}

/// The state's length is the one given, which must be a number at all.
fn fixed(states: &[StateSpec], state: usize, len: Option<usize>) -> Result<(), String> {
    let right = len.is_some_and(|len| states.get(state) == Some(&StateSpec::Fixed { len }));
    require(right, || format!("state {state} is {:?}, not Fixed of {len:?}", states.get(state)))
}

fn conv(op: &Op, inputs: &[&Shape], weights: &[&[usize]], states: &[StateSpec]) -> Inferred {
    let Op::Conv { state } = *op else { return Err("not a Conv".into()) };
    let [c, taps] = *weights[0] else { return Err(format!("filters must have 2 dimensions, not {:?}", weights[0])) };
    require(c > 0 && taps > 0 && inputs[0].cols == c, || {
        format!("{} columns meet {c} filters of {taps} taps", inputs[0].cols)
    })?;
    let bias = weights.get(1);
    require(bias.is_none_or(|b| **b == [c]), || format!("the bias is {bias:?}, not [{c}]"))?;
    fixed(states, state, (taps - 1).checked_mul(c))?;
    tokens(inputs)?;
    Ok(*inputs[0])
}

fn scan(op: &Op, inputs: &[&Shape], weights: &[&[usize]], states: &[StateSpec]) -> Inferred {
    let Op::Scan { state, heads, groups } = *op else { return Err("not a Scan".into()) };
    let [x, dt, b, c] = [0, 1, 2, 3].map(|i| inputs[i].cols);
    let split = groups > 0 && heads > 0 && heads.is_multiple_of(groups) && x > 0 && x.is_multiple_of(heads);
    require(split && dt == heads && b == c && b > 0 && b.is_multiple_of(groups), || {
        format!("x, dt, B and C have {x}, {dt}, {b} and {c} columns ({heads} heads, {groups} groups)")
    })?;
    let n = b / groups;
    let (a, d) = (weights[0], weights[1]);
    // Only heads of one column have a decay for each hidden number.
    let or = if x == heads { format!(" or [{heads}, {n}]") } else { String::new() };
    require((a == [heads] || x == heads && a == [heads, n]) && d == [heads], || {
        format!("A is {a:?} and D {d:?}; expected [{heads}]{or}, and [{heads}]")
    })?;
    fixed(states, state, x.checked_mul(n))?;
    tokens(inputs)?;
    Ok(*inputs[0])
}

fn same(_: &Op, inputs: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    require(inputs.iter().all(|s| *s == inputs[0]), || format!("shapes differ: {inputs:?}"))?;
    Ok(*inputs[0])
}

fn zip(op: &Op, inputs: &[&Shape], weights: &[&[usize]], states: &[StateSpec]) -> Inferred {
    if inputs[1].cols == 1 && inputs[0].rows == inputs[1].rows {
        return Ok(*inputs[0]);
    }
    same(op, inputs, weights, states)
}

fn route(op: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Route(r) = *op else { return Err("not a Route".into()) };
    let (experts, bias) = (inputs[0].cols, weights.first());
    require(bias.is_none_or(|b| **b == [experts]), || format!("the bias is {bias:?}, not [{experts}]"))?;
    let allowed = match r.groups {
        Some(g) => {
            let divide = g.all > 0 && g.all <= Groups::MOST && experts.is_multiple_of(g.all);
            require(divide && (1..=g.all).contains(&g.used), || format!("{g:?} of {experts} experts cannot be"))?;
            require(!g.two || experts / g.all > 1, || format!("groups of 1 of {experts} experts have no best two"))?;
            experts / g.all * g.used
        }
        None => experts,
    };
    require((1..=allowed).contains(&r.used), || format!("{} of {allowed} experts cannot be used", r.used))?;
    // Numbers of experts are floats.
    require(experts <= 1 << 16, || format!("{experts} experts are too many"))?;
    Ok(Shape::new(inputs[0].rows, 2 * r.used))
}

fn experts(_: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let (x, routes, count) = (inputs[0], inputs[1], weights.len() / 3);
    require(weights.len().is_multiple_of(3), || format!("{} weights are not three of each expert", weights.len()))?;
    let [n, k] = *weights[0] else { return Err(format!("the matrix must have 2 dimensions, not {:?}", weights[0])) };
    require(n > 0 && k == x.cols, || format!("{} columns meet matrices {n} × {k}", x.cols))?;
    let fits = |(i, w): (usize, &&[usize])| **w == if i < 2 * count { [n, k] } else { [k, n] };
    require(weights.iter().enumerate().all(fits), || format!("not all experts are {n} × {k}"))?;
    let used = routes.cols / 2;
    require(routes.rows == x.rows && routes.cols.is_multiple_of(2) && (1..=count).contains(&used), || {
        format!("routes of {} columns do not lead to {count} experts", routes.cols)
    })?;
    Ok(*x)
}

fn parts(_: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let [n, k] = *weights[0] else { return Err(format!("the matrix must have 2 dimensions, not {:?}", weights[0])) };
    require(n > 0 && weights.iter().all(|w| **w == [n, k]), || format!("not all parts are {n} × {k}"))?;
    let cols = weights.len().checked_mul(k);
    require(cols == Some(inputs[0].cols), || {
        format!("{} columns meet {} parts of {k}", inputs[0].cols, weights.len())
    })?;
    let cols = weights.len().checked_mul(n).ok_or("there are too many parts")?;
    Ok(Shape::new(inputs[0].rows, cols))
}

fn input(op: &Op, _: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Input(cols) = *op else { return Err("not an Input".into()) };
    require(cols > 0, || "it has no columns".into())?;
    Ok(Shape::new(Dim::Tokens, cols))
}

fn lora(op: &Op, inputs: &[&Shape], weights: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Lora(parts) = op else { return Err("not a Lora".into()) };
    let (y, x) = (inputs[0], inputs[1]);
    require(y.rows == x.rows, || "it has other rows than what it is added to".into())?;
    let alone = parts.len() == 1 && weights.len() == 1;
    require(alone || weights.len() == 2 * parts.len(), || {
        format!("{} matrices are not two for each of {}", weights.len(), parts.len())
    })?;
    for pair in weights.chunks(if alone { 1 } else { 2 }) {
        let b = pair[pair.len() - 1];
        let r = if alone { x.cols } else { pair[0].first().copied().unwrap_or(0) };
        let fits = r > 0 && b == [y.cols, r] && (alone || pair[0] == [r, x.cols]);
        require(fits, || format!("matrices {pair:?} do not lead from {} columns to {}", x.cols, y.cols))?;
    }
    Ok(*y)
}

fn concat(op: &Op, inputs: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    let Op::Concat { heads } = *op else { return Err("not a Concat".into()) };
    let [a, b] = [inputs[0].cols, inputs[1].cols];
    let fit = heads > 0 && a.is_multiple_of(heads) && b.is_multiple_of(heads) && inputs[0].rows == inputs[1].rows;
    require(fit, || format!("{a} and {b} columns are not those of {heads} heads"))?;
    Ok(Shape::new(inputs[0].rows, a + b))
}

fn outputs(_: &Op, inputs: &[&Shape], _: &[&[usize]], _: &[StateSpec]) -> Inferred {
    require(inputs[0].rows == Dim::Tokens, || "rows are chosen already".into())?;
    Ok(Shape::new(Dim::Outputs, inputs[0].cols))
}
