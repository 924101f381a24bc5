//! The architectures, one row each.
//!
//! To add one that resembles Llama: a file with its `Arch`, and its row in [`ZOO`].

mod bert;
mod deepseek;
mod falcon_h1;
mod gemma;
mod gpt2;
mod granite;
mod jamba;
mod llama;
mod llama4;
mod mamba;
mod modernbert;
mod moe;
mod nomic;
mod phi;
mod qwen;

use crate::weights::{Fix, Name};
use crate::{Config, ModelError, Spec};

/// An architecture.
pub struct Arch {
    /// Name in GGUF's `general.architecture`.
    pub gguf: &'static str,
    /// Names in `config.json`'s `model_type`.
    pub hf: &'static [&'static str],
    /// What its tensors are called in a Hugging Face folder.
    pub names: &'static [&'static [Name]],
    /// Its spec, from a configuration.
    pub spec: fn(&Config<'_>) -> Result<Spec, ModelError>,
}

/// Every architecture that Alula knows.
pub static ZOO: &[&Arch] = &[
    &llama::LLAMA,
    &llama::MISTRAL,
    &llama4::LLAMA4,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gpt2::GPT2,
    &phi::PHI2,
    &phi::PHI3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &moe::MIXTRAL,
    &moe::QWEN2,
    &moe::QWEN3,
    &moe::OLMOE,
    &deepseek::DEEPSEEK2,
    &deepseek::DEEPSEEK3,
    &bert::BERT,
    &bert::ROBERTA,
    &bert::DISTILBERT,
    &nomic::NOMIC_BERT,
    &nomic::GTE,
    &modernbert::MODERN_BERT,
    &granite::GRANITE,
    &granite::GRANITE_HYBRID,
    &granite::GRANITE_MOE,
    &granite::BAMBA,
    &mamba::MAMBA,
    &mamba::FALCON_MAMBA,
    &mamba::MAMBA2,
    &jamba::JAMBA,
    &falcon_h1::FALCON_H1,
];

/// The names that `known` models go by, for messages.
pub(crate) fn known() -> String {
    let mut names: Vec<_> = ZOO.iter().flat_map(|a| std::iter::once(a.gguf).chain(a.hf.iter().copied())).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// The matrices of Llama-like models.
const MATRICES: &[Name] = &[
    Name("token_embd", "model.embed_tokens", Fix::None),
    Name("output", "lm_head", Fix::None),
    Name("blk.{}.attn_q", "model.layers.{}.self_attn.q_proj", Fix::None),
    Name("blk.{}.attn_k", "model.layers.{}.self_attn.k_proj", Fix::None),
    Name("blk.{}.attn_v", "model.layers.{}.self_attn.v_proj", Fix::None),
    Name("blk.{}.attn_qkv", "model.layers.{}.self_attn.qkv_proj", Fix::None),
    Name("blk.{}.attn_output", "model.layers.{}.self_attn.o_proj", Fix::None),
    Name("blk.{}.ffn_gate", "model.layers.{}.mlp.gate_proj", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.mlp.up_proj", Fix::None),
    Name("blk.{}.ffn_up", "model.layers.{}.mlp.gate_up_proj", Fix::None),
    Name("blk.{}.ffn_down", "model.layers.{}.mlp.down_proj", Fix::None),
];

/// Their norms.
const NORMS: &[Name] = &[
    Name("output_norm", "model.norm", Fix::None),
    Name("blk.{}.attn_norm", "model.layers.{}.input_layernorm", Fix::None),
    Name("blk.{}.attn_q_norm", "model.layers.{}.self_attn.q_norm", Fix::None),
    Name("blk.{}.attn_k_norm", "model.layers.{}.self_attn.k_norm", Fix::None),
    Name("blk.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", Fix::None),
];
