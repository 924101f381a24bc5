//! From a spec to a graph.

mod ssm;

use crate::weights::{Rows, Weights};
use crate::{Attention, Classes, Ffn, Head, Layer, Mixer, ModelError, Norm, Place, Pool, Spec};
use alula_graph::{Binary, Graph, Index, Op, StateSpec, Unary, ValueId, WeightId};

mod experts;
mod latent;

/// The graph of a model: tokens and positions in, what its head makes of the wanted rows out. Declares the weights it uses.
pub(crate) fn build(spec: &Spec, weights: &mut Weights) -> Result<Graph, ModelError> {
    let mut b = Builder { spec, weights, graph: Graph::new(), tables: Vec::new() };
    b.model()?;
    Ok(b.graph)
}

/// The graph that guesses the token after the next one, if the model has a layer for it: the next token and what the layers
/// made of the token before it in, logits out. Both stand at the position of the latter.
pub(crate) fn draft(spec: &Spec, weights: &mut Weights) -> Result<Option<Graph>, ModelError> {
    let Some(layer) = &spec.draft else { return Ok(None) };
    let mut b = Builder { spec, weights, graph: Graph::new(), tables: Vec::new() };
    b.guess(layer)?;
    Ok(Some(b.graph))
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

    fn weight(&mut self, name: &str, shape: &[usize], rows: Rows) -> Result<WeightId, ModelError> {
        let key = self.weights.declare(name, shape, rows)?;
        Ok(self.graph.weight(key, shape))
    }

    /// The bias beside a weight, where the file has one.
    fn bias(&mut self, stem: &str, n: usize, rows: Rows) -> Result<Option<WeightId>, ModelError> {
        let name = format!("{stem}.bias");
        if self.weights.shape(&name).is_none() {
            return Ok(None);
        }
        self.weight(&name, &[n], rows).map(Some)
    }

    /// x · wᵀ (+ b), `n` columns, with these rows of `stem` where it is a part of a fused matrix.
    fn linear(&mut self, value: &str, stem: &str, x: ValueId, n: usize, rows: Rows) -> Built {
        let k = self.graph.shape(x).cols;
        let mut w = vec![self.weight(&format!("{stem}.weight"), &[n, k], rows)?];
        w.extend(self.bias(stem, n, rows)?);
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
        let mut w = vec![self.weight(&format!("{stem}.weight"), &[n], Rows::All)?];
        w.extend(self.bias(stem, n, Rows::All)?);
        self.push(stem, Op::Norm { kind: norm.kind, eps: norm.eps }, &[x], &w)
    }

    fn add(&mut self, name: String, a: ValueId, b: ValueId) -> Built {
        self.push(name, Op::Zip(Binary::Add), &[a, b], &[])
    }

    /// Cosines, sines and token embeddings.
    fn start(&mut self) -> Built {
        let spec = self.spec;
        for (i, rope) in spec.ropes.iter().enumerate() {
            let table = self.push(format!("rope.{i}"), Op::RopeTable(rope.table.clone()), &[], &[])?;
            self.tables.push(table);
        }
        let table = self.weight("token_embd.weight", &[spec.vocab, spec.width], Rows::All)?;
        let x = self.push("token_embd", Op::Embed(Index::Tokens), &[], &[table])?;
        match spec.embed_scale {
            Some(k) => self.push("token_embd.scaled", Op::Map(Unary::Scale(k)), &[x], &[]),
            None => Ok(x),
        }
    }

    fn model(&mut self) -> Result<(), ModelError> {
        let spec = self.spec;
        let mut x = self.start()?;
        if let Some(n) = spec.types {
            let table = self.weight("token_types.weight", &[n, spec.width], Rows::All)?;
            let t = self.push("token_types", Op::Embed(Index::Types), &[], &[table])?;
            x = self.add("token_embd.typed".into(), x, t)?;
        }
        if let Some(n) = spec.positions {
            let (n, rows, index) = match (spec.first_position, spec.padding) {
                (0, _) => (n, Rows::All, Index::Positions),
                (first, None) => (n, Rows::From(first), Index::Positions),
                (first, Some(pad)) => (n.saturating_add(first), Rows::All, Index::Places(pad)),
            };
            let table = self.weight("position_embd.weight", &[n, spec.width], rows)?;
            let p = self.push("position_embd", Op::Embed(index), &[], &[table])?;
            x = self.add("embd".into(), x, p)?;
        }
        if let Some(norm) = spec.embed_norm {
            x = self.norm("token_embd_norm", norm, x, spec.width)?;
        }
        for (i, layer) in spec.layers.iter().enumerate() {
            x = self.layer(i, layer, x)?;
        }
        if spec.draft.is_some() {
            self.graph.keep(x);
        }
        match spec.head {
            Head::Vocabulary => {
                let x = self.hidden(Pool::Token, "output_norm", x)?;
                // It is a text's vector too, where nothing else is said of the model.
                self.graph.keep(x);
                self.logits(x)
            }
            Head::Hidden(pool) => self.hidden(pool, "output_norm", x).map(|_| ()),
            Head::Classes(classes) => self.classes(classes, x),
        }
    }

    /// The last hidden states of the wanted rows, or their sequences' means.
    fn hidden(&mut self, pool: Pool, norm: &str, mut x: ValueId) -> Built {
        let post = self.spec.layers.last().is_some_and(|l| l.place == Place::Post);
        if pool == Pool::Token {
            x = self.push("outputs", Op::Outputs, &[x], &[])?;
        }
        if !post {
            x = self.norm(norm, self.spec.norm, x, self.spec.width)?;
        }
        if pool == Pool::Mean { self.push("mean", Op::Mean, &[x], &[]) } else { Ok(x) }
    }

    fn classes(&mut self, c: Classes, x: ValueId) -> Result<(), ModelError> {
        let mut x = self.hidden(c.pool, "output_norm", x)?;
        if let Some(act) = c.dense {
            x = self.linear("cls", "cls", x, self.spec.width, Rows::All)?;
            x = self.push("cls.act", Op::Map(act), &[x], &[])?;
        }
        if let Some(norm) = c.norm {
            x = self.norm("cls.norm", norm, x, self.spec.width)?;
        }
        self.linear("cls.output", "cls.output", x, c.count, Rows::All).map(|_| ())
    }

    /// Logits of hidden states.
    fn logits(&mut self, x: ValueId) -> Result<(), ModelError> {
        let spec = self.spec;
        let head = if spec.tied { "token_embd" } else { "output" };
        let mut w = vec![self.weight(&format!("{head}.weight"), &[spec.vocab, spec.width], Rows::All)?];
        w.extend(self.bias("output", spec.vocab, Rows::All)?);
        let mut logits = self.push("logits", Op::MatMul, &[x], &w)?;
        if let Some(k) = spec.logit_scale {
            logits = self.push("logits.scaled", Op::Map(Unary::Scale(k)), &[logits], &[])?;
        }
        if let Some(c) = spec.soft_cap {
            self.push("logits.capped", Op::Map(Unary::SoftCap(c)), &[logits], &[])?;
        }
        Ok(())
    }

    fn guess(&mut self, layer: &Layer) -> Result<(), ModelError> {
        let (i, width) = (self.spec.layers.len(), self.spec.width);
        let at = |part: &str| format!("blk.{i}.nextn.{part}");
        let token = self.start()?;
        let token = self.norm(&at("enorm"), layer.norm, token, width)?;
        let before = self.push("hidden", Op::Input(width), &[], &[])?;
        let before = self.norm("output_norm", self.spec.norm, before, width)?;
        let before = self.norm(&at("hnorm"), layer.norm, before, width)?;
        let both = self.push(at("both"), Op::Concat { heads: 1 }, &[token, before], &[])?;
        let x = self.linear(&at("eh_proj"), &at("eh_proj"), both, width, Rows::All)?;
        let x = self.layer(i, layer, x)?;
        let x = self.hidden(Pool::Token, &at("shared_head_norm"), x)?;
        self.logits(x)
    }

    fn layer(&mut self, i: usize, layer: &Layer, x: ValueId) -> Built {
        let (width, norm, at) = (self.spec.width, layer.norm, |part: &str| format!("blk.{i}.{part}"));
        let h = match layer.place {
            Place::Post | Place::Normed => x,
            _ => self.norm(&at("attn_norm"), norm, x, width)?,
        };
        let mut mixed = match &layer.mixer {
            Mixer::Attention(a) => self.attention(i, a, norm, h)?,
            Mixer::Latent(a) => self.latent(i, a, norm, h)?,
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
        let alone = matches!(layer.ffn, Ffn::None);
        if layer.place == Place::Parallel && !alone {
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
        if layer.place == Place::Post {
            let x = self.norm(&at("attn_output_norm"), norm, x, width)?;
            if alone {
                return Ok(x);
            }
            let f = self.ffn(i, layer.ffn, x)?;
            let sum = self.add(at("out"), x, f)?;
            return self.norm(&at("layer_output_norm"), norm, sum, width);
        }
        if alone {
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
        self.weights.whole(&at("attn_qkv.weight"), sizes.iter().sum())?;
        let mut first = 0;
        let mut qkv = [x; 3];
        for ((part, n), out) in ["attn_q", "attn_k", "attn_v"].into_iter().zip(sizes).zip(&mut qkv) {
            *out = if fused {
                self.linear(&at(part), &at("attn_qkv"), x, n, Rows::From(first))?
            } else {
                self.linear(&at(part), &at(part), x, n, Rows::All)?
            };
            first += n;
        }
        for (part, v) in ["attn_q_norm", "attn_k_norm"].into_iter().zip(&mut qkv) {
            // Of each head, or of all together (OLMo).
            let (cols, have) = (self.graph.shape(*v).cols, self.weights.shape(&at(&format!("{part}.weight"))));
            if let Some(have) = have {
                *v = self.norm(&at(part), norm, *v, if have == [cols] { cols } else { a.key_dim })?;
            }
        }
        if let Some(c) = self.spec.clip {
            for (part, v) in ["attn_q_clip", "attn_k_clip", "attn_v_clip"].into_iter().zip(&mut qkv) {
                *v = self.push(at(part), Op::Map(Unary::Clamp(-c, c)), &[*v], &[])?;
            }
        }
        if let Some(r) = a.rope {
            let (table, style) = (self.tables[r], self.spec.ropes[r].style);
            for (part, v) in ["attn_q_rope", "attn_k_rope"].into_iter().zip(&mut qkv) {
                *v = self.push(at(part), Op::Rope { style, head_dim: a.key_dim }, &[*v, table], &[])?;
            }
        }
        if a.normed {
            let ones = self.weights.ones(&[a.key_dim]);
            let ones = self.graph.weight(ones, &[a.key_dim]);
            for (part, v) in ["attn_q_normed", "attn_k_normed"].into_iter().zip(&mut qkv) {
                *v = self.push(at(part), Op::Norm { kind: norm.kind, eps: norm.eps }, &[*v], &[ones])?;
            }
        }
        if let Some(t) = a.temperature {
            let t = self.push(at("attn_temperature"), Op::Temperature(t), &[], &[])?;
            qkv[0] = self.push(at("attn_q_sharp"), Op::Zip(Binary::Mul), &[qkv[0], t], &[])?;
        }
        let Attention { kv_heads: heads, key_dim, value_dim, window, .. } = *a;
        let state = StateSpec::Paged { heads, key_dim, value_dim, shared: false, window };
        // A sequence that is whole in a step leaves nothing to the next one, so that layers can share a state.
        let shared = self.graph.states().iter().position(|s| !a.causal && *s == state);
        let state = shared.unwrap_or_else(|| self.graph.state(state));
        let op = Op::Attend { state, heads: a.heads, scale: a.scale, soft_cap: a.soft_cap, causal: a.causal };
        let mixed = self.push(at("attn"), op, &qkv, &[])?;
        self.linear(&at("attn_output"), &at("attn_output"), mixed, self.spec.width, Rows::All)
    }

    fn ffn(&mut self, i: usize, ffn: Ffn, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}");
        match ffn {
            Ffn::None => Ok(x),
            Ffn::Plain { act, width } => {
                let up = self.linear(&at("ffn_up"), &at("ffn_up"), x, width, Rows::All)?;
                let h = self.push(at("ffn_act"), Op::Map(act), &[up], &[])?;
                self.linear(&at("ffn_down"), &at("ffn_down"), h, self.spec.width, Rows::All)
            }
            Ffn::Gated { act, width } => self.gated(i, "", act, width, x),
            Ffn::Experts(e) => self.experts(i, e, x),
        }
    }

    /// A gated unit whose tensors end in `suffix`.
    fn gated(&mut self, i: usize, suffix: &str, act: Unary, width: usize, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}{suffix}");
        // Fused files have the gate's rows first in `ffn_up`.
        let fused = self.weights.shape(&(at("ffn_gate") + ".weight")).is_none();
        if fused {
            self.weights.whole(&(at("ffn_up") + ".weight"), width.saturating_mul(2))?;
        }
        let (gate_stem, gate_rows) = if fused { ("ffn_up", Rows::From(0)) } else { ("ffn_gate", Rows::All) };
        let gate = self.linear(&at("ffn_gate"), &at(gate_stem), x, width, gate_rows)?;
        let up_rows = if fused { Rows::From(width) } else { Rows::All };
        let up = self.linear(&at("ffn_up"), &at("ffn_up"), x, width, up_rows)?;
        let h = self.push(at("ffn_act"), Op::Glu(act), &[gate, up], &[])?;
        self.linear(&at("ffn_down"), &at("ffn_down"), h, self.spec.width, Rows::All)
    }
}
