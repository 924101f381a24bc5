//! Llama 4 (Meta 2025): Llama with experts whose weights are factors on what goes in, and attention in chunks; every fourth layer
//! sees everything, without positions, and queries there become sharper with theirs.

use super::llama::{Llama, like_llama};
use super::{Arch, MATRICES, NORMS};
use crate::weights::{Fix, Name};
use crate::{Config, Ffn, ModelError, Spec};
use alula_graph::{RopeStyle, Temperature, Unary, Window};

pub(super) static LLAMA4: Arch =
    Arch { gguf: "llama4", hf: &["llama4_text", "llama4"], names: &[NAMES, MATRICES, NORMS], spec };

const NAMES: &[Name] = &[
    Name("blk.{}.ffn_gate", "model.layers.{}.feed_forward.gate_proj", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.feed_forward.up_proj", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.feed_forward.down_proj", Fix::None),
    Name("blk.{}.ffn_gate_inp", "model.layers.{}.feed_forward.router", Fix::None),
    Name("blk.{}.ffn_gate_up_exps", "model.layers.{}.feed_forward.experts.gate_up_proj", Fix::Transpose),
    Name("blk.{}.ffn_down_exps", "model.layers.{}.feed_forward.experts.down_proj", Fix::Transpose),
    Name("blk.{}.ffn_gate_shexp", "model.layers.{}.feed_forward.shared_expert.gate_proj", Fix::None),
    Name("blk.{}.ffn_up_shexp", "model.layers.{}.feed_forward.shared_expert.up_proj", Fix::None),
    Name("blk.{}.ffn_down_shexp", "model.layers.{}.feed_forward.shared_expert.down_proj", Fix::None),
];

fn spec(c: &Config<'_>) -> Result<Spec, ModelError> {
    let head_dim = Some(128).filter(|_| !c.is_gguf());
    let (style, local) = (RopeStyle::Pairs, "chunked_attention");
    let m = Llama { style, local, context: 131_072, head_dim, eps: 1e-5, base: 500_000.0, window: None };
    let mut spec = like_llama(c, m)?;
    let (layers, act) = (spec.layers.len(), c.activation("hidden_act", Unary::Silu)?);
    // Of attention GGUF says only whether there are chunks; the rest is as in the published models.
    let chunk = match c.is_gguf() {
        true if c.size("attention.sliding_window")? == Some(0) => None,
        true => Some(8192),
        false => c.span("attention_chunk_size", Some(8192))?,
    };
    let rotated = rotated(c, layers, chunk.is_some())?;
    let chunked = c.windowed(local, layers, |i| rotated[i])?;
    let (width, dense) = if c.is_gguf() {
        (c.need("expert_feed_forward_length")?, c.need("feed_forward_length")?)
    } else {
        (c.need("feed_forward_length")?, c.size("intermediate_size_mlp")?.unwrap_or(16_384))
    };
    let mut experts = c.experts(act, width, false)?;
    (experts.route.sigmoid, experts.before, experts.shared) = (true, true, Some(width));
    let normed = match c.is_gguf() {
        true => experts.count != 128,
        false => c.truth("use_qk_norm")?.unwrap_or(true),
    };
    let temperature = temperature(c)?;
    let step = c.size("interleave_moe_layer_step")?.unwrap_or(1);
    let listed = c.json("moe_layers").map(|_| c.places("moe_layers")).transpose()?;
    let sparse = |i| listed.as_ref().map_or(step > 0 && (i + 1) % step == 0, |l| l.contains(&i));
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.ffn = if sparse(i) { Ffn::Experts(experts) } else { Ffn::Gated { act, width: dense } };
        if let Some(a) = layer.mixer.attention_mut() {
            a.window = chunk.filter(|_| chunked[i]).map(|chunk| Window::Chunked { chunk });
            if rotated[i] {
                a.normed = normed;
            } else {
                (a.rope, a.temperature) = (None, temperature);
            }
        }
    }
    Ok(spec)
}

/// Which layers know positions by rotation.
fn rotated(c: &Config<'_>, layers: usize, chunks: bool) -> Result<Vec<bool>, ModelError> {
    let every = c.size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(list) = c.json("no_rope_layers").filter(|l| l.as_array().is_none_or(|l| !l.is_empty())) else {
        return Ok((0..layers).map(|i| every == 0 || (i + 1) % every != 0 || c.is_gguf() && !chunks).collect());
    };
    let each = |l: &Vec<serde_json::Value>| l.iter().take(layers).map(|v| v.as_u64().map(|v| v != 0)).collect();
    let list: Option<Vec<bool>> = list.as_array().filter(|l| l.len() >= layers).and_then(each);
    list.ok_or_else(|| c.error("no_rope_layers", format!("must list {layers} layers, 1 where there are positions")))
}

/// Where it is in use.
fn temperature(c: &Config<'_>) -> Result<Option<Temperature>, ModelError> {
    // The first files have a number here.
    let tuned = c.json("attn_temperature_tuning").is_none_or(|v| v.as_bool().unwrap_or(v.as_f64() != Some(0.0)));
    let (floor, scale) = (c.float("floor_scale", 8192.0)?, c.float("attn_scale", 0.1)?);
    if floor < 1.0 {
        return Err(c.error("floor_scale", format!("is {floor}; expected 1 or more")));
    }
    Ok(tuned.then_some(Temperature { floor, scale }))
}
