//! Gemma (Mesnard et al. 2024, arXiv:2403.08295), Gemma 2 (Riviere et al. 2024, arXiv:2408.00118) and Gemma 3 (Kamath et al. 2025, arXiv:2503.19786): scaled
//! embeddings; from 2 on norms on both sides of each part, local and global layers; soft caps in 2, norms of queries
//! and keys and a rotary embedding for each kind of layer in 3.

use super::{Arch, MATRICES};
use crate::rope::{Defaults, rope};
use crate::weights::{Fix, Name};
use crate::{Attention, Config, Ffn, Layer, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{NormKind, RopeStyle, Unary};

pub(super) static GEMMA: Arch =
    Arch { gguf: "gemma", hf: &["gemma"], names: &[MATRICES, FFN_NORM, NORMS], spec: gemma1 };

pub(super) static GEMMA2: Arch = Arch { gguf: "gemma2", hf: &["gemma2"], names: &[MATRICES, NORMS], spec: gemma2 };

pub(super) static GEMMA3: Arch =
    Arch { gguf: "gemma3", hf: &["gemma3_text", "gemma3"], names: &[MATRICES, NORMS], spec: gemma3 };

/// Stored less 1; GGUF files have the 1 added.
const NORMS: &[Name] = &[
    Name("output_norm", "model.norm", Fix::PlusOne),
    Name("blk.{}.attn_norm", "model.layers.{}.input_layernorm", Fix::PlusOne),
    Name("blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_norm", Fix::PlusOne),
    Name("blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_norm", Fix::PlusOne),
    Name("blk.{}.post_attention_norm", "model.layers.{}.post_attention_layernorm", Fix::PlusOne),
    Name("blk.{}.ffn_norm", "model.layers.{}.pre_feedforward_layernorm", Fix::PlusOne),
    Name("blk.{}.post_ffw_norm", "model.layers.{}.post_feedforward_layernorm", Fix::PlusOne),
];

/// Gemma 1 calls the norm of its feed-forward as Llama does.
const FFN_NORM: &[Name] = &[Name("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", Fix::PlusOne)];

/// Query and key heads of Gemma 2 and 3 where `config.json` leaves them out, as Gemma 3 4B's does.
const COUNTS: Option<(usize, usize)> = Some((8, 4));

fn gemma1(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = gemma(c, 8192, |_| false, false, None, (None, None), &[("", 10_000.0)])?;
    for layer in &mut spec.layers {
        layer.place = Place::Pre;
        if let Some(a) = layer.mixer.attention_mut() {
            (a.scale, a.soft_cap) = (1.0 / (a.key_dim as f32).sqrt(), None);
        }
        // The first files say `gelu` and mean its approximation.
        if let Ffn::Gated { act: act @ Unary::Gelu, .. } = &mut layer.ffn {
            *act = Unary::GeluTanh;
        }
    }
    spec.soft_cap = None;
    Ok(spec)
}

fn gemma2(c: &Config<'_>) -> Result<Spec, ModelError> {
    // The 27B model scales scores by width / heads; GGUF does not say so.
    let wide = c.is_gguf() && c.layers()? == 46;
    gemma(c, 8192, |i| i % 2 == 0, wide, COUNTS, (Some(50.0), Some(30.0)), &[("", 10_000.0)])
}

fn gemma3(c: &Config<'_>) -> Result<Spec, ModelError> {
    let wide = c.is_gguf() && c.layers()? == 62;
    let every = match c.size("sliding_window_pattern")? {
        Some(n) if n > 0 => n,
        _ => 6,
    };
    let ropes = [("full_attention", 1_000_000.0), ("sliding_attention", 10_000.0)];
    if c.flag("use_bidirectional_attention") == Some(true) {
        return Err(c.error("use_bidirectional_attention", "is true; only models that read from left to right run"));
    }
    let mut spec = gemma(c, 131_072, |i| (i + 1) % every != 0, wide, COUNTS, (None, None), &ropes)?;
    for layer in &mut spec.layers {
        // A cap on scores may stand in the configuration; transformers and llama.cpp ignore it here.
        if let Some(a) = layer.mixer.attention_mut() {
            a.soft_cap = None;
        }
    }
    Ok(spec)
}

fn gemma(
    c: &Config<'_>,
    context: usize,
    local: impl Fn(usize) -> bool,
    wide: bool,
    counts: Option<(usize, usize)>,
    caps: (Option<f64>, Option<f64>),
    ropes: &[(&'static str, f64)],
) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(Some(256), counts)?;
    let norm = Norm { kind: NormKind::Rms, eps: c.eps("attention.layer_norm_rms_epsilon", 1e-6)? };
    let act = if counts.is_some() { "hidden_activation" } else { "hidden_act" };
    let ffn = Ffn::Gated { act: c.activation(act, Unary::GeluTanh)?, width: c.need("feed_forward_length")? };
    let derived = match (wide, counts) {
        (true, _) => width / heads,
        (_, Some(_)) if !c.is_gguf() => 256,
        _ => key_dim,
    };
    let scalar = c.float("query_pre_attn_scalar", derived as f64)?;
    let caps = if c.is_gguf() { (None, None) } else { caps };
    let soft_cap = c.cap("attn_logit_softcapping", caps.0)?;
    let window = c.window(Some(4096))?;
    let layer = |windowed: bool| {
        let mixer = Attention {
            heads,
            kv_heads,
            key_dim,
            value_dim,
            rope: Some(if windowed { ropes.len() - 1 } else { 0 }),
            window: window.filter(|_| windowed),
            scale: 1.0 / scalar.sqrt(),
            soft_cap,
            ..Attention::default()
        };
        Layer { norm, place: Place::Sandwich, mixer: Mixer::Attention(mixer), ffn }
    };
    let table = |&(kind, base): &(&'static str, f64)| {
        let layer_type = Some(kind).filter(|k| !k.is_empty());
        rope(c, Defaults { head_dim: key_dim, base, partial: 1.0, style: RopeStyle::Halves, layer_type })
    };
    Ok(Spec {
        width,
        vocab,
        context: c.context(context)?,
        embed_scale: Some((width as f64).sqrt() as f32),
        positions: None,
        layers: c.windowed("sliding_attention", c.layers()?, local)?.into_iter().map(layer).collect(),
        ropes: ropes.iter().map(table).collect::<Result<_, _>>()?,
        norm,
        tied: c.tied(),
        soft_cap: c.cap("final_logit_softcapping", caps.1)?,
        ..Spec::default()
    })
}
