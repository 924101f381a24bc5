//! Jamba (Lieber et al. 2024, arXiv:2403.19887): layers of Mamba, and every few layers one of attention without positions.

use super::granite::{BLOCKS, Hybrid, hybrid, norm};
use super::mamba::{HYBRID, first, inner};
use super::{Arch, MATRICES, NORMS};
use crate::{Config, ModelError, Spec};
use alula_graph::RopeStyle;

pub(super) static JAMBA: Arch =
    Arch { gguf: "jamba", hf: &["jamba"], names: &[BLOCKS, HYBRID, MATRICES, NORMS], spec: jamba };

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
    let experts = if c.is_gguf() { 1 } else { c.size("num_experts")?.unwrap_or(16) };
    if experts > 1 && every("expert", 2, 1)?.contains(&true) {
        return Err(c.error("num_experts", format!("is {experts}; mixtures of experts do not run yet")));
    }
    let attends = every("attn", 8, 4)?;
    let recurrent = c.recurrent(layers, |i| !attends[i])?;
    let norm = norm(c, 1e-6)?;
    let (ssm, ffn) = (first(c, inner(c)?, Some(norm))?, c.need("feed_forward_length")?);
    let (partial, style) = (None, RopeStyle::Halves);
    hybrid(c, Hybrid { norm, context: 262_144, partial, style, ffn, recurrent, ssm: Some(ssm) })
}
