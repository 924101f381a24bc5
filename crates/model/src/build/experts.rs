//! Mixtures of experts.

use super::{Builder, Built};
use crate::weights::Rows;
use crate::{Experts, ModelError};
use alula_graph::{Binary, Op, Unary, ValueId, WeightId};

impl Builder<'_> {
    pub(super) fn experts(&mut self, i: usize, e: Experts, x: ValueId) -> Built {
        let at = |part: &str| format!("blk.{i}.{part}");
        let logits = self.linear(&at("ffn_gate_inp"), &at("ffn_gate_inp"), x, e.count, Rows::All)?;
        let scores = match (e.route.sigmoid, e.sigmoid) {
            (true, _) => logits,
            (_, true) => self.push(at("ffn_scores"), Op::Map(Unary::Sigmoid), &[logits], &[])?,
            _ => self.push(at("ffn_scores"), Op::Softmax, &[logits], &[])?,
        };
        let bias = self.bias(&at("exp_probs_b"), e.count, Rows::All)?;
        let routes = self.push(at("ffn_routes"), Op::Route(e.route), &[scores], bias.as_slice())?;
        let width = self.spec.width;
        for (stack, rows) in
            [("gate", e.width), ("up", e.width), ("down", width), ("gate_up", e.width.saturating_mul(2))]
        {
            self.weights.whole(&at(&format!("ffn_{stack}_exps.weight")), rows.saturating_mul(e.count))?;
        }
        let mut w = Vec::with_capacity(3 * e.count);
        for (part, n, k) in [("gate", e.width, width), ("up", e.width, width), ("down", width, e.width)] {
            for expert in 0..e.count {
                w.push(self.expert(i, part, expert, n, k)?);
            }
        }
        let routed = self.push(at("ffn_experts"), Op::Experts { act: e.act, before: e.before }, &[x, routes], &w)?;
        let Some(shared) = e.shared else { return Ok(routed) };
        let mut y = self.gated(i, "_shexp", e.act, shared, x)?;
        let gate = at("ffn_gate_inp_shexp");
        if self.weights.shape(&format!("{gate}.weight")).is_some() {
            let logit = self.linear(&gate, &gate, x, 1, Rows::All)?;
            let gate = self.push(at("ffn_gate_shared"), Op::Map(Unary::Sigmoid), &[logit], &[])?;
            y = self.push(at("ffn_shared"), Op::Zip(Binary::Mul), &[y, gate], &[])?;
        }
        self.add(at("ffn_out"), routed, y)
    }

    /// An expert's matrix `[n, k]`: in a stack of all experts', in one where gates and ups are rows of one matrix, or for
    /// itself.
    fn expert(&mut self, i: usize, part: &str, expert: usize, n: usize, k: usize) -> Result<WeightId, ModelError> {
        let stack = format!("blk.{i}.ffn_{part}_exps.weight");
        if self.weights.shape(&stack).is_some() {
            return self.weight(&stack, &[n, k], Rows::From(expert * n));
        }
        let fused = format!("blk.{i}.ffn_gate_up_exps.weight");
        if part != "down" && self.weights.shape(&fused).is_some() {
            let first = if part == "up" { n } else { 0 };
            return self.weight(&fused, &[n, k], Rows::From(expert * 2 * n + first));
        }
        let own = format!("blk.{i}.ffn_{part}.{expert}.weight");
        match self.weights.shape(&own) {
            Some(_) => self.weight(&own, &[n, k], Rows::All),
            None => Err(self.weights.missing(&stack)),
        }
    }
}
