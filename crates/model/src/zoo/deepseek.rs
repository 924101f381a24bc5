//! DeepSeek-V2 and V2-Lite (arXiv:2405.04434), V3 and R1 (arXiv:2412.19437): latent attention, a few plain layers, then
//! mixtures of many small experts with some that every token has.

use super::moe::NAMES;
use super::{Arch, MATRICES, NORMS};
use crate::rope::{Defaults, latent_scale, rope};
use crate::weights::{Fix, Name};
use crate::{Config, Ffn, Latent, Layer, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{Groups, NormKind, RopeStyle, Unary};

pub(super) static DEEPSEEK2: Arch = Arch {
    gguf: "deepseek2",
    hf: &["deepseek_v2"],
    names: &[LATENT, NAMES, MATRICES, NORMS],
    spec: |c| deepseek(c, false),
};

/// Its GGUF files say `deepseek2`.
pub(super) static DEEPSEEK3: Arch = Arch {
    gguf: "deepseek3",
    hf: &["deepseek_v3"],
    names: &[LATENT, NAMES, MATRICES, NORMS],
    spec: |c| deepseek(c, true),
};

const LATENT: &[Name] = &[
    Name("blk.{}.attn_q_a", "model.layers.{}.self_attn.q_a_proj", Fix::None),
    Name("blk.{}.attn_q_a_norm", "model.layers.{}.self_attn.q_a_layernorm", Fix::None),
    Name("blk.{}.attn_q_b", "model.layers.{}.self_attn.q_b_proj", Fix::None),
    Name("blk.{}.attn_kv_a_mqa", "model.layers.{}.self_attn.kv_a_proj_with_mqa", Fix::None),
    Name("blk.{}.attn_kv_a_norm", "model.layers.{}.self_attn.kv_a_layernorm", Fix::None),
    Name("blk.{}.attn_kv_b", "model.layers.{}.self_attn.kv_b_proj", Fix::None),
    Name("blk.{}.nextn.enorm", "model.layers.{}.enorm", Fix::None),
    Name("blk.{}.nextn.hnorm", "model.layers.{}.hnorm", Fix::None),
    Name("blk.{}.nextn.eh_proj", "model.layers.{}.eh_proj", Fix::None),
    Name("blk.{}.nextn.shared_head_norm", "model.layers.{}.shared_head.norm", Fix::None),
];

/// Columns of a head: not rotated, rotated, of a value.
fn head(c: &Config<'_>) -> Result<(usize, usize, usize), ModelError> {
    let (plain, rope, value) = if c.is_gguf() {
        let rope = c.need("rope.dimension_count")?;
        // Older files have the sizes of expanded heads where later ones have those of the latent.
        let (key, value) = match c.size("attention.key_length_mla")? {
            Some(key) => (key, c.need("attention.value_length_mla")?),
            None => (c.need("attention.key_length")?, c.need("attention.value_length")?),
        };
        (key.checked_sub(rope), rope, value)
    } else {
        let value = c.size("v_head_dim")?.unwrap_or(128);
        (Some(c.size("qk_nope_head_dim")?.unwrap_or(128)), c.size("qk_rope_head_dim")?.unwrap_or(64), value)
    };
    match plain {
        Some(plain @ 1..=0x1000) if rope <= 0x1000 && (1..=0x1000).contains(&value) => Ok((plain, rope, value)),
        _ => {
            Err(c.error("qk_nope_head_dim", format!("makes heads of {plain:?} and {rope} columns, values of {value}")))
        }
    }
}

fn deepseek(c: &Config<'_>, v3: bool) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let heads = c.need("attention.head_count")?;
    let (plain_dim, rope_dim, value_dim) = head(c)?;
    if heads > 1 << 14 {
        return Err(c.error("attention.head_count", format!("is {heads}; expected at most 16384")));
    }
    let norm = Norm { kind: NormKind::Rms, eps: c.eps("attention.layer_norm_rms_epsilon", 1e-6)? };
    let style = if c.flag("rope_interleave") == Some(false) { RopeStyle::Halves } else { RopeStyle::Pairs };
    let defaults = Defaults { head_dim: rope_dim, base: 10_000.0, partial: 1.0, style, layer_type: None };
    let scale = latent_scale(c)? / ((plain_dim + rope_dim) as f64).sqrt();
    let mixer = Mixer::Latent(Latent {
        heads,
        // The tensors say whether there are two projections.
        query_rank: c.shape("blk.0.attn_q_a.weight").and_then(|s| s.first().copied()),
        rank: c.need("attention.kv_lora_rank")?,
        plain_dim,
        rope_dim,
        value_dim,
        rope: 0,
        scale: scale as f32,
        // transformers leaves its class's default here; llama.cpp takes that of the other norms.
        eps: if c.is_gguf() { norm.eps } else { 1e-6 },
    });
    let act = c.activation("hidden_act", Unary::Silu)?;
    let dense = Ffn::Gated { act, width: c.need("feed_forward_length")? };
    let layer = |ffn| Layer { norm, place: Place::Pre, mixer: mixer.clone(), ffn };
    let ahead = if c.is_gguf() { c.size("nextn_predict_layers")?.unwrap_or(0) } else { 0 };
    let layers = c.layers()?.checked_sub(ahead).filter(|n| *n > 0);
    let layers = layers.ok_or_else(|| c.error("nextn_predict_layers", format!("is {ahead}, which is every layer")))?;
    let leading = c.size("leading_dense_block_count")?.unwrap_or(if v3 { 3 } else { 0 });
    // Where only some of the further layers have experts (`moe_layer_freq`), their routers say which.
    let routed = |i: usize| i >= leading && c.shape(&format!("blk.{i}.ffn_gate_inp.weight")).is_some();
    let sparse = match c.size("expert_count")? {
        None | Some(0) => dense,
        Some(_) => Ffn::Experts(experts(c, v3, act, (0..=layers).find(|i| routed(*i)))?),
    };
    let ffn = |i: usize| if routed(i) { sparse } else { dense };
    Ok(Spec {
        width,
        vocab,
        context: c.context(if v3 { 4096 } else { 2048 })?,
        layers: (0..layers).map(|i| layer(ffn(i))).collect(),
        ropes: vec![rope(c, defaults)?],
        norm,
        tied: c.tied(),
        draft: c.shape(&format!("blk.{layers}.nextn.eh_proj.weight")).map(|_| layer(ffn(layers))),
        ..Spec::default()
    })
}

/// Version 2 takes the best experts of the groups with the best ones by softmax; version 3 those of the groups with the best
/// two by sigmoid and a bias.
fn experts(c: &Config<'_>, v3: bool, act: Unary, sparse: Option<usize>) -> Result<crate::Experts, ModelError> {
    let mut e = c.experts(act, c.need("expert_feed_forward_length")?, false)?;
    e.sigmoid = match c.size("expert_gating_func")?.filter(|_| c.is_gguf()) {
        None | Some(0) => v3 && !c.is_gguf(),
        Some(1) => false,
        Some(2) => true,
        Some(n) => {
            return Err(c.error("expert_gating_func", format!("is {n}; supported are 1, softmax, and 2, sigmoid")));
        }
    };
    let grouped = c.is_gguf() || v3 || c.json("topk_method").is_some_and(|m| m == "group_limited_greedy");
    let default = v3.then_some((8, 4));
    let all = c.size("expert_group_count")?.or(default.map(|d| d.0)).filter(|_| grouped);
    let used = c.size("expert_group_used_count")?.or(default.map(|d| d.1));
    if let (Some(all @ 2..), Some(used)) = (all, used) {
        let fit = all <= Groups::MOST && e.count % all == 0 && (1..=all).contains(&used);
        let two = e.sigmoid;
        if !fit || e.route.used > e.count / all * used || two && e.count == all {
            let why = format!("is {all}, of which {used} are used, for {} of {} experts", e.route.used, e.count);
            return Err(c.error("expert_group_count", why));
        }
        e.route.groups = Some(Groups { all, used, two });
    }
    e.route.normalise = match c.truth("expert_weights_norm")? {
        Some(yes) => yes && (v3 || c.is_gguf()),
        None => v3,
    };
    let scale = c.float("expert_weights_scale", if v3 { 2.5 } else { 1.0 })?;
    // In GGUF, 0 says that there is none.
    e.route.scale = if scale == 0.0 && c.is_gguf() { 1.0 } else { scale };
    e.shared = match c.size("expert_shared_count")? {
        Some(n) => Some(n.saturating_mul(e.width)).filter(|n| *n > 0),
        None => sparse.and_then(|i| c.shape(&format!("blk.{i}.ffn_up_shexp.weight"))?.first().copied()),
    };
    Ok(e)
}
