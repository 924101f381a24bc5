//! Texts to vectors, and pairs of texts to scores (Reimers and Gurevych 2019, arXiv:1908.10084).
//!
//! A [`Recipe`] says how a model's vectors are made: from `modules.json` and the files it names in a folder of
//! sentence-transformers, from `pooling_type` in a GGUF file. Texts are tokenised with the model's special tokens and put
//! into steps, as many whole texts as fit; nothing is padded. A text's vector does not depend on the others.

use crate::local::{LoadError, LoadOptions, Local, Package};
use crate::runner::{RunError, Runner};
use alula_device::{Adapter, Batch, CacheType, PAGE, Seq};
use alula_model::{Files, Head, ModelError, Pool};
pub use alula_tokenizer::Framed;
use alula_tokenizer::Tokenizer;
use serde_json::Value;

/// Texts in a step at most.
const TEXTS: usize = 64;
/// Tokens in a step, if no text has more.
const TOKENS: usize = 512;

/// Which hidden states become a text's vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// How a model's vectors are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What becomes the vector.
    pub pooling: Pooling,
    /// Vectors have length 1.
    pub normalize: bool,
    /// Tokens of a text at most, with those that the model adds.
    pub longest: usize,
    /// White space around texts is nothing.
    pub strip: bool,
    /// Capitals are small letters.
    pub lower: bool,
}

/// Texts that got no vector or score.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] alula_tokenizer::Error),
    /// The model.
    #[error("the model failed: {0}")]
    Run(#[source] RunError),
    /// A text of no tokens.
    #[error("text {at} is empty, and the model adds no tokens of its own; leave it out")]
    Empty {
        /// Its place, from 1.
        at: usize,
    },
    /// Room for fewer tokens than the model adds to a text.
    #[error("there is room for {room} tokens, but the model adds {tokens} of its own to a text; allow longer texts")]
    Room {
        /// Tokens of a text at most.
        room: usize,
        /// What it is with nothing left of it.
        tokens: usize,
    },
}

impl Recipe {
    /// What the model's files say, or else: the mean where tokens see the whole text, the last token where they see their
    /// past; length 1.
    ///
    /// # Errors
    /// A file is broken, or asks for something that is not supported.
    pub fn of(package: &Package) -> Result<Recipe, LoadError> {
        let (graph, context) = (package.model.graph(), package.model.spec().context);
        let pooling = if graph.nodes().iter().any(|n| n.op.whole()) { Pooling::Mean } else { Pooling::Last };
        let plain = Recipe { pooling, normalize: true, longest: context, strip: false, lower: false };
        match package.model.files() {
            Files::Gguf(gguf) => {
                let kind: Option<u32> = gguf.metadata.find(&format!("{}.pooling_type", package.model.arch()))?;
                let said = kind.and_then(|kind| {
                    [Pooling::Mean, Pooling::First, Pooling::Last].get(kind.checked_sub(1)? as usize).copied()
                });
                Ok(Recipe { pooling: said.unwrap_or(pooling), ..plain })
            }
            Files::Folder(folder, _) => {
                let Some(modules) = folder.json("modules.json")? else { return Ok(plain) };
                let file = |name: &str| folder.path().join(name).display().to_string();
                let mut recipe = Recipe { normalize: false, strip: true, ..plain };
                for module in modules.as_array().into_iter().flatten() {
                    let text = |key| module.get(key).and_then(Value::as_str).unwrap_or_default();
                    match text("type").rsplit('.').next().unwrap_or_default() {
                        "Transformer" => {}
                        "Pooling" => {
                            let name = format!("{}/config.json", text("path"));
                            let config = folder.json(&name)?.unwrap_or_default();
                            recipe.pooling = said(&config).map_err(|why| wrong(file(&name), "pooling_mode", why))?;
                        }
                        "Normalize" => recipe.normalize = true,
                        other => {
                            let why =
                                format!("has the module `{other}`; supported are Transformer, Pooling, Normalize");
                            return Err(wrong(file("modules.json"), "type", why));
                        }
                    }
                }
                let config = folder.json("sentence_bert_config.json")?.unwrap_or_default();
                let size = |v: Option<&Value>| v.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
                let own = size(config.get("max_seq_length"));
                let tokenizer = folder.tokenizer_config.as_ref().and_then(|c| size(c.get("model_max_length")));
                recipe.longest = own.or(tokenizer).unwrap_or(context).min(context);
                recipe.lower = config.get("do_lower_case").and_then(Value::as_bool) == Some(true);
                Ok(recipe)
            }
        }
    }

    /// A text as the model reads it, cut where it is longer than `longest`.
    ///
    /// # Errors
    /// It cannot be tokenised.
    pub fn frame(&self, tokenizer: &Tokenizer, text: &str, longest: usize) -> Result<Framed, EmbedError> {
        // What Python takes for white space.
        let around = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
        let text = if self.strip { text.trim_matches(around) } else { text };
        Ok(match self.lower {
            true => tokenizer.frame(&text.to_lowercase(), None, longest)?,
            false => tokenizer.frame(text, None, longest)?,
        })
    }

    /// The vector of a text from its pooled state, of which the first `dimensions` elements are kept.
    pub fn vector(&self, mut values: Vec<f32>, dimensions: usize, text: &Framed) -> Vector {
        values.truncate(dimensions);
        if self.normalize {
            let square: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let length = square.sqrt().max(1e-12);
            values.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        Vector { values, tokens: text.ids.len(), cut: text.cut }
    }

    /// Whether the model's files say that it makes vectors.
    pub fn said(package: &Package) -> bool {
        match package.model.files() {
            Files::Gguf(gguf) => {
                let kind = gguf.metadata.find::<u32>(&format!("{}.pooling_type", package.model.arch()));
                // 0 is none, 4 the head that ranks.
                kind.is_ok_and(|kind| kind.is_some_and(|kind| (1..4).contains(&kind)))
            }
            Files::Folder(folder, _) => folder.path().join("modules.json").is_file(),
        }
    }

    /// The head that makes such vectors.
    pub fn head(&self) -> Head {
        Head::Hidden(if self.pooling == Pooling::Mean { Pool::Mean } else { Pool::Token })
    }
}

fn wrong(file: String, field: &str, why: String) -> LoadError {
    LoadError::Model(ModelError::Config { file, field: field.to_owned(), why })
}

/// The pooling that a module's configuration says, in its newer or older form.
fn said(config: &Value) -> Result<Pooling, String> {
    const SUPPORTED: [(&str, Pooling); 3] =
        [("mean", Pooling::Mean), ("cls", Pooling::First), ("lasttoken", Pooling::Last)];
    let flags = config.as_object().into_iter().flatten().filter(|(_, on)| on.as_bool() == Some(true));
    let flags = flags.filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
    let flags = flags.map(|mode| mode.trim_end_matches("_tokens").trim_end_matches("_token"));
    let modes: Vec<&str> = config.get("pooling_mode").and_then(Value::as_str).into_iter().chain(flags).collect();
    let known = |mode: &str| SUPPORTED.iter().find(|(name, _)| *name == mode).map(|(_, pooling)| *pooling);
    match modes[..] {
        [mode] if known(mode).is_some() => Ok(known(mode).unwrap_or(Pooling::Mean)),
        [] => Err("names no mode; supported are mean, cls and lasttoken".to_owned()),
        _ => Err(format!("is {}; supported are mean, cls and lasttoken, one at a time", modes.join(" and "))),
    }
}

/// How a model is made ready for texts of at most `longest` tokens.
pub fn options(longest: usize, cache: CacheType) -> LoadOptions {
    let step_tokens = longest.max(TOKENS);
    LoadOptions {
        context: Some(longest),
        sequences: TEXTS,
        step_tokens,
        outputs: TEXTS,
        pages: Some(step_tokens / PAGE + TEXTS),
        cache,
        ..LoadOptions::default()
    }
}

/// A text's vector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// Its elements.
    pub values: Vec<f32>,
    /// Tokens of the text as they were read.
    pub tokens: usize,
    /// Tokens that were cut off its end.
    pub cut: usize,
}

/// Makes vectors.
pub struct Embedder {
    local: Local,
    tokenizer: Tokenizer,
    recipe: Recipe,
    dimensions: usize,
    adapters: Vec<Adapter>,
}

impl Embedder {
    /// For a model with the recipe's head. Of its vectors the first `dimensions` elements are kept, all if there are fewer
    /// (Kusupati et al. 2022, arXiv:2205.13147).
    pub fn new(local: Local, tokenizer: Tokenizer, recipe: Recipe, dimensions: usize) -> Embedder {
        Embedder { local, tokenizer, recipe, dimensions, adapters: Vec::new() }
    }

    /// The same with adapters of the model, each once.
    #[must_use]
    pub fn with_adapters(self, adapters: Vec<Adapter>) -> Embedder {
        Embedder { adapters, ..self }
    }

    /// Tokens of a text at most, with those that the model adds.
    pub fn longest(&self) -> usize {
        self.recipe.longest.min(self.local.limits().context)
    }

    /// How it makes vectors.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Elements of its vectors.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// A text as the model reads it, cut where it is longer than `longest`.
    ///
    /// # Errors
    /// It cannot be tokenised.
    pub fn frame(&self, text: &str, longest: usize) -> Result<Framed, EmbedError> {
        self.recipe.frame(&self.tokenizer, text, longest)
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// A text cannot be tokenised, or the model fails.
    pub fn embed(&mut self, texts: &[impl AsRef<str>]) -> Result<Vec<Vector>, EmbedError> {
        let longest = self.longest();
        let framed = texts.iter().map(|t| self.frame(t.as_ref(), longest)).collect::<Result<Vec<_>, _>>()?;
        let (dimensions, adapters) = (self.dimensions, self.adapters.clone());
        self.vectors(&framed, dimensions, &adapters)
    }

    /// The first `dimensions` elements of the vectors of texts that are tokens already, computed with such adapters.
    ///
    /// # Errors
    /// One is empty or longer than the model reads, or the model fails.
    pub fn vectors(
        &mut self,
        framed: &[Framed],
        dimensions: usize,
        adapters: &[Adapter],
    ) -> Result<Vec<Vector>, EmbedError> {
        let recipe = &self.recipe;
        let rows = run(&mut self.local, adapters, framed, recipe.pooling == Pooling::Last)?;
        Ok(rows.into_iter().zip(framed).map(|(values, text)| recipe.vector(values, dimensions, text)).collect())
    }
}

/// Scores documents against a query.
pub struct Ranker {
    local: Local,
    tokenizer: Tokenizer,
    adapters: Vec<Adapter>,
}

/// A document's score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The model's logit.
    pub score: f32,
    /// Tokens of the pair as they were read.
    pub tokens: usize,
    /// Tokens that were cut off.
    pub cut: usize,
}

impl Ranker {
    /// Says so if the model gives no score for a pair of texts.
    ///
    /// # Errors
    /// It is no cross-encoder, or gives several.
    pub fn check(package: &Package) -> Result<(), LoadError> {
        let why = match package.model.spec().head {
            Head::Classes(classes) if classes.count == 1 => return Ok(()),
            Head::Classes(classes) => {
                format!("scores {} classes; a cross-encoder that ranks has one score", classes.count)
            }
            _ => "has no head that scores pairs of texts; give a cross-encoder, or compare vectors of `alula embed`"
                .into(),
        };
        Err(LoadError::Model(ModelError::Path { path: package.name.clone(), why }))
    }

    /// For a model that [`Ranker::check`] takes.
    pub fn new(local: Local, tokenizer: Tokenizer) -> Ranker {
        Ranker { local, tokenizer, adapters: Vec::new() }
    }

    /// The same with adapters of the model, each once.
    #[must_use]
    pub fn with_adapters(self, adapters: Vec<Adapter>) -> Ranker {
        Ranker { adapters, ..self }
    }

    /// The scores of documents, in their order.
    ///
    /// # Errors
    /// A text cannot be tokenised, or the model fails.
    pub fn rank(&mut self, query: &str, documents: &[impl AsRef<str>]) -> Result<Vec<Score>, EmbedError> {
        let longest = self.longest();
        let pairs = documents.iter().map(|d| self.frame(query, d.as_ref(), longest));
        let (framed, adapters) = (pairs.collect::<Result<Vec<_>, _>>()?, self.adapters.clone());
        self.scores(&framed, &adapters)
    }

    /// Tokens of a pair at most, with those that the model adds.
    pub fn longest(&self) -> usize {
        self.local.limits().context
    }

    /// A query and a document as the model reads them, cut where they are longer than `longest`.
    ///
    /// # Errors
    /// One cannot be tokenised.
    pub fn frame(&self, query: &str, document: &str, longest: usize) -> Result<Framed, EmbedError> {
        Ok(self.tokenizer.frame(query, Some(document), longest)?)
    }

    /// The scores of pairs that are tokens already, computed with such adapters.
    ///
    /// # Errors
    /// One is longer than the model reads, or the model fails.
    pub fn scores(&mut self, framed: &[Framed], adapters: &[Adapter]) -> Result<Vec<Score>, EmbedError> {
        let rows = run(&mut self.local, adapters, framed, false)?;
        let score = |(row, text): (Vec<f32>, &Framed)| Score { score: row[0], tokens: text.ids.len(), cut: text.cut };
        Ok(rows.into_iter().zip(framed).map(score).collect())
    }
}

/// The results for texts: of each one's last token, or of its first.
fn run(local: &mut Local, adapters: &[Adapter], texts: &[Framed], last: bool) -> Result<Vec<Vec<f32>>, EmbedError> {
    if let Some(at) = texts.iter().position(|t| t.ids.is_empty()) {
        return Err(EmbedError::Empty { at: at + 1 });
    }
    let (limits, cols) = (local.limits(), local.vocab());
    if let Some(tokens) = texts.iter().map(|t| t.ids.len()).find(|n| *n > limits.context) {
        return Err(EmbedError::Room { room: limits.context, tokens });
    }
    let typed = local.spec().types.is_some_and(|n| n > 1);
    let pages: Vec<u32> = (0..limits.pages as u32).collect();
    let mut rows = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let (mut tokens, mut positions, mut types, mut outputs, mut seqs) = (vec![], vec![], vec![], vec![], vec![]);
        let mut page = 0;
        for text in rest.iter().take(limits.outputs) {
            let (start, len) = (tokens.len(), text.ids.len());
            if start > 0 && start + len > limits.tokens {
                break;
            }
            let table = &pages[page..page + len.div_ceil(PAGE)];
            page += table.len();
            seqs.push(Seq { start, len, length: len, pages: table, slot: seqs.len() as u32, adapters });
            tokens.extend(&text.ids);
            positions.extend(0..len as u32);
            types.extend(&text.types);
            outputs.push(if last { start + len - 1 } else { start } as u32);
        }
        if !typed {
            types.clear();
        }
        let (positions, outputs) = (&positions[..], &outputs[..]);
        let batch = Batch { tokens: &tokens, positions, types: &types, seqs: &seqs, outputs, hidden: &[] };
        let made = local.run(&batch).map_err(EmbedError::Run)?;
        rows.extend(made.chunks_exact(cols).map(<[f32]>::to_vec));
        rest = &rest[seqs.len()..];
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn poolings_are_read_in_both_forms() {
        for (config, want) in [
            (json!({"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}), Ok(Pooling::Mean)),
            (json!({"pooling_mode_cls_token": true, "include_prompt": true}), Ok(Pooling::First)),
            (json!({"pooling_mode_lasttoken": true}), Ok(Pooling::Last)),
            (json!({"pooling_mode": "mean"}), Ok(Pooling::Mean)),
            (json!({"pooling_mode": "cls"}), Ok(Pooling::First)),
            (json!({}), Err("names no mode")),
            (json!([]), Err("names no mode")),
            (json!({"pooling_mode_max_tokens": true}), Err("is max;")),
            (json!({"pooling_mode_mean_sqrt_len_tokens": true}), Err("is mean_sqrt_len;")),
            (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}), Err("is cls and mean;")),
        ] {
            match (said(&config), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{config}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{config}: {got}"),
                (got, want) => panic!("{config}: {got:?}, not {want:?}"),
            }
        }
    }
}
