//! Adapters as Hugging Face's PEFT saves them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

use super::{Adapter, Pair, targets};
use crate::ModelError;
use crate::weights::Store;
use alula_format::clip_to;
use alula_format::hf::Folder;
use alula_format::safetensors::SafeTensors;
use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Patterns of ranks or scales, and bytes of one, at most.
const MOST: usize = 4096;
const LONGEST: usize = 512;

/// Fields that ask for what is not done, and what to do. They count where they are neither null, false, empty nor `none`.
const REFUSED: &[(&str, &str)] = &[
    ("bias", "trained biases are not applied; train with bias = \"none\", or merge the adapter with PEFT"),
    ("lora_bias", "biases of B are not applied; merge the adapter with PEFT"),
    ("modules_to_save", "whole modules are not replaced; merge the adapter with PEFT"),
    ("trainable_token_indices", "rows of trained tokens are not replaced; merge the adapter with PEFT"),
    ("target_parameters", "parameters that are no matrices of their own, as stacks of experts, are not changed"),
    ("layer_replication", "layers are not repeated; merge the adapter with PEFT"),
    ("alora_invocation_tokens", "adapters that begin at certain tokens are not applied"),
    ("arrow_config", "adapters that choose among others are not applied"),
    ("kasa_config", "the base's matrices would have to be changed; merge the adapter with PEFT"),
    ("monteclora_config", "random adapters are not applied; merge the adapter with PEFT"),
];

/// Ways to begin the training that leave the base as it is.
const INITS: &[&str] = &["gaussian", "orthogonal", "eva"];

pub(super) fn open(path: &Path) -> Result<Adapter, ModelError> {
    let name = path.display().to_string();
    let file = format!("{name}/{CONFIG}");
    let none = |what: &str, fix: &str| ModelError::Path { path: name.clone(), why: format!("has no {what}; {fix}") };
    let config = match Folder::open(path)?.json(CONFIG)? {
        Some(Value::Object(config)) => config,
        Some(_) => return Err(ModelError::Path { path: file, why: "holds no JSON object".into() }),
        None => return Err(none(CONFIG, "give the folder that PEFT's `save_pretrained` wrote")),
    };
    let config = Config { file: &file, fields: &config };
    config.check()?;
    let weights = path.join(WEIGHTS);
    if !weights.is_file() {
        return Err(none(WEIGHTS, "save the adapter in its safetensors form"));
    }
    let store = SafeTensors::open(weights)?;
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let mut bases = BTreeSet::new();
    for info in store.tensors() {
        let full = info.name();
        let module = full.strip_prefix("base_model.model.").unwrap_or(full);
        let known = [
            (".lora_A.weight", true, false),
            (".lora_B.weight", false, false),
            (".lora_embedding_A", true, true),
            (".lora_embedding_B", false, true),
        ];
        let found = known.iter().find_map(|(end, a, table)| Some((module.strip_suffix(end)?, *a, *table)));
        let Some((module, is_a, table)) = found else {
            // The base's own embeddings are saved beside an adapter of them.
            match module.strip_suffix(".base_layer.weight") {
                Some(module) => _ = bases.insert(format!("{module}.weight")),
                None => return Err(unknown(&name, full)),
            }
            continue;
        };
        let pair = pairs.entry(format!("{module}.weight")).or_default();
        pair.table |= table;
        *(if is_a { &mut pair.a } else { &mut pair.b }) = Some(full.to_owned());
    }
    if let Some(lone) = bases.iter().find(|b| !pairs.contains_key(*b)) {
        return Err(unknown(&name, lone));
    }
    let (ranks, alphas) = (config.patterns("rank_pattern")?, config.patterns("alpha_pattern")?);
    let (rank, alpha) = (config.number("r")?, config.number("lora_alpha")?);
    let stabilised = config.asks("use_rslora");
    let store = Store::Safe(store);
    let scale = |tensor: &str, have: usize| {
        let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
        let own = |patterns: &[(Regex, f64)], all| {
            for (pattern, value) in patterns {
                let complex = |_| config.wrong("rank_pattern", "or `alpha_pattern` is too complex".into());
                if pattern.is_match(module).map_err(complex)? {
                    return Ok(Some(*value));
                }
            }
            Ok::<_, ModelError>(all)
        };
        if let Some(said) = own(&ranks, rank)?.filter(|r| *r != have as f64) {
            let why =
                format!("is of rank {have}, but {CONFIG} says {said}; the two files belong to different adapters");
            return Err(ModelError::Tensor { file: name.clone(), tensor: clip_to(tensor, 200), why });
        }
        let alpha = own(&alphas, alpha)?.ok_or_else(|| config.wrong("lora_alpha", "is missing".into()))?;
        let have = have as f64;
        Ok((alpha / if stabilised { have.sqrt() } else { have }) as f32)
    };
    let targets = targets(&name, &store, pairs, scale)?;
    Ok(Adapter { file: name.clone(), store, arch: None, targets })
}

fn unknown(file: &str, tensor: &str) -> ModelError {
    let why = "is no matrix of a LoRA adapter (`lora_A`, `lora_B`) and cannot be applied; merge the adapter with PEFT";
    ModelError::Tensor { file: file.to_owned(), tensor: clip_to(tensor, 200), why: why.into() }
}

struct Config<'a> {
    file: &'a str,
    fields: &'a Map<String, Value>,
}

impl Config<'_> {
    fn wrong(&self, field: &str, why: String) -> ModelError {
        ModelError::Config { file: self.file.to_owned(), field: clip_to(field, 96), why }
    }

    /// Whether a field says anything but no.
    fn asks(&self, field: &str) -> bool {
        match self.fields.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(s)) => s != "none" && !s.is_empty(),
            Some(Value::Array(a)) => !a.is_empty(),
            Some(Value::Object(o)) => !o.is_empty(),
            Some(_) => true,
        }
    }

    /// Whether anything is asked for that is not done.
    fn check(&self) -> Result<(), ModelError> {
        let kind = self.fields.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if kind != "LORA" {
            let why = format!("is `{}`; only `LORA` adapters can be applied", clip_to(kind, 96));
            return Err(self.wrong("peft_type", why));
        }
        if let Some((field, fix)) = REFUSED.iter().find(|r| self.asks(r.0)) {
            return Err(self.wrong(field, format!("is set, but {fix}")));
        }
        // DoRA, QALoRA and what else changes the product.
        let variant = |k: &&String| k.starts_with("use_") && *k != "use_rslora" && self.asks(k);
        if let Some(field) = self.fields.keys().find(variant) {
            let why = "is set, but only plain and rank-stabilised LoRA can be applied; merge the adapter with PEFT";
            return Err(self.wrong(field, why.into()));
        }
        match self.fields.get("init_lora_weights") {
            Some(Value::String(init)) if !INITS.contains(&init.as_str()) => {
                let why = format!(
                    "is `{}`, which changes the base's matrices too; save the adapter with PEFT's \
                     `path_initial_model_for_weight_conversion`",
                    clip_to(init, 96)
                );
                Err(self.wrong("init_lora_weights", why))
            }
            _ => Ok(()),
        }
    }

    fn number(&self, field: &str) -> Result<Option<f64>, ModelError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => self.finite(field, v).map(Some),
        }
    }

    fn finite(&self, field: &str, v: &Value) -> Result<f64, ModelError> {
        let number = v.as_f64().filter(|n| n.is_finite() && n.abs() < 1e30);
        number.ok_or_else(|| self.wrong(field, format!("is {}; expected a number", clip_to(&v.to_string(), 96))))
    }

    /// Numbers by patterns of modules' names. The first that matches the name, or its end after a dot, counts.
    fn patterns(&self, field: &str) -> Result<Vec<(Regex, f64)>, ModelError> {
        let all = match self.fields.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(all)) if all.len() <= MOST => all,
            Some(_) => return Err(self.wrong(field, format!("is no object of at most {MOST} numbers"))),
        };
        let one = |(key, v): (&String, &Value)| {
            let short = Some(key).filter(|k| k.len() <= LONGEST);
            let regex = short.and_then(|k| {
                let mut builder = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{k})$"));
                builder.delegate_size_limit(1 << 16).backtrack_limit(10_000).build().ok()
            });
            let why = || format!("has the pattern `{}`, which is no regular expression or too long", clip_to(key, 96));
            Ok((regex.ok_or_else(|| self.wrong(field, why()))?, self.finite(field, v)?))
        };
        all.iter().map(one).collect()
    }
}
