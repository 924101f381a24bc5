//! Granite 3 (IBM 2024): Llama with factors on embeddings, scores, residual branches and logits. Granite 4 (IBM 2025): the
//! same with Mamba-2 in most layers and mostly without positions. Bamba (IBM, Princeton, CMU and UIUC 2024) has no factors.

use super::llama::{Llama, like_llama};
use super::mamba::{HYBRID, Sizes, second};
use super::{Arch, MATRICES, NORMS};
use crate::rope::{Defaults, rope};
use crate::weights::{Fix, Name};
use crate::{Attention, Config, Dialect, Ffn, GateNorm, Layer, Mixer, ModelError, Norm, Place, Spec, Ssm};
use alula_graph::{NormKind, RopeStyle, Unary};

pub(super) static GRANITE: Arch = Arch { gguf: "granite", hf: &["granite"], names: &[MATRICES, NORMS], spec: granite };

pub(super) static GRANITE_HYBRID: Arch = Arch {
    gguf: "granitehybrid",
    hf: &["granitemoehybrid"],
    names: &[SHARED, EXPERTS, HYBRID, MATRICES, NORMS],
    spec: granite_hybrid,
};

pub(super) static GRANITE_MOE: Arch = Arch {
    gguf: "granitemoe",
    hf: &["granitemoe", "granitemoeshared"],
    names: &[SHARED, EXPERTS, MATRICES, NORMS],
    spec: granite_moe,
};

pub(super) static BAMBA: Arch =
    Arch { gguf: "bamba", hf: &["bamba"], names: &[BLOCKS, HYBRID, MATRICES, NORMS], spec: bamba };

/// Granite calls its dense feed-forward that of a shared expert.
const SHARED: &[Name] = &[
    Name("blk.{}.ffn_up", "model.layers.{}.shared_mlp.input_linear", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.shared_mlp.output_linear", Fix::None),
    Name("blk.{}.ffn_up_shexp", "model.layers.{}.shared_mlp.input_linear", Fix::None),
    Name("blk.{}.ffn_down_shexp", "model.layers.{}.shared_mlp.output_linear", Fix::None),
];

const EXPERTS: &[Name] = &[
    Name("blk.{}.ffn_gate_inp", "model.layers.{}.block_sparse_moe.router.layer", Fix::None),
    Name("blk.{}.ffn_gate_up_exps", "model.layers.{}.block_sparse_moe.input_linear", Fix::None),
    Name("blk.{}.ffn_down_exps", "model.layers.{}.block_sparse_moe.output_linear", Fix::None),
];

/// Names of Bamba, Jamba and Falcon-H1.
pub(super) const BLOCKS: &[Name] = &[
    Name("output_norm", "model.final_layernorm", Fix::None),
    Name("blk.{}.ffn_norm", "model.layers.{}.pre_ff_layernorm", Fix::None),
    Name("blk.{}.ffn_gate", "model.layers.{}.feed_forward.gate_proj", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.feed_forward.up_proj", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.feed_forward.down_proj", Fix::None),
];

/// GGUF has the rows of queries and keys permuted, so that neighbours form pairs.
fn style(c: &Config<'_>) -> RopeStyle {
    if c.is_gguf() { RopeStyle::Pairs } else { RopeStyle::Halves }
}

/// Whether a GGUF file has rotary embeddings, which it says by this key.
fn rotates(c: &Config<'_>) -> Result<bool, ModelError> {
    let Dialect::Gguf(meta, arch) = c.dialect else { return Ok(true) };
    Ok(meta.find::<bool>(&format!("{arch}.rope.scaling.finetuned"))?.unwrap_or(true))
}

/// Applies the factors.
fn scaled(c: &Config<'_>, mut spec: Spec) -> Result<Spec, ModelError> {
    // GGUF leaves out what is 0 or not there, which is no factor.
    let factor = |key| -> Result<Option<f32>, ModelError> { Ok(c.number(key)?.map(|k| k as f32)) };
    let given = |key| -> Result<Option<f32>, ModelError> { Ok(factor(key)?.filter(|k| !c.is_gguf() || *k != 0.0)) };
    spec.embed_scale = given("embedding_scale")?;
    spec.logit_scale = match given("logit_scale")? {
        Some(0.0) => return Err(c.error("logit_scale", "is 0; logits are divided by it")),
        k => k.map(|k| 1.0 / k),
    };
    let scale = given("attention.scale")?.or((!c.is_gguf()).then_some(1.0));
    for layer in &mut spec.layers {
        if let Some(k) = given("residual_scale")? {
            layer.place = Place::Scaled(k);
        }
        if let (Some(a), Some(scale)) = (layer.mixer.attention_mut(), scale) {
            a.scale = scale;
        }
    }
    Ok(spec)
}

fn granite(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = like_llama(c, Llama { style: style(c), ..Llama::default() })?;
    if !rotates(c)? {
        spec.layers.iter_mut().filter_map(|l| l.mixer.attention_mut()).for_each(|a| a.rope = None);
    }
    scaled(c, spec)
}

fn granite_hybrid(c: &Config<'_>) -> Result<Spec, ModelError> {
    let rotated = match c.json("position_embedding_type") {
        Some(kind) => kind == "rope",
        None => c.is_gguf() && rotates(c)?,
    };
    let ffn =
        if c.is_gguf() { c.need("feed_forward_length")? } else { c.size("shared_intermediate_size")?.unwrap_or(1024) };
    let (norm, recurrent) = (norm(c, 1e-6)?, c.recurrent(c.layers()?, |_| true)?);
    let ssm = if recurrent.contains(&true) { Some(mamba2(c, norm)?) } else { None };
    let partial = rotated.then_some(1.0);
    let mut spec = hybrid(c, Hybrid { norm, context: 2048, partial, style: style(c), ffn, recurrent, ssm })?;
    let shared = c.size("expert_shared_feed_forward_length")?.or((!c.is_gguf()).then_some(ffn));
    experts(c, &mut spec, shared.filter(|n| *n > 0))?;
    scaled(c, spec)
}

/// The mixture of experts of every layer, if there are any.
fn experts(c: &Config<'_>, spec: &mut Spec, shared: Option<usize>) -> Result<(), ModelError> {
    if c.size("expert_count")?.unwrap_or(if c.is_gguf() { 0 } else { 8 }) > 0 {
        let width = c.size("expert_feed_forward_length")?.map_or_else(|| c.need("feed_forward_length"), Ok)?;
        let mut experts = c.experts(c.activation("hidden_act", Unary::Silu)?, width, true)?;
        experts.shared = shared;
        spec.layers.iter_mut().for_each(|layer| layer.ffn = Ffn::Experts(experts));
    }
    Ok(())
}

/// Granite 3 with experts (IBM 2024), perhaps with one that every token has.
fn granite_moe(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = granite(c)?;
    let shared = c.size("expert_shared_feed_forward_length")?.or(c.size("shared_intermediate_size")?);
    experts(c, &mut spec, shared.filter(|n| *n > 0))?;
    Ok(spec)
}

fn bamba(c: &Config<'_>) -> Result<Spec, ModelError> {
    let attends = c.places("attn_layer_indices")?;
    let recurrent = (0..c.layers()?).map(|i| !attends.contains(&i)).collect();
    let (norm, ffn) = (norm(c, 1e-5)?, c.need("feed_forward_length")?);
    let ssm = Some(mamba2(c, norm)?);
    hybrid(c, Hybrid { norm, context: 262_144, partial: Some(0.5), style: style(c), ffn, recurrent, ssm })
}

fn mamba2(c: &Config<'_>, norm: Norm) -> Result<Ssm, ModelError> {
    second(c, Sizes { heads: 128, groups: 1, state: 256 }, Some((norm, GateNorm::After)))
}

/// The norm of a hybrid, with its class's default.
pub(super) fn norm(c: &Config<'_>, eps: f64) -> Result<Norm, ModelError> {
    Ok(Norm { kind: NormKind::Rms, eps: c.eps("attention.layer_norm_rms_epsilon", eps)? })
}

/// Layers of attention or a state space, each with a gated unit.
pub(super) struct Hybrid {
    pub(super) norm: Norm,
    /// Default of the configuration class.
    pub(super) context: usize,
    /// The part of a head that is rotated; `None`: positions are not told.
    pub(super) partial: Option<f64>,
    pub(super) style: RopeStyle,
    /// Columns of the gated unit.
    pub(super) ffn: usize,
    /// Which layers have the state space.
    pub(super) recurrent: Vec<bool>,
    pub(super) ssm: Option<Ssm>,
}

pub(super) fn hybrid(c: &Config<'_>, h: Hybrid) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(None, None)?;
    let defaults = |partial| Defaults { head_dim: key_dim, base: 10_000.0, partial, style: h.style, layer_type: None };
    let ropes: Vec<_> = h.partial.map(|p| rope(c, defaults(p))).transpose()?.into_iter().collect();
    let (scale, rope) = (1.0 / (key_dim as f32).sqrt(), h.partial.map(|_| 0));
    let attention = Attention { heads, kv_heads, key_dim, value_dim, rope, scale, ..Attention::default() };
    let ffn = Ffn::Gated { act: c.activation("hidden_act", Unary::Silu)?, width: h.ffn };
    let layer = |recurrent: bool| {
        let mixer = match &h.ssm {
            Some(s) if recurrent => Mixer::Ssm(s.clone()),
            _ => Mixer::Attention(attention.clone()),
        };
        Layer { norm: h.norm, place: Place::Pre, mixer, ffn }
    };
    Ok(Spec {
        width,
        vocab,
        context: c.context(h.context)?,
        embed_scale: None,
        positions: None,
        layers: h.recurrent.iter().copied().map(layer).collect(),
        ropes,
        norm: h.norm,
        tied: c.tied(),
        soft_cap: None,
        logit_scale: None,
        factors: vec![],
        ..Spec::default()
    })
}
