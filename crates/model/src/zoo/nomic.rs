//! nomic-embed-text v1 and v1.5 (Nussbaum et al. 2024, arXiv:2402.01613) and GTE (Zhang et al. 2024, arXiv:2407.19669): BERT
//! with rotary positions and gated units.

use super::Arch;
use super::bert::{Bert, POOLER, like_bert, types};
use crate::rope::{Defaults, rope};
use crate::weights::{Fix, Name};
use crate::{Config, Ffn, ModelError, Spec};
use alula_graph::{RopeStyle, Unary};

pub(super) static NOMIC_BERT: Arch =
    Arch { gguf: "nomic-bert", hf: &["nomic_bert"], names: &[HUB, NAMES, POOLER], spec: nomic };

pub(super) static GTE: Arch = Arch { gguf: "gte", hf: &["gte", "new"], names: &[GTE_HUB, NAMES, POOLER], spec: gte };

/// As transformers calls them.
const NAMES: &[Name] = &[
    Name("token_embd", "nomic_bert.embeddings.word_embeddings", Fix::None),
    Name("token_types", "nomic_bert.embeddings.token_type_embeddings", Fix::None),
    Name("token_embd_norm", "nomic_bert.embeddings.LayerNorm", Fix::None),
    Name("blk.{}.attn_q", "nomic_bert.layers.{}.self_attn.q_proj", Fix::None),
    Name("blk.{}.attn_k", "nomic_bert.layers.{}.self_attn.k_proj", Fix::None),
    Name("blk.{}.attn_v", "nomic_bert.layers.{}.self_attn.v_proj", Fix::None),
    Name("blk.{}.attn_output", "nomic_bert.layers.{}.self_attn.o_proj", Fix::None),
    Name("blk.{}.attn_output_norm", "nomic_bert.layers.{}.post_attention_layernorm", Fix::None),
    Name("blk.{}.ffn_gate", "nomic_bert.layers.{}.mlp.gate_proj", Fix::None),
    Name("blk.{}.ffn_up", "nomic_bert.layers.{}.mlp.up_proj", Fix::None),
    Name("blk.{}.ffn_down", "nomic_bert.layers.{}.mlp.down_proj", Fix::None),
    Name("blk.{}.layer_output_norm", "nomic_bert.layers.{}.post_mlp_layernorm", Fix::None),
];

/// As the files on the hub do.
const HUB: &[Name] = &[
    Name("token_embd_norm", "model.emb_ln", Fix::None),
    Name("blk.{}.attn_qkv", "model.encoder.layers.{}.attn.Wqkv", Fix::None),
    Name("blk.{}.attn_output", "model.encoder.layers.{}.attn.out_proj", Fix::None),
    Name("blk.{}.attn_output_norm", "model.encoder.layers.{}.norm1", Fix::None),
    Name("blk.{}.ffn_gate", "model.encoder.layers.{}.mlp.fc12", Fix::None),
    Name("blk.{}.ffn_up", "model.encoder.layers.{}.mlp.fc11", Fix::None),
    Name("blk.{}.ffn_down", "model.encoder.layers.{}.mlp.fc2", Fix::None),
    Name("blk.{}.layer_output_norm", "model.encoder.layers.{}.norm2", Fix::None),
];

const GTE_HUB: &[Name] = &[
    Name("token_embd", "new.embeddings.word_embeddings", Fix::None),
    Name("token_types", "new.embeddings.token_type_embeddings", Fix::None),
    Name("token_embd_norm", "new.embeddings.LayerNorm", Fix::None),
    Name("blk.{}.attn_qkv", "new.encoder.layer.{}.attention.qkv_proj", Fix::None),
    Name("blk.{}.attn_output", "new.encoder.layer.{}.attention.o_proj", Fix::None),
    Name("blk.{}.attn_output_norm", "new.encoder.layer.{}.attn_ln", Fix::None),
    Name("blk.{}.ffn_up", "new.encoder.layer.{}.mlp.up_gate_proj", Fix::Halves),
    Name("blk.{}.ffn_down", "new.encoder.layer.{}.mlp.down_proj", Fix::None),
    Name("blk.{}.layer_output_norm", "new.encoder.layer.{}.mlp_ln", Fix::None),
    Name("cls", "new.pooler.dense", Fix::None),
];

fn nomic(c: &Config<'_>) -> Result<Spec, ModelError> {
    for key in ["prenorm", "parallel_block", "use_rms_norm", "rotary_emb_interleaved", "causal"] {
        if c.flag(key) == Some(true) {
            return Err(c.error(key, "is true; models like nomic-embed-text v1.5 run, where it is false"));
        }
    }
    for key in ["num_experts", "moe_every_n_layers"] {
        if let Some(n @ 1..) = c.size(key)? {
            return Err(c.error(key, format!("is {n}; mixtures of experts do not run yet")));
        }
    }
    // The hub's files and those of transformers have other defaults.
    let hub = c.text("activation_function")?;
    let act = match hub {
        None => c.activation("hidden_act", Unary::Silu)?,
        Some("swiglu") => Unary::Silu,
        Some("geglu") => Unary::Gelu,
        Some(other) => return Err(c.error("activation_function", format!("is `{other}`; supported are swiglu, geglu"))),
    };
    let base = c.number("rotary_emb_base")?.unwrap_or(if hub.is_some() || c.is_gguf() { 10_000.0 } else { 1000.0 });
    let mut spec = rotary(c, act, base, 2)?;
    spec.context = spec.context.min(c.size("max_trained_positions")?.unwrap_or(usize::MAX));
    Ok(spec)
}

fn gte(c: &Config<'_>) -> Result<Spec, ModelError> {
    if let Some(kind) = c.text("layer_norm_type")?.filter(|kind| *kind != "layer_norm") {
        return Err(c.error("layer_norm_type", format!("is `{kind}`; supported is layer_norm")));
    }
    rotary(c, c.activation("hidden_act", Unary::Gelu)?, 160_000.0, 1)
}

fn rotary(c: &Config<'_>, act: Unary, base: f64, n: usize) -> Result<Spec, ModelError> {
    let head_dim = c.heads(None, None)?.2;
    let partial = c.number("rotary_emb_fraction")?.unwrap_or(1.0);
    let table = rope(c, Defaults { head_dim, base, partial, style: RopeStyle::Halves, layer_type: None })?;
    let ffn = Ffn::Gated { act, width: c.need("feed_forward_length")? };
    like_bert(c, Bert { rope: Some(table), ffn, types: types(c, n)?, ..Bert::new(c)? })
}
