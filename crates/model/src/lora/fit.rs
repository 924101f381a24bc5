//! Where an adapter meets a model: which of its matrices is for which weight of the graph, and how the graph is changed.

use super::{Adapter, Delta, Target};
use crate::weights::{Fix, Name, Part, Rows, Weights, foreign, transpose};
use crate::{Head, ModelError, Spec};
use alula_format::clip_to;
use alula_graph::{Graph, Low, Op, ValueId, WeightId, WeightSource};
use alula_tensor::{DType, Storage, Tensor};
use std::collections::{BTreeSet, HashSet};

/// Architectures whose GGUF files have the rows of queries and keys permuted, so that neighbours form rotated pairs.
const PERMUTED: &[&str] = &["llama", "mistral", "mixtral", "granite", "granitemoe", "granitehybrid", "bamba"];
/// Architectures whose GGUF files have other numbers than their folders: factors are multiplied in.
const SCALED: &[&str] = &["falcon-h1"];
/// What GGUF files call architectures that have a row of their own here.
const CALLED: &[(&str, &str)] = &[
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("deepseek3", "deepseek2"),
    ("bamba", "granitehybrid"),
    ("roberta", "bert"),
    ("distilbert", "bert"),
    ("falcon_mamba", "mamba"),
];

/// The model that an adapter is for.
#[derive(Clone, Copy)]
pub(crate) struct Host<'a> {
    /// Its architecture's GGUF name, or `spec.toml`.
    pub(crate) arch: &'a str,
    pub(crate) spec: &'a Spec,
    /// What its tensors are called in a Hugging Face folder.
    pub(crate) names: &'a [&'a [Name]],
}

/// A change of one weight of a node.
struct Change<'a> {
    /// Which of the node's weights.
    weight: usize,
    adapter: usize,
    target: &'a str,
    delta: Delta,
}

/// The graph with products of adapters beside those that they are for. Declares their matrices.
pub(crate) fn apply(
    host: Host<'_>,
    graph: &Graph,
    weights: &mut Weights,
    adapters: &[Adapter],
) -> Result<Graph, ModelError> {
    let mut used = vec![BTreeSet::new(); adapters.len()];
    let mut pass = Pass { old: graph, new: Graph::new(), map: vec![ValueId(0); graph.values().len()], weights };
    for state in graph.states() {
        pass.new.state(*state);
    }
    // Products wait until somebody reads their value, so that those of one value with several matrices stay together.
    let mut waiting: Vec<Products> = Vec::new();
    for node in graph.nodes() {
        for products in waiting.extract_if(.., |w| node.inputs.contains(&w.y)) {
            pass.add(products)?;
        }
        let (y, name) = (node.output, &graph.values()[node.output.0].name);
        let inputs: Vec<ValueId> = node.inputs.iter().map(|v| pass.map[v.0]).collect();
        let ids = node.weights.iter().map(|w| &graph.weights()[w.0]);
        let ids: Vec<_> = ids.map(|w| pass.new.weight(w.name.clone(), &w.shape)).collect();
        pass.map[y.0] = pass.push(name.clone(), &node.op, &inputs, &ids)?;
        if !matches!(node.op, Op::MatMul | Op::Embed(_)) {
            continue;
        }
        let changes = changes(host, graph, node, pass.weights, adapters)?;
        let mut all = Products { y, x: inputs.first().copied(), lows: Vec::new(), given: Vec::new() };
        for Change { adapter, target, delta: Delta { a, b, scale, table }, .. } in changes {
            used[adapter].insert(target.to_owned());
            let low = Low { adapter, scale };
            // Matrices that are split share their A.
            let (a, b) = ((format!("lora.{adapter}.{target}.a"), a), (format!("lora.{adapter}.{name}.b"), b));
            if table {
                let id = pass.give(a);
                let x = Some(pass.push(format!("{name}.lora.{adapter}"), &node.op, &[], &[id])?);
                pass.add(Products { y, x, lows: vec![low], given: vec![b] })?;
            } else {
                all.lows.push(low);
                all.given.extend([a, b]);
            }
        }
        if !all.lows.is_empty() {
            waiting.push(all);
        }
    }
    for products in waiting {
        pass.add(products)?;
    }
    graph.kept().iter().for_each(|v| pass.new.keep(pass.map[v.0]));
    let Pass { new, weights, .. } = pass;
    for (adapter, used) in adapters.iter().zip(&used) {
        complete(host, graph, weights, adapter, used, false)?;
    }
    Ok(new)
}

/// A graph on its way to another.
struct Pass<'a> {
    old: &'a Graph,
    new: Graph,
    /// What stands for each value of the old one.
    map: Vec<ValueId>,
    weights: &'a mut Weights,
}

/// Products that are added to a value of the old graph.
struct Products {
    y: ValueId,
    /// What they multiply, in the new graph.
    x: Option<ValueId>,
    lows: Vec<Low>,
    /// Their matrices, by name.
    given: Vec<(String, Tensor)>,
}

impl Pass<'_> {
    fn push(&mut self, name: String, op: &Op, x: &[ValueId], w: &[WeightId]) -> Result<ValueId, ModelError> {
        let file = &self.weights.file;
        self.new.push(name, op.clone(), x, w).map_err(|source| ModelError::Graph { file: file.clone(), source })
    }

    fn give(&mut self, (name, tensor): (String, Tensor)) -> WeightId {
        let id = self.new.weight(name.clone(), tensor.shape());
        self.weights.give(name, tensor);
        id
    }

    fn add(&mut self, p: Products) -> Result<(), ModelError> {
        let ids: Vec<WeightId> = p.given.into_iter().map(|matrix| self.give(matrix)).collect();
        let name = format!("{}.lora", self.old.values()[p.y.0].name);
        let inputs: Vec<ValueId> = [Some(self.map[p.y.0]), p.x].into_iter().flatten().collect();
        self.map[p.y.0] = self.push(name, &Op::Lora(p.lows), &inputs, &ids)?;
        Ok(())
    }
}

/// Has adapters' products, each with a factor, added to the weights when they are read.
pub(crate) fn merge(
    host: Host<'_>,
    graph: &Graph,
    weights: &mut Weights,
    adapters: &[(Adapter, f32)],
) -> Result<(), ModelError> {
    let mut done = HashSet::new();
    for (adapter, factor) in adapters {
        let mut used = BTreeSet::new();
        done.clear();
        for node in graph.nodes() {
            for c in changes(host, graph, node, weights, std::slice::from_ref(adapter))? {
                let key = &graph.weights()[node.weights[c.weight].0].name;
                used.insert(c.target.to_owned());
                let file = || weights.file.clone();
                // Others multiply with the table too, and the adapter is not theirs.
                let shared = (c.delta.table || key.starts_with("token_embd")) && host.spec.tied;
                if shared && host.spec.head == Head::Vocabulary {
                    let why = "is the model's head and its embeddings, of which the adapter changes one; use the adapter without merging it";
                    return Err(ModelError::Tensor { file: file(), tensor: key.clone(), why: why.into() });
                }
                match weights.kind(key).map(|(dtype, _)| dtype) {
                    Ok(DType::F32 | DType::F16 | DType::BF16) => {}
                    Ok(other) => {
                        let why = format!(
                            "is quantised ({other}), and an adapter would be lost in rounding; use it without merging it"
                        );
                        return Err(ModelError::Tensor { file: file(), tensor: key.clone(), why });
                    }
                    Err(why) => return Err(ModelError::Tensor { file: file(), tensor: key.clone(), why }),
                }
                if done.insert(key.clone()) {
                    weights.merge(key.clone(), Delta { scale: c.delta.scale * factor, ..c.delta });
                }
            }
        }
        complete(host, graph, weights, adapter, &used, true)?;
    }
    Ok(())
}

/// What adapters change of a node's weights.
fn changes<'a>(
    host: Host<'_>,
    graph: &Graph,
    node: &alula_graph::Node,
    weights: &Weights,
    adapters: &'a [Adapter],
) -> Result<Vec<Change<'a>>, ModelError> {
    let matrices = match node.op {
        Op::Embed(_) => &node.weights[..1],
        _ => node.matrices(),
    };
    let mut all = Vec::new();
    for (weight, id) in matrices.iter().enumerate() {
        let Some(part) = weights.recipe(&graph.weights()[id.0].name) else { continue };
        let embeds = matches!(node.op, Op::Embed(_));
        // A tied head has the embeddings' tensor and its own adapters.
        let name = if part.name == "token_embd.weight" && !embeds { "output.weight" } else { &part.name };
        let value = &graph.values()[node.output.0].name;
        for (adapter, a) in adapters.iter().enumerate() {
            let site = Site { host, adapter: a, weights, part, name, value, embeds };
            if let Some((target, delta)) = site.delta()? {
                all.push(Change { weight, adapter, target, delta });
            }
        }
    }
    Ok(all)
}

/// Whether everything that an adapter has was used.
fn complete(
    host: Host<'_>,
    graph: &Graph,
    weights: &Weights,
    adapter: &Adapter,
    used: &BTreeSet<String>,
    merged: bool,
) -> Result<(), ModelError> {
    host.check(adapter, weights)?;
    let Some((lone, target)) = adapter.targets.iter().find(|t| !used.contains(t.0)) else { return Ok(()) };
    let parts = graph.weights().iter().filter_map(|w| weights.recipe(&w.name));
    let there = parts.into_iter().any(|p| adapter.find(host, &p.name).is_some_and(|found| found.0 == lone));
    let why = match there {
        true if !merged => {
            "is for a matrix that adapters are not applied to while the model runs; merge it (--lora-merge)"
        }
        _ => "is for a matrix that the model does not have; is the adapter of another model?",
    };
    Err(adapter.wrong(&target.a, why))
}

impl Host<'_> {
    /// Whether the adapter may be for this architecture, and can be read for a file of this form.
    fn check(&self, adapter: &Adapter, weights: &Weights) -> Result<(), ModelError> {
        let other = |why: String| ModelError::Path { path: adapter.file.clone(), why };
        if let Some(arch) = adapter.arch.as_deref().filter(|_| self.arch != crate::written::FILE) {
            let called = CALLED.iter().find(|c| c.0 == self.arch).map_or(self.arch, |c| c.1);
            if arch != self.arch && arch != called {
                return Err(other(format!(
                    "is an adapter of `{}`, but the model is `{called}`; give it to the model that it was made for",
                    clip_to(arch, 96)
                )));
            }
        }
        if SCALED.contains(&self.arch) && adapter.arch.is_some() != weights.is_gguf() {
            return Err(other(format!(
                "and the model are of different forms, which differ in scale for `{}`; give both as GGUF or both as folders",
                self.arch
            )));
        }
        Ok(())
    }
}

impl Adapter {
    /// Its matrices for a tensor of that GGUF name, and how the tensor's rows stand in its own form.
    fn find(&self, host: Host<'_>, name: &str) -> Option<(&String, &Target, Fix)> {
        let (own, fix) = match self.arch {
            Some(_) => (name.to_owned(), Fix::None),
            None => foreign(host.names, name, |n| self.targets.contains_key(n))?,
        };
        self.targets.get_key_value(&own).map(|(name, target)| (name, target, fix))
    }
}

/// A weight of the graph, and an adapter that may be for it.
struct Site<'a, 'b> {
    host: Host<'b>,
    adapter: &'a Adapter,
    weights: &'b Weights,
    part: &'b Part,
    /// GGUF's name of what it is.
    name: &'b str,
    /// What it makes.
    value: &'b str,
    embeds: bool,
}

impl<'a> Site<'a, '_> {
    fn delta(&self) -> Result<Option<(&'a str, Delta)>, ModelError> {
        self.host.check(self.adapter, self.weights)?;
        let ([n, k], Some(all)) = (self.shape(), self.weights.shape(&self.part.name)) else { return Ok(None) };
        let all = all.iter().rev().skip(1).product::<usize>();
        let find = |name: &str| {
            let found = self.adapter.find(self.host, name)?;
            let rows = self.adapter.store.info(&found.1.b).and_then(|i| i.shape().first().copied());
            Some((found, rows.unwrap_or(0)))
        };
        let whole = self.part.rows == Rows::All;
        let own = find(self.name);
        // A table's rows are A's.
        if let Some(((name, target, fix), rows)) = own
            && (rows == all || target.table)
        {
            return self.read(name, target, fix, self.part.rows).map(Some);
        }
        // One of the two has matrices apart that the other has as one: GGUF's gates and ups of Granite's shared experts.
        let split = find(&format!("{}.weight", self.value)).filter(|f| !whole && f.1 == n);
        if let Some(((name, target, fix), _)) = split {
            return self.read(name, target, fix, Rows::All).map(Some);
        }
        let fused = whole && (self.name.contains("ffn_gate") || self.name.contains("ffn_up"));
        let both = find(&self.name.replace("ffn_gate", "ffn_up")).filter(|f| fused && f.1 == 2 * n);
        if let Some(((name, target, fix), _)) = both {
            let first = if self.name.contains("ffn_gate") { 0 } else { n };
            return self.read(name, target, fix, Rows::From(first)).map(Some);
        }
        match own {
            Some(((_, target, _), rows)) => Err(self.other(&target.b, rows, [all, k])),
            None => Ok(None),
        }
    }

    /// Rows and columns of the weight.
    fn shape(&self) -> [usize; 2] {
        match *self.part.shape {
            [n, k] => [n, k],
            _ => [0, 0],
        }
    }

    fn other(&self, tensor: &str, have: usize, [n, k]: [usize; 2]) -> ModelError {
        let why = format!(
            "leads from or to {have}, but the model's `{}` is {n} × {k}; is the adapter of another model?",
            self.name
        );
        self.adapter.wrong(tensor, why)
    }

    fn read(&self, name: &'a str, target: &Target, fix: Fix, rows: Rows) -> Result<(&'a str, Delta), ModelError> {
        let ([n, k], rank) = (self.shape(), target.rank);
        let (a, b) = (self.adapter.matrix(&target.a)?, self.adapter.matrix(&target.b)?);
        let wrong = |e: alula_tensor::ShapeError| self.adapter.wrong(&target.b, e.to_string());
        // The rows that the weight has of its tensor.
        let taken = |t: Tensor, n: usize| {
            let (tensor, shape) = (String::new(), vec![n, t.cols()]);
            Part { tensor, fix, rows, shape, name: String::new() }.take(t, rows).map_err(wrong)
        };
        let scale = target.scale;
        if target.table || self.embeds {
            if !(target.table && self.embeds) {
                let why = "looks up tokens where the model multiplies, or the other way round";
                return Err(self.adapter.wrong(&target.a, why));
            }
            let a = if self.adapter.arch.is_some() { a } else { transpose(&a).map_err(wrong)? };
            let first = if let Rows::From(first) = rows { first } else { 0 };
            let have = a.rows();
            if b.rows() != k || have < first.saturating_add(n) || (rows == Rows::All && have != n) {
                return Err(self.other(&target.a, have, [n, k]));
            }
            return Ok((name, Delta { a: taken(a, n)?, b, scale, table: true }));
        }
        let transposed = matches!(rows, Rows::Transposed(_));
        if a.cols() != if transposed { n } else { k } {
            return Err(self.other(&target.a, a.cols(), [n, k]));
        }
        let b = self.permuted(b).map_err(wrong)?;
        let (a, b) = match rows {
            Rows::Transposed(_) => {
                // (B A)ᵀ = Aᵀ Bᵀ, of some of B's rows, which `taken` transposes.
                let part = Part { tensor: String::new(), fix, rows, shape: vec![rank, k], name: String::new() };
                (part.take(b, part.rows).map_err(wrong)?, transpose(&a).map_err(wrong)?)
            }
            _ => (a, taken(b, n)?),
        };
        Ok((name, Delta { a, b, scale, table: false }))
    }

    /// B with its rows as the model's file has them, where its own form has them in another order.
    fn permuted(&self, b: Tensor) -> Result<Tensor, alula_tensor::ShapeError> {
        let to_pairs = match (self.adapter.arch.is_some(), self.weights.is_gguf()) {
            (false, true) => true,
            (true, false) => false,
            _ => return Ok(b),
        };
        let layer = self.name.strip_prefix("blk.").and_then(|r| r.split_once('.'));
        let Some((layer, part @ ("attn_q.weight" | "attn_k.weight"))) = layer else { return Ok(b) };
        let layer = layer.parse().ok().and_then(|i: usize| self.host.spec.layers.get(i));
        let Some(attention) = layer.and_then(|l| l.mixer.attention()) else { return Ok(b) };
        let heads = if part.starts_with("attn_q") { attention.heads } else { attention.kv_heads };
        if !PERMUTED.contains(&self.host.arch) || b.rows() != heads * attention.key_dim {
            return Ok(b);
        }
        let (dim, mut bytes) = (attention.key_dim, Vec::with_capacity(b.bytes().len()));
        for row in 0..b.rows() {
            let (head, i) = (row / dim * dim, row % dim);
            // Halves (i, i + dim/2) are pairs (2i, 2i + 1).
            let from = if to_pairs { i % 2 * (dim / 2) + i / 2 } else { i % (dim / 2) * 2 + i / (dim / 2) };
            bytes.extend_from_slice(b.row_bytes(head + from));
        }
        let range = 0..bytes.len();
        Tensor::new(b.dtype(), b.shape().to_vec(), Storage::from(bytes), range)
    }
}
