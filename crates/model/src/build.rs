//! From a spec to a graph.

mod ssm;

use crate::weights::Weights;
use crate::{Attention, Ffn, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{Binary, Graph, Index, Op, StateSpec, Unary, ValueId, WeightId};

/// The graph of a decoder: tokens and positions in, logits of the wanted rows out. Declares the weights it uses.
pub(crate) fn build(spec: &Spec, weights: &mut Weights) -> Result<Graph, ModelError> {
    let mut b = Builder { spec, weights, graph: Graph::new(), tables: Vec::new() };
    b.decoder()?;
    Ok(b.graph)
}

struct Builder<'a> {
    spec: &'a Spec,
    weights: &'a mut Weights,
    graph: Graph,
    tables: Vec<ValueId>,
}

type Built = Result<ValueId, ModelError>;

impl Builder<'_> {
    fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId], weights: &[WeightId]) -> Built {
        let file = &self.weights.file;
        self.graph.push(name, op, inputs, weights).map_err(|source| ModelError::Graph { file: file.clone(), source })
    }

    fn weight(&mut self, name: &str, shape: &[usize], first: Option<usize>) -> Result<WeightId, ModelError> {
        let key = self.weights.declare(name, shape, first)?;
        Ok(self.graph.weight(key, shape))
    }

    /// The bias beside a weight, where the file has one.
    fn bias(&mut self, stem: &str, n: usize, first: Option<usize>) -> Result<Option<WeightId>, ModelError> {
        let name = format!("{stem}.bias");
        if self.weights.shape(&name).is_none() {
            return Ok(None);
        }
        self.weight(&name, &[n], first).map(Some)
    }

    /// x · wᵀ (+ b), `n` columns, with rows of `stem` from `first` on where it is a part of a fused matrix.
    fn linear(&mut self, value: &str, stem: &str, x: ValueId, n: usize, first: Option<usize>) -> Built {
        let k = self.graph.shape(x).cols;
        let mut w = vec![self.weight(&format!("{stem}.weight"), &[n, k], first)?];
        w.extend(self.bias(stem, n, first)?);
        let y = self.push(value, Op::MatMul, &[x], &w)?;
        self.scaled(value, y)
    }

    /// A value times its factor, if it has one.
    fn scaled(&mut self, value: &str, x: ValueId) -> Built {
        let part = value.rsplit('.').next().unwrap_or(value);
        match self.spec.factors.iter().find(|f| f.0 == part && f.1 != 1.0) {
            Some(&(_, k)) => self.push(format!("{value}.scaled"), Op::Map(Unary::Scale(k)), &[x], &[]),
            None => Ok(x),
        }
    }

    fn norm(&mut self, stem: &str, norm: Norm, x: ValueId, n: usize) -> Built {
        let mut w = vec![self.weight(&format!("{stem}.weight"), &[n], None)?];
        w.extend(self.bias(stem, n, None)?);
        self.push(stem, Op::Norm { kind: norm.kind, eps: norm.eps }, &[x], &w)
    }

    fn add(&mut self, name: String, a: ValueId, b: ValueId) -> Built {
        self.push(name, Op::Zip(Binary::Add), &[a, b], &[])
    }

    fn decoder(&mut self) -> Result<(), ModelError> {
        let spec = self.spec;
        for (i, rope) in spec.ropes.iter().enumerate() {
            let table = self.push(format!("rope.{i}"), Op::RopeTable(rope.table.clone()), &[], &[])?;
            self.tables.push(table);
        }
        let table = self.weight("token_embd.weight", &[spec.vocab, spec.width], None)?;
        let mut x = self.push("token_embd", Op::Embed(Index::Tokens), &[], &[table])?;
        if let Some(k) = spec.embed_scale {
            x = self.push("token_embd.scaled", Op::Map(Unary::Scale(k)), &[x], &[])?;
        }
        if let Some(n) = spec.positions {
            let table = self.weight("position_embd.weight", &[n, spec.width], None)?;
            let p = self.push("position_embd", Op::Embed(Index::Positions), &[], &[table])?;
            x = self.add("embd".into(), x, p)?;
        }
        for i in 0..spec.layers.len() {
            x = self.layer(i, x)?;
        }
        x = self.push("outputs", Op::Outputs, &[x], &[])?;
        x = self.norm("output_norm", spec.norm, x, spec.width)?;
        let head = if spec.tied { "token_embd" } else { "output" };
        let mut logits = {
            let mut w = vec![self.weight(&format!("{head}.weight"), &[spec.vocab, spec.width], None)?];
            w.extend(self.bias("output", spec.vocab, None)?);
            self.push("logits", Op::MatMul, &[x], &w)?
        };
        if let Some(k) = spec.logit_scale {
            logits = self.push("logits.scaled", Op::Map(Unary::Scale(k)), &[logits], &[])?;
        }
        if let Some(c) = spec.soft_cap {
            logits = self.push("logits.capped", Op::Map(Unary::SoftCap(c)), &[logits], &[])?;
        }
        debug_assert_eq!(self.graph.shape(logits).cols, spec.vocab);
        Ok(())
    }

    fn layer(&mut self, i: usize, x: ValueId) -> Built {
        let layer = &self.spec.layers[i];
        let (width, norm, at) = (self.spec.width, layer.norm, |part: &str| format!("blk.{i}.{part}"));
        let h = self.norm(&at("attn_norm"), norm, x, width)?;
        let mut mixed = match &layer.mixer {
            Mixer::Attention(a) => self.attention(i, a, norm, h)?,
            Mixer::Ssm(s) => self.ssm(i, s, h)?,
            Mixer::Both(a, s) => {
                let (a_in, s_in) = (self.scaled(&at("attn_in"), h)?, self.scaled(&at("ssm_in"), h)?);
                let (a, s) = (self.attention(i, a, norm, a_in)?, self.ssm(i, s, s_in)?);
                self.add(at("attn_ssm"), a, s)?
            }
        };
        let scale = match layer.place {
            Place::Scaled(k) => Some(Op::Map(Unary::Scale(k))),
            _ => None,
        };
        if layer.place == Place::Parallel {
            let f = self.ffn(i, layer.ffn, h)?;
            let sum = self.add(at("attn_ffn"), mixed, f)?;
            return self.add(at("out"), x, sum);
        }
        if layer.place == Place::Sandwich {
            mixed = self.norm(&at("post_attention_norm"), norm, mixed, width)?;
        }
        if let Some(scale) = &scale {
            mixed = self.push(at("attn_scaled"), scale.clone(), &[mixed], &[])?;
        }
        let x = self.add(at("attn_out"), x, mixed)?;
        if matches!(layer.ffn, Ffn::None) {
            return Ok(x);
        }
        let h = self.norm(&at("ffn_norm"), norm, x, width)?;
        let mut f = self.ffn(i, layer.ffn, h)?;
        if layer.place == Place::Sandwich {
            f = self.norm(&at("post_ffw_norm"), norm, f, width)?;
        }
        if let Some(scale) = scale {
            f = self.push(at("ffn_scaled"), scale, &[f], &[])?;
        }
        self.add(at("out"), x, f)
    }

    fn attention(&mut self, i: usize, a: &Attention, norm: Norm, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}");
        let sizes = [a.heads * a.key_dim, a.kv_heads * a.key_dim, a.kv_heads * a.value_dim];
        let fused = self.weights.shape(&at("attn_qkv.weight")).is_some();
        let mut first = 0;
        let mut qkv = [x; 3];
        for ((part, n), out) in ["attn_q", "attn_k", "attn_v"].into_iter().zip(sizes).zip(&mut qkv) {
            *out = if fused {
                self.linear(&at(part), &at("attn_qkv"), x, n, Some(first))?
            } else {
                self.linear(&at(part), &at(part), x, n, None)?
            };
            first += n;
        }
        for (part, v) in ["attn_q_norm", "attn_k_norm"].into_iter().zip(&mut qkv) {
            if self.weights.shape(&at(&format!("{part}.weight"))).is_some() {
                *v = self.norm(&at(part), norm, *v, a.key_dim)?;
            }
        }
        if let Some(r) = a.rope {
            let (table, style) = (self.tables[r], self.spec.ropes[r].style);
            for (part, v) in ["attn_q_rope", "attn_k_rope"].into_iter().zip(&mut qkv) {
                *v = self.push(at(part), Op::Rope { style, head_dim: a.key_dim }, &[*v, table], &[])?;
            }
        }
        let state = self.graph.state(StateSpec::Paged {
            heads: a.kv_heads,
            key_dim: a.key_dim,
            value_dim: a.value_dim,
            window: a.window,
        });
        let op = Op::Attend { state, heads: a.heads, scale: a.scale, soft_cap: a.soft_cap };
        let mixed = self.push(at("attn"), op, &qkv, &[])?;
        self.linear(&at("attn_output"), &at("attn_output"), mixed, self.spec.width, None)
    }

    fn ffn(&mut self, i: usize, ffn: Ffn, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}");
        let h = match ffn {
            Ffn::None => return Ok(x),
            Ffn::Plain { act, width } => {
                let up = self.linear(&at("ffn_up"), &at("ffn_up"), x, width, None)?;
                self.push(at("ffn_act"), Op::Map(act), &[up], &[])?
            }
            Ffn::Gated { act, width } => {
                // Fused files have the gate's rows first in `ffn_up`.
                let fused = self.weights.shape(&at("ffn_gate.weight")).is_none();
                let (gate_stem, gate_first) = if fused { ("ffn_up", Some(0)) } else { ("ffn_gate", None) };
                let gate = self.linear(&at("ffn_gate"), &at(gate_stem), x, width, gate_first)?;
                let up = self.linear(&at("ffn_up"), &at("ffn_up"), x, width, fused.then_some(width))?;
                self.push(at("ffn_act"), Op::Glu(act), &[gate, up], &[])?
            }
        };
        self.linear(&at("ffn_down"), &at("ffn_down"), h, self.spec.width, None)
    }
}
