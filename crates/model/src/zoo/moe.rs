//! Llama-like models with mixtures of experts: Mixtral (Jiang et al. 2024, arXiv:2401.04088), Qwen2-MoE (Yang et al. 2024,
//! arXiv:2407.10671) with an expert for every token, Qwen3-MoE (Yang et al. 2025, arXiv:2505.09388), and OLMoE (Muennighoff et
//! al. 2024, arXiv:2409.02060) with norms over all queries and all keys.

use super::llama::{Llama, like_llama};
use super::qwen::qwen;
use super::{Arch, MATRICES, NORMS};
use crate::weights::{Fix, Name};
use crate::{Config, Ffn, ModelError, Spec};
use alula_graph::{RopeStyle, Unary};

/// Its GGUF files say `llama`.
pub(super) static MIXTRAL: Arch =
    Arch { gguf: "mixtral", hf: &["mixtral"], names: &[MIXTRAL_NAMES, MATRICES, NORMS], spec: mixtral };

pub(super) static QWEN2: Arch =
    Arch { gguf: "qwen2moe", hf: &["qwen2_moe"], names: &[NAMES, MATRICES, NORMS], spec: qwen2 };

pub(super) static QWEN3: Arch =
    Arch { gguf: "qwen3moe", hf: &["qwen3_moe"], names: &[NAMES, MATRICES, NORMS], spec: qwen3 };

pub(super) static OLMOE: Arch = Arch { gguf: "olmoe", hf: &["olmoe"], names: &[NAMES, MATRICES, NORMS], spec: olmoe };

const MIXTRAL_NAMES: &[Name] = &[
    Name("blk.{}.ffn_gate_inp", "model.layers.{}.block_sparse_moe.gate", Fix::None),
    Name("blk.{}.ffn_gate.{}", "model.layers.{}.block_sparse_moe.experts.{}.w1", Fix::None),
    Name("blk.{}.ffn_down.{}", "model.layers.{}.block_sparse_moe.experts.{}.w2", Fix::None),
    Name("blk.{}.ffn_up.{}", "model.layers.{}.block_sparse_moe.experts.{}.w3", Fix::None),
];

/// Routers and experts, each a tensor or all a stack.
pub(super) const NAMES: &[Name] = &[
    Name("blk.{}.ffn_gate_inp", "model.layers.{}.mlp.gate", Fix::None),
    Name("blk.{}.exp_probs_b", "model.layers.{}.mlp.gate.e_score_correction_bias", Fix::None),
    Name("blk.{}.ffn_gate.{}", "model.layers.{}.mlp.experts.{}.gate_proj", Fix::None),
    Name("blk.{}.ffn_up.{}", "model.layers.{}.mlp.experts.{}.up_proj", Fix::None),
    Name("blk.{}.ffn_down.{}", "model.layers.{}.mlp.experts.{}.down_proj", Fix::None),
    Name("blk.{}.ffn_gate_up_exps", "model.layers.{}.mlp.experts.gate_up_proj", Fix::None),
    Name("blk.{}.ffn_down_exps", "model.layers.{}.mlp.experts.down_proj", Fix::None),
    Name("blk.{}.ffn_gate_inp_shexp", "model.layers.{}.mlp.shared_expert_gate", Fix::None),
    Name("blk.{}.ffn_gate_shexp", "model.layers.{}.mlp.shared_expert.gate_proj", Fix::None),
    Name("blk.{}.ffn_up_shexp", "model.layers.{}.mlp.shared_expert.up_proj", Fix::None),
    Name("blk.{}.ffn_down_shexp", "model.layers.{}.mlp.shared_expert.down_proj", Fix::None),
    Name("blk.{}.ffn_gate_shexp", "model.layers.{}.mlp.shared_experts.gate_proj", Fix::None),
    Name("blk.{}.ffn_up_shexp", "model.layers.{}.mlp.shared_experts.up_proj", Fix::None),
    Name("blk.{}.ffn_down_shexp", "model.layers.{}.mlp.shared_experts.down_proj", Fix::None),
];

fn mixtral(c: &Config<'_>) -> Result<Spec, ModelError> {
    let style = if c.is_gguf() { RopeStyle::Pairs } else { RopeStyle::Halves };
    let m = Llama { style, window: c.window(None)?, context: 131_072, eps: 1e-5, base: 1e6, ..Llama::default() };
    let mut spec = like_llama(c, m)?;
    mixtral_layers(c, &mut spec)?;
    Ok(spec)
}

/// Every layer has experts, as wide as a plain unit would be.
pub(super) fn mixtral_layers(c: &Config<'_>, spec: &mut Spec) -> Result<(), ModelError> {
    let width = c.size("expert_feed_forward_length")?.map_or_else(|| c.need("feed_forward_length"), Ok)?;
    let ffn = Ffn::Experts(c.experts(c.activation("hidden_act", Unary::Silu)?, width, true)?);
    spec.layers.iter_mut().for_each(|layer| layer.ffn = ffn);
    Ok(())
}

/// Experts in every layer but those that the configuration leaves out.
fn sparse(c: &Config<'_>, spec: &mut Spec, normalise: bool, shared: Option<usize>) -> Result<(), ModelError> {
    let act = c.activation("hidden_act", Unary::Silu)?;
    // GGUF does not say it.
    let normalise = if c.is_gguf() { normalise } else { c.truth("expert_weights_norm")?.unwrap_or(false) };
    let mut experts = c.experts(act, c.need("expert_feed_forward_length")?, normalise)?;
    experts.shared = shared;
    let step = c.size("decoder_sparse_step")?.unwrap_or(1);
    let plain = c.places("mlp_only_layers")?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if !plain.contains(&i) && step > 0 && (i + 1) % step == 0 {
            layer.ffn = Ffn::Experts(experts);
        }
    }
    Ok(())
}

fn qwen2(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = qwen(c, None)?;
    let shared = match c.size("expert_shared_feed_forward_length")? {
        // Older GGUF files leave it to the tensors; the first layers may be without.
        None => (0..spec.layers.len()).find_map(|i| c.shape(&format!("blk.{i}.ffn_up_shexp.weight"))?.first().copied()),
        width => width,
    };
    sparse(c, &mut spec, false, shared)?;
    Ok(spec)
}

fn qwen3(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = qwen(c, None)?;
    sparse(c, &mut spec, true, None)?;
    Ok(spec)
}

fn olmoe(c: &Config<'_>) -> Result<Spec, ModelError> {
    let mut spec = like_llama(c, Llama { context: 4096, eps: 1e-5, ..Llama::default() })?;
    let normalise = if c.is_gguf() { false } else { c.truth("expert_weights_norm")?.unwrap_or(false) };
    let width = c.size("expert_feed_forward_length")?.map_or_else(|| c.need("feed_forward_length"), Ok)?;
    let experts = c.experts(c.activation("hidden_act", Unary::Silu)?, width, normalise)?;
    spec.clip = c.cap("attention.clamp_kqv", None)?;
    spec.layers.iter_mut().for_each(|layer| layer.ffn = Ffn::Experts(experts));
    Ok(spec)
}
