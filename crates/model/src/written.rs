//! Specs written by hand: a folder with `spec.toml`, which is a [`Spec`] field by field, and safetensors that have GGUF's
//! names. Layers may be of any kinds in any order.

use crate::{Ffn, Head, Mixer, ModelError, Norm, Place, Rope, Spec, SsmKind};
use alula_format::clip_to;
use alula_graph::{RopeStyle, RopeTable, Unary, Window, rope_powers};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use std::io::Read;
use std::path::Path;

/// The file.
pub(crate) const FILE: &str = "spec.toml";

/// A spec is not longer.
const MOST_BYTES: u64 = 4 << 20;
/// No width, head count or the like of a real model is larger, and none has more layers.
const LARGEST: usize = 1 << 24;
const MOST_LAYERS: usize = 4096;
const MOST_EXPERTS: usize = 4096;

/// No model has more rotary embeddings.
const MOST_ROPES: usize = 64;

/// How the file describes a rotary embedding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotary {
    base: f64,
    /// Columns of a head that are rotated.
    dims: usize,
    style: RopeStyle,
}

impl TryFrom<Rotary> for Rope {
    type Error = String;
    fn try_from(r: Rotary) -> Result<Rope, String> {
        let Rotary { base, dims, style } = r;
        if !(base > 1.0 && base.is_finite()) || dims == 0 || dims % 2 != 0 || dims > 1 << 14 {
            return Err(format!("{dims} columns and base {base}; expected an even number and a base above 1"));
        }
        let inv_freq = rope_powers(base, dims).map(|p| 1.0 / p).collect();
        Ok(Rope { table: RopeTable { inv_freq, factor: 1.0, past: None }, style })
    }
}

/// A list of them.
pub(crate) fn ropes<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Rope>, D::Error> {
    let all = Vec::<Rotary>::deserialize(d)?;
    if all.len() > MOST_ROPES {
        return Err(D::Error::custom(format!("{} ropes; expected up to {MOST_ROPES}", all.len())));
    }
    all.into_iter().map(|r| r.try_into().map_err(D::Error::custom)).collect()
}

/// Reads the spec of a file.
///
/// # Errors
/// It cannot be read, is not TOML, or says what no model can be.
pub(crate) fn read(path: &Path) -> Result<Spec, ModelError> {
    let file = path.display().to_string();
    let unread = |why: String| ModelError::Path { path: file.clone(), why };
    let mut text = String::new();
    let opened = std::fs::File::open(path).map_err(|e| unread(e.to_string()))?;
    opened.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(|e| unread(e.to_string()))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(unread(format!("is larger than {MOST_BYTES} bytes; this is no spec")));
    }
    let spec: Spec = toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |s| text.as_bytes()[..s.start].iter().filter(|b| **b == b'\n').count() + 1);
        unread(format!("line {line}: {}", clip_to(e.message(), 300)))
    })?;
    let wrong = |field: String, why: String| ModelError::Config { file: file.clone(), field, why };
    check(&spec).map_err(|(field, why)| wrong(field, why))?;
    Ok(spec)
}

/// What is wrong with a size, and where it stands.
fn check(spec: &Spec) -> Result<(), (String, String)> {
    let size = |field: String, n: usize| match n {
        1..=LARGEST => Ok(()),
        _ => Err((field, format!("is {n}; expected 1 to {LARGEST}"))),
    };
    let divides = |field: String, n: usize, all: usize| match all % n {
        0 => Ok(()),
        _ => Err((field, format!("is {n}, which does not divide {all}"))),
    };
    let norm = |field: String, norm: Norm| match norm.eps >= 0.0 && norm.eps.is_finite() {
        true => Ok(()),
        false => Err((field, format!("has the eps {}; expected 0 or more", norm.eps))),
    };
    let factor = |field: String, x: f32| match x.is_finite() {
        true => Ok(()),
        false => Err((field, format!("is {x}; expected a finite number"))),
    };
    let cap = |field: String, x: Option<f32>| match x {
        Some(x) if !(x > 0.0 && x.is_finite()) => Err((field, format!("is {x}; expected a number above 0"))),
        _ => Ok(()),
    };
    let act = |field: String, f: Unary| match f {
        Unary::Scale(k) => factor(field, k),
        Unary::SoftCap(c) => cap(field, Some(c)),
        Unary::Clamp(lo, hi) if lo.is_nan() || hi.is_nan() || lo > hi => {
            Err((field, format!("clamps to {lo} to {hi}")))
        }
        _ => Ok(()),
    };
    norm("norm".into(), spec.norm)?;
    norm("embed_norm".into(), spec.embed_norm.unwrap_or_default())?;
    factor("embed_scale".into(), spec.embed_scale.unwrap_or(1.0))?;
    factor("logit_scale".into(), spec.logit_scale.unwrap_or(1.0))?;
    cap("soft_cap".into(), spec.soft_cap)?;
    cap("clip".into(), spec.clip)?;
    if spec.padding.is_some_and(|pad| pad as usize + 1 != spec.first_position) {
        return Err(("padding".into(), "must be the number of the row before `first_position`".into()));
    }
    if let Head::Classes(c) = spec.head {
        act("head".into(), c.dense.unwrap_or(Unary::Relu))?;
        norm("head".into(), c.norm.unwrap_or_default())?;
    }
    for (field, n) in [
        ("width", spec.width),
        ("vocab", spec.vocab),
        ("positions", spec.positions.unwrap_or(1)),
        ("types", spec.types.unwrap_or(1)),
    ] {
        size(field.into(), n)?;
    }
    if spec.context == 0 || spec.layers.is_empty() || spec.layers.len() > MOST_LAYERS {
        return Err(("layers".into(), format!("and context must be there; expected up to {MOST_LAYERS} layers")));
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        let at = |field: &str| format!("layers[{i}].{field}");
        norm(at("norm"), layer.norm)?;
        if let Place::Scaled(k) = layer.place {
            factor(at("place"), k)?;
        }
        if let Some(a) = layer.mixer.attention() {
            let window = a.window.map_or(1, Window::most);
            let sizes = [("heads", a.heads), ("kv_heads", a.kv_heads), ("key_dim", a.key_dim), ("window", window)];
            sizes.into_iter().chain([("value_dim", a.value_dim)]).try_for_each(|(field, n)| size(at(field), n))?;
            divides(at("kv_heads"), a.kv_heads, a.heads)?;
            factor(at("scale"), a.scale)?;
            cap(at("soft_cap"), a.soft_cap)?;
            if let Some(t) = a.temperature.filter(|t| !(t.floor >= 1.0 && t.floor.is_finite() && t.scale.is_finite())) {
                return Err((at("temperature"), format!("is {t:?}; expected a floor of 1 or more and a finite scale")));
            }
            if !a.causal && spec.head == Head::Vocabulary {
                return Err((
                    at("causal"),
                    "is false, but logits are asked for; give `head = { hidden = \"mean\" }` or the like".into(),
                ));
            }
            if let Some(rope) = a.rope.filter(|r| *r >= spec.ropes.len()) {
                return Err((at("rope"), format!("is {rope}, but there are {} ropes", spec.ropes.len())));
            }
        }
        if let Some(s) = layer.mixer.ssm() {
            let (rank, own, (lo, hi)) = match s.kind {
                SsmKind::Mamba { rank, norm } => (rank, norm, (0.0, 0.0)),
                SsmKind::Mamba2 { norm, limits } => (1, norm.map(|n| n.0), limits.unwrap_or_default()),
            };
            norm(at("kind"), own.unwrap_or_default())?;
            act(at("act"), s.act)?;
            act(at("limits"), Unary::Clamp(lo, hi))?;
            let sizes = [("inner", s.inner), ("heads", s.heads), ("groups", s.groups), ("state", s.state)];
            sizes.into_iter().chain([("taps", s.taps), ("rank", rank)]).try_for_each(|(f, n)| size(at(f), n))?;
            divides(at("heads"), s.heads, s.inner)?;
            divides(at("groups"), s.groups, s.heads)?;
        }
        if let Mixer::Latent(a) = &layer.mixer {
            let sizes =
                [("rank", a.rank), ("plain_dim", a.plain_dim), ("rope_dim", a.rope_dim), ("value_dim", a.value_dim)];
            let more = [("heads", a.heads), ("query_rank", a.query_rank.unwrap_or(1))];
            sizes.into_iter().chain(more).try_for_each(|(field, n)| size(at(field), n))?;
            factor(at("scale"), a.scale)?;
            norm(at("eps"), Norm { eps: a.eps, ..layer.norm })?;
            if a.rope >= spec.ropes.len() {
                return Err((at("rope"), format!("is {}, but there are {} ropes", a.rope, spec.ropes.len())));
            }
        }
        match layer.ffn {
            Ffn::Plain { width, act: f } | Ffn::Gated { width, act: f } => {
                size(at("ffn"), width)?;
                act(at("act"), f)?;
            }
            Ffn::Experts(e) => {
                act(at("act"), e.act)?;
                factor(at("route"), e.route.scale)?;
                size(at("width"), e.width)?;
                size(at("shared"), e.shared.unwrap_or(1))?;
                if !(1..=MOST_EXPERTS).contains(&e.count) || !(1..=e.count).contains(&e.route.used) {
                    let why =
                        format!("is {}, of which {} are used; expected 1 to {MOST_EXPERTS}", e.count, e.route.used);
                    return Err((at("count"), why));
                }
            }
            Ffn::None => {}
        }
    }
    Ok(())
}
