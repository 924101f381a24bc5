//! BERT (Devlin et al. 2018, arXiv:1810.04805), RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa (Conneau et al.
//! 2019, arXiv:1911.02116), whose positions begin behind the padding's, and DistilBERT (Sanh et al. 2019,
//! arXiv:1910.01108), which has no token types: norms after each part, attention both ways, no head but perhaps scores.

use super::Arch;
use crate::weights::{Fix, Name};
use crate::{Attention, Classes, Config, Dialect, Ffn, Head, Layer, Mixer, ModelError, Norm, Place, Pool, Rope, Spec};
use alula_graph::{NormKind, Unary};
use serde_json::Value;

pub(super) static BERT: Arch = Arch { gguf: "bert", hf: &["bert"], names: &[NAMES, POOLER], spec: bert };

pub(super) static ROBERTA: Arch = Arch {
    gguf: "roberta",
    hf: &["roberta", "xlm-roberta", "camembert"],
    names: &[
        NAMES,
        &[Name("cls", "classifier.dense", Fix::None), Name("cls.output", "classifier.out_proj", Fix::None)],
    ],
    spec: roberta,
};

pub(super) static DISTILBERT: Arch =
    Arch { gguf: "distilbert", hf: &["distilbert"], names: &[DISTILBERT_NAMES], spec: distilbert };

const NAMES: &[Name] = &[
    Name("token_embd", "bert.embeddings.word_embeddings", Fix::None),
    Name("token_types", "bert.embeddings.token_type_embeddings", Fix::None),
    Name("position_embd", "bert.embeddings.position_embeddings", Fix::None),
    Name("token_embd_norm", "bert.embeddings.LayerNorm", Fix::None),
    Name("blk.{}.attn_q", "bert.encoder.layer.{}.attention.self.query", Fix::None),
    Name("blk.{}.attn_k", "bert.encoder.layer.{}.attention.self.key", Fix::None),
    Name("blk.{}.attn_v", "bert.encoder.layer.{}.attention.self.value", Fix::None),
    Name("blk.{}.attn_output", "bert.encoder.layer.{}.attention.output.dense", Fix::None),
    Name("blk.{}.attn_output_norm", "bert.encoder.layer.{}.attention.output.LayerNorm", Fix::None),
    Name("blk.{}.ffn_up", "bert.encoder.layer.{}.intermediate.dense", Fix::None),
    Name("blk.{}.ffn_down", "bert.encoder.layer.{}.output.dense", Fix::None),
    Name("blk.{}.layer_output_norm", "bert.encoder.layer.{}.output.LayerNorm", Fix::None),
];

/// What stands before BERT's scores.
pub(super) const POOLER: &[Name] =
    &[Name("cls", "bert.pooler.dense", Fix::None), Name("cls.output", "classifier", Fix::None)];

const DISTILBERT_NAMES: &[Name] = &[
    Name("token_embd", "distilbert.embeddings.word_embeddings", Fix::None),
    Name("position_embd", "distilbert.embeddings.position_embeddings", Fix::None),
    Name("token_embd_norm", "distilbert.embeddings.LayerNorm", Fix::None),
    Name("blk.{}.attn_q", "distilbert.transformer.layer.{}.attention.q_lin", Fix::None),
    Name("blk.{}.attn_k", "distilbert.transformer.layer.{}.attention.k_lin", Fix::None),
    Name("blk.{}.attn_v", "distilbert.transformer.layer.{}.attention.v_lin", Fix::None),
    Name("blk.{}.attn_output", "distilbert.transformer.layer.{}.attention.out_lin", Fix::None),
    Name("blk.{}.attn_output_norm", "distilbert.transformer.layer.{}.sa_layer_norm", Fix::None),
    Name("blk.{}.ffn_up", "distilbert.transformer.layer.{}.ffn.lin1", Fix::None),
    Name("blk.{}.ffn_down", "distilbert.transformer.layer.{}.ffn.lin2", Fix::None),
    Name("blk.{}.layer_output_norm", "distilbert.transformer.layer.{}.output_layer_norm", Fix::None),
    Name("cls", "pre_classifier", Fix::None),
    Name("cls.output", "classifier", Fix::None),
];

/// tanh.
pub(super) const TANH: Unary = Unary::SoftCap(1.0);

fn bert(c: &Config<'_>) -> Result<Spec, ModelError> {
    let types = if c.is_gguf() { types(c, 0)? } else { types(c, 2)? };
    like_bert(c, Bert { types, ..Bert::new(c)? })
}

fn roberta(c: &Config<'_>) -> Result<Spec, ModelError> {
    // GGUF files, which say `bert`, have these rows cut off.
    let padding = c.size("pad_token_id")?.unwrap_or(1);
    like_bert(c, Bert { types: types(c, 2)?, padding: Some(padding), ..Bert::new(c)? })
}

fn distilbert(c: &Config<'_>) -> Result<Spec, ModelError> {
    let ffn = Ffn::Plain { act: c.activation("activation", Unary::Gelu)?, width: c.need("feed_forward_length")? };
    let norm = Norm { kind: NormKind::Layer, eps: 1e-12 };
    like_bert(c, Bert { norm, ffn, dense: Unary::Relu, ..Bert::new(c)? })
}

/// Entries of the table of token types: as many as `config.json` says, as many as a GGUF file has.
pub(super) fn types(c: &Config<'_>, default: usize) -> Result<Option<usize>, ModelError> {
    let n = match c.is_gguf() {
        true => c.shape("token_types.weight").and_then(|s| s.first().copied()).unwrap_or(default),
        false => c.size("type_vocab_size")?.unwrap_or(default),
    };
    Ok(Some(n).filter(|n| *n > 0))
}

/// Where models of this shape differ.
pub(super) struct Bert {
    pub(super) norm: Norm,
    pub(super) types: Option<usize>,
    /// The token of padding, which has its own row of the table of positions; theirs begin behind it.
    pub(super) padding: Option<usize>,
    /// Instead of a table of positions.
    pub(super) rope: Option<Rope>,
    pub(super) ffn: Ffn,
    /// Function before the scores.
    pub(super) dense: Unary,
}

impl Bert {
    pub(super) fn new(c: &Config<'_>) -> Result<Bert, ModelError> {
        Ok(Bert {
            norm: Norm { kind: NormKind::Layer, eps: c.eps("attention.layer_norm_epsilon", 1e-12)? },
            types: None,
            padding: None,
            rope: None,
            ffn: Ffn::Plain { act: c.activation("hidden_act", Unary::Gelu)?, width: c.need("feed_forward_length")? },
            dense: TANH,
        })
    }
}

/// Norms after each part and of the embeddings.
pub(super) fn like_bert(c: &Config<'_>, m: Bert) -> Result<Spec, ModelError> {
    if c.flag("is_decoder") == Some(true) {
        return Err(c.error("is_decoder", "is true; of this architecture only encoders run"));
    }
    if let Some(kind) = c.text("position_embedding_type")?.filter(|k| !["absolute", "rope"].contains(k)) {
        return Err(c.error("position_embedding_type", format!("is `{kind}`; supported is absolute")));
    }
    let (vocab, width) = c.embedding()?;
    let (heads, kv_heads, key_dim, value_dim) = c.heads(None, None)?;
    let (rope, scale) = (m.rope.as_ref().map(|_| 0), 1.0 / (key_dim as f32).sqrt());
    let mixer = Attention { heads, kv_heads, key_dim, value_dim, rope, scale, causal: false, ..Attention::default() };
    let layer = Layer { norm: m.norm, place: Place::Post, mixer: Mixer::Attention(mixer), ffn: m.ffn };
    let rows = c.shape("position_embd.weight").and_then(|s| s.first().copied()).unwrap_or(0);
    let first_position = m.padding.map_or(0, |pad| pad + 1);
    let positions = rows.saturating_sub(first_position);
    let context = c.context(512)?.saturating_sub(first_position);
    let context = if rope.is_some() { context } else { context.min(positions) };
    if context == 0 {
        return Err(c.error("context_length", format!("leaves no position: the table of positions has {rows}")));
    }
    Ok(Spec {
        width,
        vocab,
        context,
        types: m.types,
        positions: rope.is_none().then_some(positions),
        first_position,
        padding: m.padding.map(|pad| pad as u32),
        embed_norm: Some(m.norm),
        layers: vec![layer; c.layers()?],
        ropes: m.rope.into_iter().collect(),
        norm: m.norm,
        head: head(c, Pool::Token, m.dense, None)?,
        ..Spec::default()
    })
}

/// The head of a classifier, where the model is one: `dense` and `norm` stand before the scores.
pub(super) fn head(c: &Config<'_>, pool: Pool, dense: Unary, norm: Option<Norm>) -> Result<Head, ModelError> {
    let scores = c.shape("cls.output.weight").and_then(|s| s.first().copied());
    let classifies = match c.dialect {
        Dialect::Gguf(..) => scores.is_some(),
        Dialect::Hf(_) => {
            let names = c.json("architectures").and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).any(|a| a.ends_with("ForSequenceClassification"))
        }
    };
    if !classifies {
        return Ok(Head::Hidden(Pool::Token));
    }
    // Only GGUF files may leave out what stands before the scores.
    let there = |stem: &str| !c.is_gguf() || c.shape(&format!("{stem}.weight")).is_some();
    let (dense, norm) = (Some(dense).filter(|_| there("cls")), norm.filter(|_| there("cls.norm")));
    Ok(Head::Classes(Classes { pool, dense, norm, count: scores.unwrap_or(1) }))
}
