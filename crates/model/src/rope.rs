//! Rotary frequencies from both dialects, with every scaling: linear (arXiv:2306.15595), Llama 3, YaRN
//! (arXiv:2309.00071), LongRoPE (arXiv:2402.13753), and tables of factors in GGUF.
//!
//! Computed as Hugging Face transformers computes them (`modeling_rope_utils.py`), in single precision where it uses
//! single precision.

use crate::{Config, Dialect, ModelError, Rope};
use alula_graph::{Change, Past, RopeStyle, RopeTable, rope_powers};
use serde_json::Value;
use std::f64::consts::PI;

/// How frequencies are changed.
enum Scaling {
    None,
    Linear(f64),
    Dynamic {
        factor: f64,
        original: usize,
    },
    /// A factor per pair, worked out by whoever made the file.
    Factors {
        factors: Vec<f32>,
        attention: f64,
    },
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    Yarn {
        factor: f64,
        original: f64,
        fast: f64,
        slow: f64,
        truncate: bool,
        attention: f64,
    },
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original: usize,
        attention: f64,
    },
}

impl Scaling {
    fn table(self, base: f64, dims: usize) -> RopeTable {
        let plain = || rope_powers(base, dims).map(|p| 1.0 / p);
        let (mut past, mut factor) = (None, 1.0);
        let inv_freq: Vec<f32> = match self {
            Scaling::None => plain().collect(),
            Scaling::Dynamic { factor, original } => {
                past = Some(Past { original, change: Change::Ntk { base, factor } });
                plain().collect()
            }
            Scaling::Linear(f) => plain().map(|x| x / f as f32).collect(),
            Scaling::Factors { factors, attention } => {
                factor = attention as f32;
                plain().zip(factors).map(|(x, f)| x / f).collect()
            }
            Scaling::Llama3 { factor: f, low, high, original } => plain()
                .map(|x| {
                    let wavelength = 2.0 * PI / f64::from(x);
                    if wavelength > original / low {
                        x / f as f32
                    } else if wavelength < original / high {
                        x
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        ((1.0 - smooth) * f64::from(x) / f + smooth * f64::from(x)) as f32
                    }
                })
                .collect(),
            Scaling::Yarn { factor: f, original, fast, slow, truncate, attention } => {
                factor = attention as f32;
                let dim = |rotations: f64| dims as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * base.ln());
                let (mut low, mut high) = (dim(fast), dim(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dims as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let mix = |(i, p): (usize, f32)| {
                    let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                    1.0 / (f as f32 * p) * (1.0 - keep) + 1.0 / p * keep
                };
                rope_powers(base, dims).enumerate().map(mix).collect()
            }
            Scaling::Long { short, long, original, attention } => {
                factor = attention as f32;
                let by = |factors: Vec<f32>| rope_powers(base, dims).zip(factors).map(|(p, f)| 1.0 / (f * p)).collect();
                past = Some(Past { original, change: Change::Table(by(long)) });
                by(short)
            }
        };
        RopeTable { inv_freq, factor, past }
    }
}

/// The attention factor that YaRN's paper recommends.
fn yarn_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// LongRoPE's.
fn long_factor(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

/// What an architecture says of its rotary embedding.
#[derive(Clone, Copy)]
pub(crate) struct Defaults {
    /// Columns of a head.
    pub(crate) head_dim: usize,
    /// Base where the configuration has none.
    pub(crate) base: f64,
    /// Part of a head that is rotated, where the configuration does not say.
    pub(crate) partial: f64,
    /// Pairing.
    pub(crate) style: RopeStyle,
    /// Key of this table in `rope_parameters`, where layer types have their own (Gemma 3).
    pub(crate) layer_type: Option<&'static str>,
}

/// The rotary embedding that a configuration describes.
pub(crate) fn rope(c: &Config<'_>, d: Defaults) -> Result<Rope, ModelError> {
    let (base, dims, scaling) = match c.dialect {
        Dialect::Gguf(..) => gguf(c, d)?,
        Dialect::Hf(_) => hf(c, d)?,
    };
    if base.is_nan() || base <= 1.0 || dims == 0 || dims % 2 != 0 || dims > d.head_dim {
        let why = format!(
            "rotates {dims} of {} columns with base {base}; expected an even number and a base above 1",
            d.head_dim
        );
        return Err(c.error("rope.dimension_count", why));
    }
    match &scaling {
        Scaling::Factors { factors, .. } if factors.len() != dims / 2 => {
            return Err(c.error("rope_freqs.weight", format!("has {} factors, not {}", factors.len(), dims / 2)));
        }
        Scaling::Long { short, long, .. } if short.len() != dims / 2 || long.len() != dims / 2 => {
            let why = format!("needs {} factors, not {} and {}", dims / 2, short.len(), long.len());
            return Err(c.error("rope.scaling", why));
        }
        Scaling::Dynamic { .. } if dims < 4 => {
            return Err(c.error("rope.scaling", "dynamic needs at least 4 rotated columns"));
        }
        _ => {}
    }
    let table = scaling.table(base, dims);
    if !table.inv_freq.iter().chain([&table.factor]).all(|x| x.is_finite()) {
        return Err(c.error("rope.scaling", "makes rotations that are no finite numbers; its factors must be above 0"));
    }
    Ok(Rope { table, style: d.style })
}

/// The factor on scores that DeepSeek's YaRN brings, where its rotations do not.
pub(crate) fn latent_scale(c: &Config<'_>) -> Result<f64, ModelError> {
    let (factor, all) = match c.dialect {
        // The converter writes a tenth of it.
        Dialect::Gguf(..) => {
            let all = c.number("rope.scaling.yarn_log_multiplier")?.map(|m| m / f64::from(0.1f32));
            (c.number("rope.scaling.factor")?, all)
        }
        Dialect::Hf(_) => {
            let old = c.json("rope_scaling").filter(|p| p.as_object().is_some_and(|p| !p.is_empty()));
            let scaling = old.or(c.json("rope_parameters"));
            let get = |key: &str| scaling.and_then(|p| p.get(key));
            let kind = get("rope_type").or(get("type")).and_then(Value::as_str).unwrap_or("default");
            let number = |key: &str| get(key).and_then(Value::as_f64).filter(|_| kind != "default");
            (number("factor"), number("mscale_all_dim"))
        }
    };
    Ok(match (factor, all.filter(|all| *all != 0.0)) {
        (Some(factor), Some(all)) => yarn_factor(factor, all).powi(2),
        _ => 1.0,
    })
}

fn gguf(c: &Config<'_>, d: Defaults) -> Result<(f64, usize, Scaling), ModelError> {
    let swa = d.layer_type == Some("sliding_attention");
    let base = c.number(if swa { "rope.freq_base_swa" } else { "rope.freq_base" })?.unwrap_or(d.base);
    let dims = c.size("rope.dimension_count")?.unwrap_or((d.head_dim as f64 * d.partial) as usize);
    if swa {
        return Ok((base, dims, Scaling::None));
    }
    let Dialect::Gguf(meta, arch) = c.dialect else { return Ok((base, dims, Scaling::None)) };
    let factor = c.number("rope.scaling.factor")?.or(c.number("rope.scale_linear")?);
    let factor = factor.filter(|f| *f != 0.0).unwrap_or(1.0); // 0 says that there is none
    let original = c.number("rope.scaling.original_context_length")?;
    let attention = c.number("rope.scaling.attn_factor")?;
    let kind = meta.find::<&str>(&format!("{arch}.rope.scaling.type"))?;
    let factors = (c.values("rope_factors_short.weight")?, c.values("rope_factors_long.weight")?);
    if let (Some(short), Some(long)) = factors {
        let original = original.ok_or_else(|| c.error("rope.scaling.original_context_length", "is missing"))?;
        let attention = attention.unwrap_or(1.0);
        return Ok((base, dims, Scaling::Long { short, long, original: original as usize, attention }));
    }
    if let Some(f) = c.values("rope_freqs.weight")? {
        // One table for all lengths: Llama 3's scaling, worked out by the converter.
        let attention = attention.unwrap_or(1.0);
        return Ok((base, dims, Scaling::Factors { factors: f, attention }));
    }
    let scaling = match kind.unwrap_or("linear") {
        "none" => Scaling::None,
        "linear" if factor == 1.0 => Scaling::None,
        "linear" => Scaling::Linear(factor),
        "yarn" => Scaling::Yarn {
            factor,
            original: original.unwrap_or(c.context(4096)? as f64),
            fast: c.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            slow: c.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            // The converter writes an explicit factor of the configuration as it is.
            attention: match c.number("rope.scaling.yarn_attn_factor")? {
                Some(f) => f,
                // DeepSeek's scale of scores has it all.
                None if arch == "deepseek2" && latent_scale(c)? != 1.0 => 1.0,
                None => attention.unwrap_or(1.0) * yarn_factor(factor, 1.0),
            },
        },
        "longrope" => Scaling::None, // its factors are tensors; a file without them does not scale
        other => {
            return Err(
                c.error("rope.scaling.type", format!("is `{other}`; supported are none, linear, yarn, longrope"))
            );
        }
    };
    Ok((base, dims, scaling))
}

fn hf(c: &Config<'_>, d: Defaults) -> Result<(f64, usize, Scaling), ModelError> {
    // transformers 5 writes `rope_parameters`, earlier ones `rope_scaling` beside `rope_theta`; where a file has both, the
    // old one counts, over the new one where layer types have their own.
    let swa = d.layer_type == Some("sliding_attention");
    for key in ["rope_scaling", "rope_parameters"] {
        if let Some(v) = c.json(key).filter(|v| !v.is_object()) {
            return Err(c.error(key, format!("must be an object, not {v}")));
        }
    }
    let old = c.json("rope_scaling").filter(|p| !swa && p.as_object().is_some_and(|p| !p.is_empty()));
    let new = c.json("rope_parameters").and_then(|p| d.layer_type.map_or(Some(p), |t| p.get(t)));
    let new = new.filter(|_| old.is_none() || d.layer_type.is_some());
    let get = |key: &str| [old, new].into_iter().flatten().find_map(|p| p.get(key)).filter(|v| !v.is_null());
    let number = |key: &str| match get(key) {
        None => Ok(None),
        Some(v) => match v.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v)),
            None => Err(c.error("rope_parameters", format!("has `{key}`: {v}; expected a number"))),
        },
    };
    let theta = if swa { "rope_local_base_freq" } else { "rope_theta" };
    let base = match number("rope_theta")? {
        Some(b) => b,
        None => c.number(theta)?.unwrap_or(d.base),
    };
    let partial = match number("partial_rotary_factor")? {
        Some(p) => p,
        None => c.number("partial_rotary_factor")?.unwrap_or(d.partial),
    };
    if !(0.0..=1.0).contains(&partial) {
        return Err(c.error("partial_rotary_factor", format!("is {partial}; expected 0 to 1")));
    }
    let dims = (d.head_dim as f64 * partial) as usize;
    let kind = get("rope_type").or(get("type"));
    let kind = kind
        .map_or(Some("default"), Value::as_str)
        .ok_or_else(|| c.error("rope_parameters", "has a type that is no text"))?;
    let need = |key: &str| number(key)?.ok_or_else(|| c.error("rope_parameters", format!("lacks `{key}`")));
    let context = c.context(4096)? as f64;
    let original = || -> Result<f64, ModelError> {
        let top = c.number("original_max_position_embeddings")?;
        Ok(top.or(number("original_max_position_embeddings")?).unwrap_or(context))
    };
    let factor = |original: f64| -> Result<f64, ModelError> { Ok(number("factor")?.unwrap_or(context / original)) };
    let scaling = match kind {
        "default" => Scaling::None,
        "dynamic" => Scaling::Dynamic { factor: need("factor")?, original: c.context(4096)? },
        "linear" => Scaling::Linear(need("factor")?),
        "llama3" => Scaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original: original()?,
        },
        // Early Phi-3 files call LongRoPE `su` or `yarn`; only it has two lists of factors.
        "longrope" | "su" | "yarn" if get("long_factor").is_some() => {
            let list = |key: &str| -> Result<Vec<f32>, ModelError> {
                let values = get(key).and_then(Value::as_array).map(|a| a.iter().map(Value::as_f64));
                let values: Option<Vec<f64>> = values.and_then(Iterator::collect);
                let values = values.ok_or_else(|| c.error("rope_parameters", format!("needs a list `{key}`")))?;
                Ok(values.into_iter().map(|v| v as f32).collect())
            };
            let original = original()?;
            let attention = match number("attention_factor")? {
                Some(a) => a,
                None => long_factor(factor(original)?, original),
            };
            let (short, long) = (list("short_factor")?, list("long_factor")?);
            Scaling::Long { short, long, original: original as usize, attention }
        }
        "yarn" => {
            let original = original()?;
            let factor = factor(original)?;
            let scale = |key| -> Result<Option<f64>, ModelError> { Ok(number(key)?.filter(|m| *m != 0.0)) };
            let attention = match (number("attention_factor")?, scale("mscale")?, scale("mscale_all_dim")?) {
                (Some(a), ..) => a,
                (None, Some(m), Some(all)) => yarn_factor(factor, m) / yarn_factor(factor, all),
                _ => yarn_factor(factor, 1.0),
            };
            Scaling::Yarn {
                factor,
                original,
                fast: number("beta_fast")?.filter(|b| *b != 0.0).unwrap_or(32.0),
                slow: number("beta_slow")?.filter(|b| *b != 0.0).unwrap_or(1.0),
                truncate: get("truncate").and_then(Value::as_bool).unwrap_or(true),
                attention,
            }
        }
        other => {
            let why = format!("has type `{other}`; supported are default, linear, dynamic, llama3, yarn, longrope");
            return Err(c.error("rope_parameters", why));
        }
    };
    Ok((base, dims, scaling))
}
