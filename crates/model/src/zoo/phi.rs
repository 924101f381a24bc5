//! Phi-2 (Li et al. 2023, arXiv:2309.05463): one layer norm before attention and feed-forward side by side, part of
//! each head rotated. Phi-3 (Abdin et al. 2024, arXiv:2404.14219): Llama with fused matrices and LongRoPE.

use super::llama::{Llama, like_llama};
use super::{Arch, MATRICES, NORMS};
use crate::rope::{Defaults, rope};
use crate::weights::{Fix, Name};
use crate::{Attention, Config, Ffn, Layer, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{NormKind, RopeStyle, Unary};

pub(super) static PHI3: Arch = Arch { gguf: "phi3", hf: &["phi3"], names: &[MATRICES, NORMS], spec: phi3 };

pub(super) static PHI2: Arch = Arch { gguf: "phi2", hf: &["phi"], names: &[PHI2_NAMES, MATRICES, NORMS], spec: phi2 };

const PHI2_NAMES: &[Name] = &[
    Name("output_norm", "model.final_layernorm", Fix::None),
    Name("blk.{}.attn_output", "model.layers.{}.self_attn.dense", Fix::None),
    Name("blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_layernorm", Fix::None),
    Name("blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_layernorm", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.mlp.fc1", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.mlp.fc2", Fix::None),
];

fn phi3(c: &Config<'_>) -> Result<Spec, ModelError> {
    like_llama(c, Llama { window: c.window(None)?, context: 4096, eps: 1e-5, ..Llama::default() })
}

fn phi2(c: &Config<'_>) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(None, None)?;
    let norm = Norm { kind: NormKind::Layer, eps: c.eps("attention.layer_norm_epsilon", 1e-5)? };
    let style = RopeStyle::Halves;
    let defaults = Defaults { head_dim: key_dim, base: 10_000.0, partial: 0.5, style, layer_type: None };
    let ffn = Ffn::Plain { act: c.activation("hidden_act", Unary::GeluTanh)?, width: c.need("feed_forward_length")? };
    let scale = 1.0 / (key_dim as f32).sqrt();
    let mixer = Attention { heads, kv_heads, key_dim, value_dim, rope: Some(0), scale, ..Attention::default() };
    let layer = Layer { norm, place: Place::Parallel, mixer: Mixer::Attention(mixer), ffn };
    Ok(Spec {
        width,
        vocab,
        context: c.context(2048)?,
        embed_scale: None,
        positions: None,
        layers: vec![layer; c.layers()?],
        ropes: vec![rope(c, defaults)?],
        norm,
        tied: c.tied(),
        soft_cap: None,
        ..Spec::default()
    })
}
