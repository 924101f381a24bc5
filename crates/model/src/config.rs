//! One view of both configuration dialects: GGUF metadata and Hugging Face's `config.json`.
//!
//! Keys are GGUF's, without the architecture's prefix; [`KEYS`] says what they are called in `config.json`.

use crate::weights::Weights;
use crate::{Experts, ModelError};
use alula_format::clip_to;
use alula_format::gguf::{self, Metadata};
use alula_graph::{Route, Unary, Window};
use serde_json::Value;

/// GGUF key and its names in `config.json`, first match wins.
const KEYS: &[(&str, &[&str])] = &[
    ("block_count", &["num_hidden_layers", "n_layer", "n_layers"]),
    ("context_length", &["max_position_embeddings", "n_positions", "n_ctx"]),
    ("embedding_length", &["hidden_size", "n_embd", "dim"]),
    ("feed_forward_length", &["intermediate_size", "n_inner", "hidden_dim"]),
    ("attention.head_count", &["num_attention_heads", "n_head", "n_heads"]),
    ("attention.head_count_kv", &["num_key_value_heads"]),
    ("attention.key_length", &["head_dim"]),
    ("attention.value_length", &["head_dim"]),
    ("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    ("attention.layer_norm_epsilon", &["layer_norm_epsilon", "layer_norm_eps", "norm_eps"]),
    ("attention.sliding_window", &["sliding_window"]),
    ("attention.clamp_kqv", &["clip_qkv"]),
    ("attn_logit_softcapping", &["attn_logit_softcapping"]),
    ("final_logit_softcapping", &["final_logit_softcapping"]),
    ("expert_count", &["num_local_experts", "num_experts", "n_routed_experts"]),
    ("expert_used_count", &["num_experts_per_tok"]),
    ("expert_feed_forward_length", &["moe_intermediate_size"]),
    ("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
    ("expert_shared_count", &["n_shared_experts"]),
    ("expert_weights_scale", &["routed_scaling_factor"]),
    ("expert_weights_norm", &["norm_topk_prob"]),
    ("expert_group_count", &["n_group"]),
    ("expert_group_used_count", &["topk_group"]),
    ("leading_dense_block_count", &["first_k_dense_replace"]),
    ("attention.q_lora_rank", &["q_lora_rank"]),
    ("attention.kv_lora_rank", &["kv_lora_rank"]),
    ("nextn_predict_layers", &["num_nextn_predict_layers"]),
    ("attention.scale", &["attention_multiplier"]),
    ("embedding_scale", &["embedding_multiplier"]),
    ("residual_scale", &["residual_multiplier"]),
    ("logit_scale", &["logits_scaling"]),
    ("ssm.conv_kernel", &["conv_kernel", "mamba_d_conv"]),
    ("ssm.inner_size", &["mamba_d_ssm"]),
    ("ssm.state_size", &["state_size", "mamba_d_state"]),
    ("ssm.time_step_rank", &["time_step_rank", "mamba_dt_rank"]),
    ("ssm.group_count", &["n_groups", "mamba_n_groups"]),
    // Not in GGUF, where the first follows from sizes and the second is the rank of time steps.
    ("ssm.expand", &["expand", "mamba_expand"]),
    ("ssm.head_count", &["num_heads", "mamba_n_heads"]),
];

/// Where a configuration comes from.
#[derive(Clone, Copy)]
pub enum Dialect<'a> {
    /// GGUF metadata and the architecture's prefix.
    Gguf(&'a Metadata, &'a str),
    /// `config.json`, or its `text_config`.
    Hf(&'a Value),
}

/// A model's configuration, and a look at its tensors.
pub struct Config<'a> {
    /// Dialect and source.
    pub dialect: Dialect<'a>,
    pub(crate) file: &'a str,
    pub(crate) weights: &'a Weights,
}

/// No width, head count or the like of a real model is larger.
const LARGEST: u64 = 1 << 24;

impl<'a> Config<'a> {
    /// Whether this is GGUF metadata.
    pub fn is_gguf(&self) -> bool {
        matches!(self.dialect, Dialect::Gguf(..))
    }

    /// An error about `key`, named as in the file.
    pub fn error(&self, key: &str, why: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.to_owned(), field: self.name(key), why: clip_to(&why.into(), 300) }
    }

    fn name(&self, key: &str) -> String {
        match self.dialect {
            Dialect::Gguf(_, arch) => format!("{arch}.{key}"),
            Dialect::Hf(root) => {
                let names = KEYS.iter().find(|k| k.0 == key).map_or(std::slice::from_ref(&key), |k| k.1);
                (*names.iter().find(|n| root.get(n).is_some()).unwrap_or(&names[0])).to_owned()
            }
        }
    }

    /// The value in `config.json`, null taken as absent.
    pub fn json(&self, key: &str) -> Option<&'a Value> {
        let Dialect::Hf(root) = self.dialect else { return None };
        let names = KEYS.iter().find(|k| k.0 == key).map_or(std::slice::from_ref(&key), |k| k.1);
        names.iter().find_map(|n| root.get(n)).filter(|v| !v.is_null())
    }

    /// A number, if the key is there.
    ///
    /// # Errors
    /// It is not a finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let value = match self.dialect {
            Dialect::Gguf(meta, arch) => meta.find::<f64>(&format!("{arch}.{key}"))?,
            Dialect::Hf(_) => match self.json(key) {
                None => None,
                Some(v) => Some(v.as_f64().ok_or_else(|| self.error(key, format!("must be a number, not {v}")))?),
            },
        };
        match value {
            Some(v) if !v.is_finite() => Err(self.error(key, format!("must be a finite number, not {v}"))),
            v => Ok(v),
        }
    }

    /// A whole number of at most 2²⁴, if the key is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.number(key)? {
            None => Ok(None),
            Some(v) if v >= 0.0 && v <= LARGEST as f64 && v.fract() == 0.0 => Ok(Some(v as usize)),
            Some(v) => Err(self.error(key, format!("is {v}; expected a whole number up to {LARGEST}"))),
        }
    }

    /// A whole number above 0.
    ///
    /// # Errors
    /// It is missing or something else.
    pub fn need(&self, key: &str) -> Result<usize, ModelError> {
        match self.size(key)? {
            Some(0) => Err(self.error(key, "is 0")),
            Some(v) => Ok(v),
            None => Err(self.error(key, "is missing; the file is not complete")),
        }
    }

    /// A number, or `default`.
    ///
    /// # Errors
    /// It is not a number, or larger than single precision holds.
    pub fn float(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        match self.number(key)?.unwrap_or(default) as f32 {
            v if v.is_finite() => Ok(v),
            _ => Err(self.error(key, "is larger than single precision holds")),
        }
    }

    /// What a norm adds to a variance or mean square, or `default`.
    ///
    /// # Errors
    /// It is negative or not a number.
    pub fn eps(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        match self.float(key, default)? {
            v if v >= 0.0 => Ok(v),
            v => Err(self.error(key, format!("is {v}; expected 0 or more"))),
        }
    }

    /// A positive number such as a soft cap; absent or 0 means none.
    ///
    /// # Errors
    /// It is negative or not a number.
    pub fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f32>, ModelError> {
        let explicit_null = matches!(self.dialect, Dialect::Hf(root) if root.get(key).is_some_and(Value::is_null));
        match self.number(key)?.or(default.filter(|_| !explicit_null)) {
            Some(v) if v < 0.0 => Err(self.error(key, format!("is {v}; expected a positive number"))),
            v => Ok(v.filter(|v| *v > 0.0).map(|v| v as f32)),
        }
    }

    /// The sliding window, if the model has one.
    ///
    /// # Errors
    /// It is not a whole number.
    pub fn window(&self, default: Option<usize>) -> Result<Option<Window>, ModelError> {
        Ok(self.span("attention.sliding_window", default)?.map(Window::Sliding))
    }

    /// Tokens, if there is such a number: where `config.json` lacks the key, so many; null and 0 say that there is none.
    ///
    /// # Errors
    /// It is not a whole number.
    pub fn span(&self, key: &str, default: Option<usize>) -> Result<Option<usize>, ModelError> {
        let absent = matches!(self.dialect, Dialect::Hf(root) if root.get(self.name(key)).is_none());
        Ok(self.size(key)?.or(default.filter(|_| absent)).filter(|n| *n > 0))
    }

    /// A flag of `config.json`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.json(key).and_then(Value::as_bool)
    }

    /// A truth value, if the key is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.dialect {
            Dialect::Gguf(meta, arch) => Ok(meta.find::<bool>(&format!("{arch}.{key}"))?),
            Dialect::Hf(_) => match self.json(key) {
                None => Ok(None),
                Some(v) => {
                    let wrong = || self.error(key, format!("must be true or false, not {v}"));
                    v.as_bool().map(Some).ok_or_else(wrong)
                }
            },
        }
    }

    /// Layers, of which a model has at most 4096.
    ///
    /// # Errors
    /// Missing or implausible.
    pub fn layers(&self) -> Result<usize, ModelError> {
        match self.need("block_count")? {
            n @ 1..=4096 => Ok(n),
            n => Err(self.error("block_count", format!("is {n}; expected 1 to 4096"))),
        }
    }

    /// Which layers look only at a window: from `layer_types` where `config.json` has it, which has this word for them, or GGUF's pattern (a truth
    /// value per layer, or the number of layers of which the last looks at everything), else by `rule`.
    ///
    /// # Errors
    /// An unknown type, or not one per layer.
    pub fn windowed(&self, word: &str, layers: usize, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>, ModelError> {
        if let Dialect::Gguf(meta, arch) = self.dialect {
            let pattern = "attention.sliding_window_pattern";
            let key = format!("{arch}.{pattern}");
            if let Some(gguf::Value::Array(_)) = meta.get(&key) {
                let each: Vec<bool> = meta.need(&key)?;
                let each = each.get(..layers).map(<[bool]>::to_vec);
                return each.ok_or_else(|| self.error(pattern, format!("must list {layers} layers")));
            }
            let every = self.size(pattern)?;
            return Ok((0..layers).map(|i| every.map_or_else(|| rule(i), |n| n == 0 || i % n < n - 1)).collect());
        }
        let Some(types) = self.json("layer_types") else { return Ok((0..layers).map(rule).collect()) };
        let types = types.as_array().filter(|t| t.len() == layers);
        let types = types.ok_or_else(|| self.error("layer_types", format!("must list {layers} layers")))?;
        let each = |t: &Value| match t.as_str() {
            Some(t) if t == word => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.error("layer_types", format!("has {t}; supported are full_attention and {word}"))),
        };
        types.iter().map(each).collect()
    }

    /// Which layers are recurrent: in GGUF those that have no key heads, in `config.json` as `layer_types` says, else by
    /// `rule`.
    ///
    /// # Errors
    /// An unknown type, or not one per layer.
    pub fn recurrent(&self, layers: usize, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>, ModelError> {
        let all = |key, ok: bool| if ok { Ok(()) } else { Err(self.error(key, format!("must list {layers} layers"))) };
        if let Some(counts) = self.key_heads()? {
            all("attention.head_count_kv", counts.len() == layers)?;
            return Ok(counts.iter().map(|n| *n == 0).collect());
        }
        let Some(types) = self.json("layer_types") else { return Ok((0..layers).map(rule).collect()) };
        let types = types.as_array().map_or(&[][..], Vec::as_slice);
        all("layer_types", types.len() == layers)?;
        let each = |t: &Value| match t.as_str() {
            Some("linear_attention" | "mamba") => Ok(true),
            Some("full_attention" | "attention") => Ok(false),
            _ => Err(self.error("layer_types", format!("has {t}; supported are mamba and attention"))),
        };
        types.iter().map(each).collect()
    }

    /// The layers that a list of `config.json` names; none where it is absent.
    ///
    /// # Errors
    /// It is something else.
    pub fn places(&self, key: &str) -> Result<Vec<usize>, ModelError> {
        let Some(list) = self.json(key) else { return Ok(vec![]) };
        let each = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        let all = list.as_array().and_then(|list| list.iter().map(each).collect());
        all.ok_or_else(|| self.error(key, "must be a list of layers"))
    }

    /// GGUF's list of the key heads of each layer, if it has one instead of a number.
    fn key_heads(&self) -> Result<Option<Vec<u32>>, ModelError> {
        let Dialect::Gguf(meta, arch) = self.dialect else { return Ok(None) };
        let key = format!("{arch}.attention.head_count_kv");
        match meta.get(&key) {
            Some(gguf::Value::Array(_)) => Ok(Some(meta.need(&key)?)),
            _ => Ok(None),
        }
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.dialect {
            Dialect::Gguf(meta, arch) => Ok(meta.find(&format!("{arch}.{key}"))?),
            Dialect::Hf(_) => {
                let text = |v: &'a Value| v.as_str().ok_or_else(|| self.error(key, format!("must be a text, not {v}")));
                self.json(key).map(text).transpose()
            }
        }
    }

    /// The activation function that the configuration names at `key`, or `default`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn activation(&self, key: &str, default: Unary) -> Result<Unary, ModelError> {
        match self.text(key)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Unary::Silu),
            Some("gelu" | "gelu_python") => Ok(Unary::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh") => {
                Ok(Unary::GeluTanh)
            }
            Some("quick_gelu") => Ok(Unary::GeluQuick),
            Some("relu") => Ok(Unary::Relu),
            Some("relu2") => Ok(Unary::Relu2),
            Some("relu6") => Ok(Unary::Clamp(0.0, 6.0)),
            Some("sigmoid") => Ok(Unary::Sigmoid),
            Some("tanh") => Ok(Unary::SoftCap(1.0)),
            Some("linear") => Ok(Unary::Scale(1.0)),
            Some(other) => {
                let names = "silu, gelu, gelu_new, quick_gelu, relu, relu2, relu6, sigmoid, tanh, linear";
                Err(self.error(key, format!("is `{other}`; supported are {names}")))
            }
        }
    }

    /// The experts of a layer: gated units of `width` columns, chosen by the softmax of their logits, with weights whose
    /// sum is made 1 if so wanted.
    ///
    /// # Errors
    /// Missing, or more are used than there are.
    pub fn experts(&self, act: Unary, width: usize, normalise: bool) -> Result<Experts, ModelError> {
        let (count, used) = (self.need("expert_count")?, self.need("expert_used_count")?);
        if count > 1 << 12 || used > count {
            return Err(self.error("expert_used_count", format!("is {used} of {count} experts, which cannot be")));
        }
        let route = Route { used, groups: None, normalise, scale: 1.0, sigmoid: false };
        Ok(Experts { count, act, width, sigmoid: false, route, before: false, shared: None })
    }

    /// Query heads, key heads, columns of a key head and of a value head. `head_dim`, and in `config.json` also
    /// `counts` of query and key heads, stand for what is not written.
    ///
    /// # Errors
    /// Missing, or they do not divide.
    pub fn heads(
        &self,
        head_dim: Option<usize>,
        counts: Option<(usize, usize)>,
    ) -> Result<(usize, usize, usize, usize), ModelError> {
        let counts = counts.filter(|_| !self.is_gguf());
        let heads = match (self.size("attention.head_count")?, counts) {
            (None, Some((heads, _))) => heads,
            _ => self.need("attention.head_count")?,
        };
        let kv = match self.key_heads()? {
            Some(each) => each.into_iter().max().map(|n| n as usize),
            None => self.size("attention.head_count_kv")?,
        };
        let kv = kv.unwrap_or(counts.map_or(heads, |c| c.1));
        if kv == 0 || heads % kv != 0 {
            return Err(self.error("attention.head_count_kv", format!("is {kv}, which does not divide {heads} heads")));
        }
        let derived = self.need("embedding_length")? / heads;
        let key = self.size("attention.key_length")?.or(head_dim).unwrap_or(derived);
        let value = self.size("attention.value_length")?.or(head_dim).unwrap_or(derived);
        if key == 0 || value == 0 || key > 1 << 14 || value > 1 << 14 || heads > 1 << 14 {
            return Err(self.error("attention.key_length", format!("is {key}; {heads} heads of {key} cannot be")));
        }
        Ok((heads, kv, key, value))
    }

    /// Shape of a tensor by its GGUF name.
    pub fn shape(&self, tensor: &str) -> Option<Vec<usize>> {
        self.weights.shape(tensor)
    }

    /// Values of a small tensor by its GGUF name.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn values(&self, tensor: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.weights.values(tensor)
    }

    /// Entries and columns of the token embedding.
    ///
    /// # Errors
    /// It is missing or of another width than the configuration says.
    pub fn embedding(&self) -> Result<(usize, usize), ModelError> {
        let width = self.need("embedding_length")?;
        match self.shape("token_embd.weight").as_deref() {
            Some(&[vocab, w]) if w == width && vocab > 0 => Ok((vocab, width)),
            Some(shape) => {
                Err(self.error("embedding_length", format!("is {width}, but token_embd.weight is {shape:?}")))
            }
            None => Err(self.weights.missing("token_embd.weight")),
        }
    }

    /// Whether the head is the token embedding: a head of its own in the file counts, whatever `tie_word_embeddings`
    /// says (as in transformers 5).
    pub fn tied(&self) -> bool {
        self.shape("output.weight").is_none()
    }

    /// Longest sequence.
    ///
    /// # Errors
    /// Not a number.
    pub fn context(&self, default: usize) -> Result<usize, ModelError> {
        Ok(self.number("context_length")?.map_or(default, |v| v.clamp(1.0, 1e9) as usize))
    }
}
