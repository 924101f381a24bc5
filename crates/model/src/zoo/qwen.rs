//! Qwen2 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on queries, keys and values. Qwen3 (Yang et al.
//! 2025, arXiv:2505.09388): with norms of queries and keys instead. Biases and norms are found by their tensors.

use super::llama::{Llama, like_llama};
use super::{Arch, MATRICES, NORMS};
use crate::{Config, ModelError, Spec};

pub(super) static QWEN2: Arch =
    Arch { gguf: "qwen2", hf: &["qwen2"], names: &[MATRICES, NORMS], spec: |c| qwen(c, None) };

pub(super) static QWEN3: Arch =
    Arch { gguf: "qwen3", hf: &["qwen3"], names: &[MATRICES, NORMS], spec: |c| qwen(c, Some(128)) };

pub(super) fn qwen(c: &Config<'_>, head_dim: Option<usize>) -> Result<Spec, ModelError> {
    let window = if c.flag("use_sliding_window") == Some(true) { c.window(Some(4096))? } else { None };
    let head_dim = head_dim.filter(|_| !c.is_gguf());
    let mut spec = like_llama(c, Llama { window, context: 32_768, head_dim, ..Llama::default() })?;
    // Without `layer_types`, the window begins at a layer.
    if c.json("layer_types").is_none() {
        let first = c.size("max_window_layers")?.unwrap_or(28);
        for layer in spec.layers.iter_mut().take(first) {
            if let Some(a) = layer.mixer.attention_mut() {
                a.window = None;
            }
        }
    }
    Ok(spec)
}
