//! Llama 1 to 3 (Touvron et al. 2023, arXiv:2302.13971; Grattafiori et al. 2024, arXiv:2407.21783), TinyLlama, and
//! Mistral 7B (Jiang et al. 2023, arXiv:2310.06825), which adds a sliding window.

use super::{Arch, MATRICES, NORMS, moe};
use crate::rope::{Defaults, rope};
use crate::{Attention, Config, Ffn, Layer, Mixer, ModelError, Norm, Place, Spec};
use alula_graph::{NormKind, RopeStyle, Unary, Window};

pub(super) static LLAMA: Arch = Arch { gguf: "llama", hf: &["llama"], names: &[MATRICES, NORMS], spec: llama };

pub(super) static MISTRAL: Arch = Arch { gguf: "mistral", hf: &["mistral"], names: &[MATRICES, NORMS], spec: mistral };

fn llama(c: &Config<'_>) -> Result<Spec, ModelError> {
    // GGUF has the rows of queries and keys permuted, so that neighbours form pairs.
    let style = if c.is_gguf() { RopeStyle::Pairs } else { RopeStyle::Halves };
    let window = if c.is_gguf() { c.window(None)? } else { None };
    let mut spec = like_llama(c, Llama { style, window, ..Llama::default() })?;
    // Mixtral's GGUF files say `llama`.
    if c.is_gguf() && c.size("expert_count")?.is_some_and(|n| n > 0) {
        moe::mixtral_layers(c, &mut spec)?;
    }
    Ok(spec)
}

fn mistral(c: &Config<'_>) -> Result<Spec, ModelError> {
    let style = if c.is_gguf() { RopeStyle::Pairs } else { RopeStyle::Halves };
    like_llama(c, Llama { style, window: c.window(Some(4096))?, context: 131_072, ..Llama::default() })
}

/// Where models of this shape differ.
pub(super) struct Llama {
    pub(super) style: RopeStyle,
    pub(super) window: Option<Window>,
    /// The word for layers that look at it alone.
    pub(super) local: &'static str,
    /// Defaults of the configuration class.
    pub(super) context: usize,
    pub(super) head_dim: Option<usize>,
    pub(super) eps: f64,
    pub(super) base: f64,
}

impl Default for Llama {
    fn default() -> Self {
        let (style, local) = (RopeStyle::Halves, "sliding_attention");
        Llama { style, window: None, local, context: 2048, head_dim: None, eps: 1e-6, base: 10_000.0 }
    }
}

/// RMS norms before grouped attention and a gated unit.
pub(super) fn like_llama(c: &Config<'_>, m: Llama) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(m.head_dim, None)?;
    let norm = Norm { kind: NormKind::Rms, eps: c.eps("attention.layer_norm_rms_epsilon", m.eps)? };
    let defaults = Defaults { head_dim: key_dim, base: m.base, partial: 1.0, style: m.style, layer_type: None };
    let ffn = Ffn::Gated { act: c.activation("hidden_act", Unary::Silu)?, width: c.need("feed_forward_length")? };
    let layers = c.layers()?;
    let layer = |windowed: bool| {
        let window = m.window.filter(|_| windowed);
        let scale = 1.0 / (key_dim as f32).sqrt();
        let rope = Some(0);
        let mixer = Attention { heads, kv_heads, key_dim, value_dim, rope, window, scale, ..Attention::default() };
        Layer { norm, place: Place::Pre, mixer: Mixer::Attention(mixer), ffn }
    };
    Ok(Spec {
        width,
        vocab,
        context: c.context(m.context)?,
        embed_scale: None,
        positions: None,
        layers: c.windowed(m.local, layers, |_| true)?.into_iter().map(layer).collect(),
        ropes: vec![rope(c, defaults)?],
        norm,
        tied: c.tied(),
        soft_cap: None,
        ..Spec::default()
    })
}
