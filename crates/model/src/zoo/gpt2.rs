//! GPT-2 (Radford et al. 2019) and DistilGPT-2: learned positions, layer norms, a plain feed-forward.

use super::Arch;
use crate::weights::{Fix, Name};
use crate::{Attention, Config, Ffn, Layer, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{NormKind, Unary};

pub(super) static GPT2: Arch = Arch { gguf: "gpt2", hf: &["gpt2"], names: &[NAMES], spec };

const NAMES: &[Name] = &[
    Name("token_embd", "transformer.wte", Fix::None),
    Name("position_embd", "transformer.wpe", Fix::None),
    Name("output_norm", "transformer.ln_f", Fix::None),
    Name("output", "lm_head", Fix::None),
    Name("blk.{}.attn_norm", "transformer.h.{}.ln_1", Fix::None),
    Name("blk.{}.attn_qkv", "transformer.h.{}.attn.c_attn", Fix::Transpose),
    Name("blk.{}.attn_output", "transformer.h.{}.attn.c_proj", Fix::Transpose),
    Name("blk.{}.ffn_norm", "transformer.h.{}.ln_2", Fix::None),
    Name("blk.{}.ffn_up", "transformer.h.{}.mlp.c_fc", Fix::Transpose),
    Name("blk.{}.ffn_down", "transformer.h.{}.mlp.c_proj", Fix::Transpose),
];

fn spec(c: &Config<'_>) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(None, None)?;
    let norm = Norm { kind: NormKind::Layer, eps: c.eps("attention.layer_norm_epsilon", 1e-5)? };
    let ffn = Ffn::Plain {
        act: c.activation("activation_function", Unary::GeluTanh)?,
        width: c.size("feed_forward_length")?.filter(|w| *w > 0).unwrap_or(4 * width),
    };
    let plain = if c.flag("scale_attn_weights") == Some(false) { 1.0 } else { 1.0 / (key_dim as f32).sqrt() };
    let by_layer = c.flag("scale_attn_by_inverse_layer_idx") == Some(true);
    let layer = |i: usize| {
        let scale = if by_layer { plain / (i + 1) as f32 } else { plain };
        let mixer = Attention { heads, kv_heads, key_dim, value_dim, scale, ..Attention::default() };
        Layer { norm, place: Place::Pre, mixer: Mixer::Attention(mixer), ffn }
    };
    let positions = c.shape("position_embd.weight").and_then(|s| s.first().copied());
    Ok(Spec {
        width,
        vocab,
        context: c.context(1024)?.min(positions.unwrap_or(usize::MAX)),
        embed_scale: None,
        positions: Some(positions.unwrap_or(0)),
        layers: (0..c.layers()?).map(layer).collect(),
        ropes: vec![],
        norm,
        tied: c.tied(),
        soft_cap: None,
        ..Spec::default()
    })
}
