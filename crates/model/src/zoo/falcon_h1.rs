//! Falcon-H1 (Zuo et al. 2025, arXiv:2507.22448): attention and Mamba-2 side by side in every layer, with factors on almost
//! every product. GGUF files have the factors in their weights.

use super::granite::{BLOCKS, Hybrid, hybrid, norm};
use super::mamba::{HYBRID, Sizes, second};
use super::{Arch, MATRICES, NORMS};
use crate::{Config, GateNorm, Mixer, ModelError, Spec};
use alula_graph::RopeStyle;

pub(super) static FALCON_H1: Arch =
    Arch { gguf: "falcon-h1", hf: &["falcon_h1"], names: &[BLOCKS, HYBRID, MATRICES, NORMS], spec };

fn spec(c: &Config<'_>) -> Result<Spec, ModelError> {
    let (norm, ffn, recurrent) = (norm(c, 1e-5)?, c.need("feed_forward_length")?, vec![false; c.layers()?]);
    let (partial, style) = (Some(1.0), RopeStyle::Halves);
    let mut spec = hybrid(c, Hybrid { norm, context: 8192, partial, style, ffn, recurrent, ssm: None })?;
    // Which order a GGUF file has it does not say.
    let after = c.is_gguf() || c.flag("mamba_norm_before_gate") == Some(false);
    let gate = (norm, if after { GateNorm::After } else { GateNorm::Before });
    let normalised = c.shape("blk.0.ssm_norm.weight").is_some();
    let sizes = Sizes { heads: 128, groups: 1, state: 256 };
    let ssm = second(c, sizes, normalised.then_some(gate))?;
    for layer in &mut spec.layers {
        if let Mixer::Attention(a) = &layer.mixer {
            layer.mixer = Mixer::Both(a.clone(), ssm.clone());
        }
    }
    spec.embed_scale = c.number("embedding_scale")?.map(|k| k as f32);
    spec.logit_scale = c.number("lm_head_multiplier")?.map(|k| k as f32);
    for (key, value) in [
        ("attention_in_multiplier", "attn_in"),
        ("key_multiplier", "attn_k"),
        ("attention_out_multiplier", "attn_output"),
        ("ssm_in_multiplier", "ssm_in"),
        ("ssm_out_multiplier", "ssm_out"),
    ] {
        spec.factors.push((value, c.float(key, 1.0)?));
    }
    let lists: [(&str, &[&'static str]); 2] = [
        ("mlp_multipliers", &["ffn_gate", "ffn_down"]),
        ("ssm_multipliers", &["ssm_z", "ssm_u", "ssm_b", "ssm_c", "ssm_dt"]),
    ];
    for (key, values) in lists {
        let Some(all) = c.json(key) else { continue };
        let numbers: Option<Vec<f64>> = all.as_array().and_then(|a| a.iter().map(serde_json::Value::as_f64).collect());
        match numbers {
            Some(n) if n.len() == values.len() => {
                spec.factors.extend(values.iter().zip(n).map(|(value, k)| (*value, k as f32)));
            }
            _ => return Err(c.error(key, format!("is {all}; expected {} numbers", values.len()))),
        }
    }
    Ok(spec)
}
