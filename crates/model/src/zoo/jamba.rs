//! Jamba (Lieber et al. 2024, arXiv:2403.19887): layers of Mamba, and every few layers one of attention without positions;
//! every second layer has experts.

use super::granite::{BLOCKS, Hybrid, hybrid, norm};
use super::mamba::{HYBRID, first, inner};
use super::{Arch, MATRICES, NORMS};
use crate::weights::{Fix, Name};
use crate::{Config, Ffn, ModelError, Spec};
use alula_graph::{RopeStyle, Unary};

pub(super) static JAMBA: Arch =
    Arch { gguf: "jamba", hf: &["jamba"], names: &[EXPERTS, BLOCKS, HYBRID, MATRICES, NORMS], spec: jamba };

const EXPERTS: &[Name] = &[
    Name("blk.{}.ffn_gate_inp", "model.layers.{}.feed_forward.router", Fix::None),
    Name("blk.{}.ffn_gate.{}", "model.layers.{}.feed_forward.experts.{}.gate_proj", Fix::None),
    Name("blk.{}.ffn_up.{}", "model.layers.{}.feed_forward.experts.{}.up_proj", Fix::None),
    Name("blk.{}.ffn_down.{}", "model.layers.{}.feed_forward.experts.{}.down_proj", Fix::None),
];

fn jamba(c: &Config<'_>) -> Result<Spec, ModelError> {
    let layers = c.layers()?;
    // Layer i is of a kind if i % period is the offset.
    let every = |kind: &str, period: usize, offset: usize| -> Result<Vec<bool>, ModelError> {
        let (period_key, offset_key) = (format!("{kind}_layer_period"), format!("{kind}_layer_offset"));
        let (period, offset) = (c.size(&period_key)?.unwrap_or(period), c.size(&offset_key)?.unwrap_or(offset));
        if offset >= period {
            return Err(c.error(&offset_key, format!("is {offset}; expected less than the period, {period}")));
        }
        Ok((0..layers).map(|i| i % period == offset).collect())
    };
    // GGUF leaves it to the tensors.
    let count = c.size("expert_count")?.unwrap_or(if c.is_gguf() { 1 } else { 16 });
    let sparse = match c.is_gguf() {
        true => (0..layers).map(|i| c.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_some()).collect(),
        false => every("expert", 2, 1)?,
    };
    let attends = every("attn", 8, 4)?;
    let recurrent = c.recurrent(layers, |i| !attends[i])?;
    let norm = norm(c, 1e-6)?;
    let (ssm, ffn) = (first(c, inner(c)?, Some(norm))?, c.need("feed_forward_length")?);
    let (partial, style) = (None, RopeStyle::Halves);
    let mut spec = hybrid(c, Hybrid { norm, context: 262_144, partial, style, ffn, recurrent, ssm: Some(ssm) })?;
    if count > 1 {
        let experts = c.experts(c.activation("hidden_act", Unary::Silu)?, ffn, false)?;
        let layers = spec.layers.iter_mut().zip(sparse).filter(|(_, sparse)| *sparse);
        layers.for_each(|(layer, _)| layer.ffn = Ffn::Experts(experts));
    }
    Ok(spec)
}
