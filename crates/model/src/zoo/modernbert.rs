//! ModernBERT (Warner et al. 2024, arXiv:2412.13663): an encoder with norms before each part, gated units, rotary
//! embeddings, and windows in two of three layers, which have another base.

use super::Arch;
use super::bert::head;
use crate::rope::{Defaults, rope};
use crate::weights::{Fix, Name};
use crate::{Attention, Config, Ffn, Layer, Mixer, ModelError, Norm, Place, Pool, Spec};
use alula_graph::{NormKind, RopeStyle, Unary, Window};

pub(super) static MODERN_BERT: Arch = Arch { gguf: "modern-bert", hf: &["modernbert"], names: &[NAMES], spec };

const NAMES: &[Name] = &[
    Name("token_embd", "model.embeddings.tok_embeddings", Fix::None),
    Name("token_embd_norm", "model.embeddings.norm", Fix::None),
    Name("output_norm", "model.final_norm", Fix::None),
    Name("blk.{}.attn_norm", "model.layers.{}.attn_norm", Fix::None),
    Name("blk.{}.attn_qkv", "model.layers.{}.attn.Wqkv", Fix::None),
    Name("blk.{}.attn_output", "model.layers.{}.attn.Wo", Fix::None),
    Name("blk.{}.ffn_norm", "model.layers.{}.mlp_norm", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.mlp.Wi", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.mlp.Wo", Fix::None),
    Name("cls", "head.dense", Fix::None),
    Name("cls.norm", "head.norm", Fix::None),
    Name("cls.output", "classifier", Fix::None),
];

fn spec(c: &Config<'_>) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(None, None)?;
    let norm = Norm { kind: NormKind::Layer, eps: c.eps("attention.layer_norm_epsilon", 1e-5)? };
    let ffn =
        Ffn::Gated { act: c.activation("hidden_activation", Unary::Gelu)?, width: c.need("feed_forward_length")? };
    let layers = c.layers()?;
    // What a window counts is both sides together.
    let span =
        if c.is_gguf() { c.window(None)?.map(Window::most) } else { Some(c.size("local_attention")?.unwrap_or(128)) };
    let every = c.size("attention.sliding_window_pattern")?.or(c.size("global_attn_every_n_layers")?);
    let every = every.filter(|n| *n > 0).unwrap_or(3);
    let local = |i: usize| span.is_some() && !i.is_multiple_of(every);
    let windowed =
        if c.is_gguf() { (0..layers).map(local).collect() } else { c.windowed("sliding_attention", layers, local)? };
    let layer = |(i, windowed): (usize, bool)| {
        let (window, rope, scale) =
            (span.filter(|_| windowed), Some(usize::from(windowed)), 1.0 / (key_dim as f32).sqrt());
        let window = window.map(|w| Window::Sliding(w / 2));
        let mixer = Attention {
            heads,
            kv_heads,
            key_dim,
            value_dim,
            rope,
            window,
            scale,
            causal: false,
            ..Attention::default()
        };
        let place = if i == 0 { Place::Normed } else { Place::Pre };
        Layer { norm, place, mixer: Mixer::Attention(mixer), ffn }
    };
    if c.json("rope_scaling").is_some() {
        return Err(c.error("rope_scaling", "is there; ModernBERT runs without it, or with `rope_parameters`"));
    }
    let table = |kind, key, base| -> Result<_, ModelError> {
        let base = c.number(key)?.unwrap_or(base);
        let style = RopeStyle::Halves;
        rope(c, Defaults { head_dim: key_dim, base, partial: 1.0, style, layer_type: Some(kind) })
    };
    let global = table("full_attention", "global_rope_theta", 160_000.0)?;
    let near = table("sliding_attention", "local_rope_theta", 10_000.0)?;
    let mean = match c.is_gguf() {
        true => c.size("classifier.pooling_type")?.is_none_or(|kind| kind == 1),
        false => match c.text("classifier_pooling")? {
            None | Some("cls") => false,
            Some("mean") => true,
            Some(other) => {
                return Err(c.error("classifier_pooling", format!("is `{other}`; supported are cls and mean")));
            }
        },
    };
    let pool = if mean { Pool::Mean } else { Pool::Token };
    Ok(Spec {
        width,
        vocab,
        context: c.context(8192)?,
        embed_norm: Some(norm),
        layers: windowed.into_iter().enumerate().map(layer).collect(),
        ropes: vec![global, near],
        norm,
        head: head(c, pool, c.activation("classifier_activation", Unary::Gelu)?, Some(norm))?,
        ..Spec::default()
    })
}
