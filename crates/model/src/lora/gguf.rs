//! Adapters in GGUF, as llama.cpp's `convert_lora_to_gguf.py` writes them and its `llama-adapter.cpp` reads them.

use super::{Adapter, Pair, targets};
use crate::ModelError;
use crate::weights::Store;
use alula_format::clip_to;
use alula_format::gguf::Gguf;
use std::collections::BTreeMap;

/// The embeddings' A is looked up.
const TABLE: &str = "token_embd.weight";

pub(super) fn open(gguf: Gguf, file: &str) -> Result<Adapter, ModelError> {
    let wrong = |field: &str, why: String| ModelError::Config { file: file.to_owned(), field: field.to_owned(), why };
    let meta = &gguf.metadata;
    let kind = meta.find::<&str>("general.type")?.unwrap_or("model");
    if kind != "adapter" {
        return Err(wrong("general.type", format!("is `{}`; an adapter's is `adapter`", clip_to(kind, 96))));
    }
    let kind = meta.find::<&str>("adapter.type")?.unwrap_or("");
    if kind != "lora" {
        return Err(wrong("adapter.type", format!("is `{}`; only `lora` can be applied", clip_to(kind, 96))));
    }
    let tokens = "adapter.alora.invocation_tokens";
    if meta.get(tokens).is_some() {
        return Err(wrong(tokens, "is there, but adapters that begin at certain tokens are not applied".into()));
    }
    let arch = meta.str("general.architecture")?.to_owned();
    // None, as 0, stands for the rank.
    let alpha = meta.find::<f32>("adapter.lora.alpha")?.unwrap_or(0.0);
    if !alpha.is_finite() {
        return Err(wrong("adapter.lora.alpha", format!("is {alpha}; expected a number")));
    }
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for info in gguf.tensors() {
        let name = info.name();
        let (stem, is_a) = match (name.strip_suffix(".lora_a"), name.strip_suffix(".lora_b")) {
            (Some(stem), _) => (stem, true),
            (_, Some(stem)) => (stem, false),
            _ => {
                let why = "is neither A nor B of a pair (`.lora_a`, `.lora_b`) and cannot be applied".into();
                return Err(ModelError::Tensor { file: file.to_owned(), tensor: clip_to(name, 200), why });
            }
        };
        let pair = pairs.entry(stem.to_owned()).or_default();
        pair.table = stem == TABLE;
        *(if is_a { &mut pair.a } else { &mut pair.b }) = Some(name.to_owned());
    }
    let store = Store::Gguf(gguf);
    let scale = |_: &str, rank: usize| Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f32 });
    let targets = targets(file, &store, pairs, scale)?;
    Ok(Adapter { file: file.to_owned(), store, arch: Some(arch), targets })
}
