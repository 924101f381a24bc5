//! Mamba (Gu and Dao 2023, arXiv:2312.00752), Falcon Mamba (Zuo et al. 2024, arXiv:2410.05355), which normalises time steps,
//! B and C, and Mamba-2 (Dao and Gu 2024, arXiv:2405.21060): layers of a state space and nothing else.

use super::Arch;
use crate::weights::{Fix, Name};
use crate::{Config, Dialect, Ffn, GateNorm, Layer, Mixer, ModelError, Norm, Place, Spec, Ssm, SsmKind};
use alula_graph::{NormKind, Unary};
use serde_json::Value;

pub(super) static MAMBA: Arch = Arch { gguf: "mamba", hf: &["mamba"], names: &[NAMES, MIXER], spec: mamba1 };

pub(super) static FALCON_MAMBA: Arch =
    Arch { gguf: "falcon_mamba", hf: &["falcon_mamba"], names: &[NAMES, MIXER], spec: mamba1 };

pub(super) static MAMBA2: Arch = Arch { gguf: "mamba2", hf: &["mamba2"], names: &[NAMES, MIXER], spec: mamba2 };

const NAMES: &[Name] = &[
    Name("token_embd", "backbone.embeddings", Fix::None),
    Name("token_embd", "backbone.embedding", Fix::None),
    Name("output_norm", "backbone.norm_f", Fix::None),
    Name("output", "lm_head", Fix::None),
    Name("blk.{}.attn_norm", "backbone.layers.{}.norm", Fix::None),
];

/// The tensors of a state space, by the folder that they are in.
macro_rules! mixer {
    ($at:literal) => {
        &[
            Name("blk.{}.ssm_in", concat!($at, ".in_proj"), Fix::None),
            Name("blk.{}.ssm_conv1d", concat!($at, ".conv1d"), Fix::None),
            Name("blk.{}.ssm_x", concat!($at, ".x_proj"), Fix::None),
            Name("blk.{}.ssm_dt", concat!($at, ".dt_proj"), Fix::None),
            Name("blk.{}.ssm_dt.bias", concat!($at, ".dt_bias"), Fix::None),
            Name("blk.{}.ssm_a", concat!($at, ".A_log"), Fix::NegExp),
            Name("blk.{}.ssm_d", concat!($at, ".D"), Fix::None),
            Name("blk.{}.ssm_dt_norm", concat!($at, ".dt_layernorm"), Fix::None),
            Name("blk.{}.ssm_b_norm", concat!($at, ".b_layernorm"), Fix::None),
            Name("blk.{}.ssm_c_norm", concat!($at, ".c_layernorm"), Fix::None),
            Name("blk.{}.ssm_norm", concat!($at, ".norm"), Fix::None),
            Name("blk.{}.ssm_out", concat!($at, ".out_proj"), Fix::None),
        ]
    };
}

const MIXER: &[Name] = mixer!("backbone.layers.{}.mixer");

/// Those of hybrids.
pub(super) const HYBRID: &[Name] = mixer!("model.layers.{}.mamba");

fn mamba1(c: &Config<'_>) -> Result<Spec, ModelError> {
    let normalised = match c.dialect {
        Dialect::Gguf(meta, arch) => meta.find::<bool>(&format!("{arch}.ssm.dt_b_c_rms"))?.unwrap_or(false),
        Dialect::Hf(root) => root.get("model_type").is_some_and(|t| t == "falcon_mamba"),
    };
    let norm = norm(c)?;
    // GGUF has one epsilon.
    let eps = if c.is_gguf() { norm.eps } else { c.eps("mixer_rms_eps", 1e-6)? };
    // Falcon Mamba's file gives the columns beside a factor that would make others.
    let given = if c.is_gguf() { None } else { c.size("feed_forward_length")?.filter(|n| *n > 0) };
    let inner = given.map_or_else(|| inner(c), Ok)?;
    spec(c, norm, first(c, inner, normalised.then_some(Norm { eps, ..norm }))?)
}

fn mamba2(c: &Config<'_>) -> Result<Spec, ModelError> {
    let norm = norm(c)?;
    let sizes = Sizes { heads: 128, groups: 8, state: 128 };
    spec(c, norm, second(c, sizes, Some((norm, GateNorm::After)))?)
}

fn norm(c: &Config<'_>) -> Result<Norm, ModelError> {
    let key = if c.is_gguf() { "attention.layer_norm_rms_epsilon" } else { "layer_norm_epsilon" };
    Ok(Norm { kind: NormKind::Rms, eps: c.eps(key, 1e-5)? })
}

fn spec(c: &Config<'_>, norm: Norm, mixer: Ssm) -> Result<Spec, ModelError> {
    let (vocab, width) = c.embedding()?;
    Ok(Spec {
        width,
        vocab,
        context: c.context(1 << 20)?,
        embed_scale: None,
        positions: None,
        layers: vec![Layer { norm, place: Place::Pre, mixer: Mixer::Ssm(mixer), ffn: Ffn::None }; c.layers()?],
        ropes: vec![],
        norm,
        tied: c.tied(),
        soft_cap: None,
        logit_scale: None,
        factors: vec![],
        ..Spec::default()
    })
}

/// Defaults of a configuration class.
pub(super) struct Sizes {
    pub(super) heads: usize,
    pub(super) groups: usize,
    pub(super) state: usize,
}

/// A size above 0, which only GGUF must have.
fn size(c: &Config<'_>, key: &str, default: usize) -> Result<usize, ModelError> {
    match c.size(key)? {
        None if !c.is_gguf() => Ok(default),
        _ => c.need(key),
    }
}

/// Columns that are scanned.
pub(super) fn inner(c: &Config<'_>) -> Result<usize, ModelError> {
    if c.is_gguf() || c.json("ssm.inner_size").is_some() {
        return c.need("ssm.inner_size");
    }
    let width = c.need("embedding_length")?;
    match (c.number("ssm.expand")?.unwrap_or(2.0) * width as f64) as usize {
        n @ 1..=0x100_0000 => Ok(n),
        n => Err(c.error("ssm.expand", format!("makes {n} columns of {width}; expected 1 to {}", 1 << 24))),
    }
}

/// Mamba's state space of `inner` columns.
pub(super) fn first(c: &Config<'_>, inner: usize, norm: Option<Norm>) -> Result<Ssm, ModelError> {
    let (key, width) = ("ssm.time_step_rank", c.need("embedding_length")?);
    let auto = c.json(key).and_then(Value::as_str) == Some("auto");
    let rank = if auto { width.div_ceil(16) } else { size(c, key, width.div_ceil(16))? };
    Ok(Ssm {
        inner,
        heads: inner,
        groups: 1,
        state: size(c, "ssm.state_size", 16)?,
        taps: size(c, "ssm.conv_kernel", 4)?,
        act: c.activation("hidden_act", Unary::Silu)?,
        kind: SsmKind::Mamba { rank, norm },
    })
}

/// Mamba-2's.
pub(super) fn second(c: &Config<'_>, d: Sizes, norm: Option<(Norm, GateNorm)>) -> Result<Ssm, ModelError> {
    let (heads_key, inner) = (if c.is_gguf() { "ssm.time_step_rank" } else { "ssm.head_count" }, inner(c)?);
    let (heads, groups) = (size(c, heads_key, d.heads)?, size(c, "ssm.group_count", d.groups)?);
    if inner % heads != 0 {
        return Err(c.error(heads_key, format!("is {heads}, which does not divide {inner} columns")));
    }
    if heads % groups != 0 {
        return Err(c.error("ssm.group_count", format!("is {groups}, which does not divide {heads} heads")));
    }
    Ok(Ssm {
        inner,
        heads,
        groups,
        state: size(c, "ssm.state_size", d.state)?,
        taps: size(c, "ssm.conv_kernel", 4)?,
        act: c.activation("hidden_act", Unary::Silu)?,
        kind: SsmKind::Mamba2 { norm, limits: limits(c)? },
    })
}

/// The least and the largest time step, if they limit anything.
fn limits(c: &Config<'_>) -> Result<Option<(f32, f32)>, ModelError> {
    let Some(value) = c.json("time_step_limit") else { return Ok(None) };
    let number = |v: &Value| match v.get("__float__").unwrap_or(v) {
        Value::String(s) if s == "Infinity" => Some(f64::INFINITY),
        Value::String(s) if s == "-Infinity" => Some(f64::NEG_INFINITY),
        v => v.as_f64(),
    };
    let limits = match value.as_array().map(Vec::as_slice) {
        Some([lo, hi]) => number(lo).zip(number(hi)),
        _ => None,
    };
    match limits {
        Some((lo, hi)) if lo <= hi => Ok(Some((lo as f32, hi as f32)).filter(|(lo, hi)| *lo > 0.0 || hi.is_finite())),
        _ => Err(c.error("time_step_limit", format!("is {value}; expected a least and a largest time step"))),
    }
}
