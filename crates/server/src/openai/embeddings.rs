//! `/v1/embeddings`.

use super::fields::{whole_option, within};
use super::prompt::Prompt;
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::models::{Found, Kind, Writer};
use crate::turns::{aside, in_turn, naming, within_time};
use crate::worker::Output;
use alula_engine::Request;
use alula_engine::embed::{Embedder, Framed, Recipe, Vector};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Mutex;
use utoipa::ToSchema;

/// Texts of a request at most, as OpenAI has it.
pub const MOST_INPUTS: usize = 2048;
/// Texts in a turn at most.
const TEXTS: usize = 32;
/// Tokens in a turn, if no text has more.
const TOKENS: usize = 2048;

/// Texts to make vectors of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingRequest {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// A text, texts, token ids or lists of token ids. Nothing is put around ids.
    #[schema(value_type = Object)]
    pub input: Prompt,
    /// How numbers are written; by default `float`.
    pub encoding_format: Option<EncodingFormat>,
    /// The first so many elements of each vector; by default all.
    #[serde(default, deserialize_with = "whole_option")]
    pub dimensions: Option<usize>,
    /// Cuts longer texts off behind so many tokens; -1: behind as many as the model reads. Without it they are refused.
    #[serde(default, deserialize_with = "whole_option")]
    pub truncate_prompt_tokens: Option<i64>,
    /// Who asks; not used.
    pub user: Option<String>,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// As JSON numbers.
    #[default]
    Float,
    /// The bytes of 32-bit little-endian floats, in base64.
    Base64,
}

/// Vectors.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EmbeddingResponse {
    object: &'static str,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: InputUsage,
}

/// A text's vector.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EmbeddingObject {
    object: &'static str,
    embedding: Numbers,
    index: usize,
}

/// A vector's elements.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Numbers {
    /// As JSON numbers.
    Float(Vec<f32>),
    /// The bytes of 32-bit little-endian floats, in base64.
    Base64(String),
}

/// What a request took that writes nothing.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct InputUsage {
    /// Tokens that were read.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

impl InputUsage {
    /// Of so many tokens.
    pub fn new(tokens: usize) -> InputUsage {
        InputUsage { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// What is to be done with texts that are longer than the model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They are refused.
    Refuse,
    /// They end where the model stops reading.
    Longest,
    /// They end behind so many tokens, those that the model adds counted.
    At(usize),
}

impl Cut {
    /// As `truncate_prompt_tokens` says it, for a model that reads so many tokens.
    ///
    /// # Errors
    /// It is out of range.
    pub fn of(tokens: Option<i64>, longest: usize) -> Result<Cut, ApiError> {
        match tokens {
            None => Ok(Cut::Refuse),
            Some(-1) => Ok(Cut::Longest),
            Some(n) => match usize::try_from(n).ok().filter(|n| (1..=longest).contains(n)) {
                Some(n) => Ok(Cut::At(n)),
                None => {
                    let what = format!(
                        "`truncate_prompt_tokens` is {n} but must be -1 or between 1 and {longest}, which the model reads"
                    );
                    Err(ApiError::field("truncate_prompt_tokens", what))
                }
            },
        }
    }

    /// Tokens of a text at most.
    pub fn longest(self, longest: usize) -> usize {
        if let Cut::At(n) = self { n } else { longest }
    }

    /// Refuses a text that would be cut without permission. `path` names it, `allow` the field that permits it.
    ///
    /// # Errors
    /// It is too long.
    pub fn check(self, text: &Framed, longest: usize, path: &str, allow: &str) -> Result<(), ApiError> {
        if text.ids.is_empty() {
            let what = format!("`{path}` is empty, and the model adds no tokens of its own; leave it out");
            return Err(ApiError::field(path, what));
        }
        if self != Cut::Refuse || text.cut == 0 {
            return Ok(());
        }
        let what = format!(
            "`{path}` has {} tokens but the model reads {longest}: shorten it, or allow the cut with {allow}",
            text.ids.len() + text.cut
        );
        Err(ApiError::field(path, what).code("context_length_exceeded"))
    }
}

/// What makes vectors.
#[derive(Clone, Copy)]
enum Maker<'a> {
    /// A model for it.
    Embedder(&'a Arc<Mutex<Embedder>>),
    /// The engine of a model that writes: it knows the states of the prompts' last tokens.
    Writer(&'a Writer),
}

impl Maker<'_> {
    fn of(found: &Found) -> Result<Maker<'_>, ApiError> {
        let what = match &found.model.kind {
            Kind::Embedder(embedder) => return Ok(Maker::Embedder(embedder)),
            Kind::Writer(writer) if writer.recipe.is_some() => return Ok(Maker::Writer(writer)),
            Kind::Writer(_) => "writes text, and its files do not say how its states are pooled",
            Kind::Ranker(_) => "scores documents; use /v1/rerank, or a model that makes vectors",
        };
        Err(ApiError::field("model", format!("the model `{}` {what}", found.name)))
    }

    /// How it makes them, tokens of a text at most, and elements of a vector.
    async fn facts(self) -> Result<(Recipe, usize, usize), ApiError> {
        match self {
            Maker::Embedder(embedder) => {
                let embedder = embedder.lock().await;
                Ok((embedder.recipe().clone(), embedder.longest(), embedder.dimensions()))
            }
            Maker::Writer(writer) => {
                let (recipe, width) = writer.recipe.clone().ok_or_else(|| ApiError::internal("no recipe"))?;
                let longest = recipe.longest.min(writer.context);
                Ok((recipe, longest, width))
            }
        }
    }
}

/// The pooled states of texts that are tokens, out of the engine.
async fn states(caller: &Caller, found: &Found, writer: &Writer, texts: &[Framed]) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut outputs = Vec::with_capacity(texts.len());
    for text in texts {
        let request = Request {
            prompt: text.ids.clone(),
            max_tokens: Some(0),
            hidden: true,
            adapters: found.adapters.clone(),
            group: caller.group(),
            priority: caller.priority(),
            ..Request::default()
        };
        outputs.push(writer.worker.submit(request, None).await?);
    }
    let mut all = Vec::with_capacity(texts.len());
    for mut outputs in outputs {
        all.push(match outputs.recv().await {
            Some(Output::Hidden(values)) if !values.is_empty() => values,
            Some(Output::Failed(why)) => return Err(ApiError::unavailable(why)),
            _ => return Err(ApiError::internal("the model gave no state")),
        });
    }
    Ok(all)
}

/// The vectors of texts, a turn of the model for some of them each time, and the number of their tokens, which the caller is
/// charged. `field` is the one that they came in, `allow` what permits to cut them.
///
/// # Errors
/// A text is too long or no text for this model, or the model fails.
pub async fn vectors(
    caller: &Caller,
    found: &Found,
    input: Prompt,
    cut: impl FnOnce(usize) -> Result<Cut, ApiError>,
    dimensions: Option<usize>,
    (field, allow): (&'static str, &'static str),
) -> Result<(Vec<Vector>, usize), ApiError> {
    let maker = Maker::of(found)?;
    let (recipe, longest, width) = maker.facts().await?;
    let dimensions = within("dimensions", dimensions.unwrap_or(width), 1..=width)?;
    let cut = cut(longest)?;
    let vocab = found.model.tokenizer.vocab_size();
    let framed = match input {
        Prompt::Tokens(lists) => {
            within(field, lists.len(), 1..=MOST_INPUTS)?;
            let one = lists.len() == 1;
            let framed = lists.into_iter().enumerate().map(|(i, ids)| {
                let path = if one { field.to_owned() } else { format!("{field}[{i}]") };
                if let Some((at, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
                    let what = format!("`{path}[{at}]` is {id} but the vocabulary has {vocab} tokens");
                    return Err(ApiError::field(format!("{path}[{at}]"), what));
                }
                let most = cut.longest(longest).min(ids.len());
                let text = Framed { types: vec![0; most], cut: ids.len() - most, ids: ids[..most].to_vec() };
                cut.check(&text, longest, &path, allow).map(|()| text)
            });
            framed.collect::<Result<Vec<_>, _>>()?
        }
        Prompt::Texts(texts) => {
            within(field, texts.len(), 1..=MOST_INPUTS)?;
            let mut framed = Vec::with_capacity(texts.len());
            let one = texts.len() == 1;
            let mut texts = texts.into_iter().enumerate().peekable();
            while texts.peek().is_some() {
                let part: Vec<(usize, String)> = texts.by_ref().take(TEXTS).collect();
                let (recipe, tokenizer) = (recipe.clone(), Arc::clone(&found.model.tokenizer));
                let part = aside(move || {
                    let frame = |(i, text): (usize, String)| {
                        let path = if one { field.to_owned() } else { format!("{field}[{i}]") };
                        let text = recipe.frame(&tokenizer, &text, cut.longest(longest));
                        let text = text.map_err(|e| ApiError::field(&path, format!("`{path}`: {e}")))?;
                        cut.check(&text, longest, &path, allow).map(|()| text)
                    };
                    part.into_iter().map(frame).collect::<Result<Vec<_>, ApiError>>()
                });
                framed.extend(part.await??);
            }
            framed
        }
    };
    let tokens = framed.iter().map(|t| t.ids.len()).sum();
    caller.charge(&found.name, tokens)?;
    let vectors = compute(caller, found, maker, &recipe, framed, dimensions).await;
    Ok((vectors.inspect_err(|_| caller.refund(tokens))?, tokens))
}

/// The vectors of texts that are tokens, a turn after the other.
async fn compute(
    caller: &Caller,
    found: &Found,
    maker: Maker<'_>,
    recipe: &Recipe,
    framed: Vec<Framed>,
    dimensions: usize,
) -> Result<Vec<Vector>, ApiError> {
    let mut vectors = Vec::with_capacity(framed.len());
    let framed = Arc::new(framed);
    while vectors.len() < framed.len() {
        let range = turn(&framed, vectors.len());
        match maker {
            Maker::Embedder(embedder) => {
                let (of, adapters) = (Arc::clone(&framed), found.adapters.clone());
                let made = in_turn(embedder, move |embedder| {
                    embedder.vectors(of.get(range).unwrap_or_default(), dimensions, &adapters)
                });
                vectors.extend(made.await?.map_err(|e| ApiError::internal(e.to_string()))?);
            }
            Maker::Writer(writer) => {
                let texts = framed.get(range).unwrap_or_default();
                let states = states(caller, found, writer, texts).await?;
                vectors.extend(states.into_iter().zip(texts).map(|(v, text)| recipe.vector(v, dimensions, text)));
            }
        }
    }
    Ok(vectors)
}

/// The texts of the turn that begins with this one.
pub fn turn(framed: &[Framed], start: usize) -> Range<usize> {
    let rest = framed.get(start..).unwrap_or_default();
    let mut tokens = 0;
    let fits = rest.iter().take(TEXTS).take_while(|t| {
        tokens += t.ids.len();
        tokens <= TOKENS
    });
    start..start + fits.count().max(1)
}

/// Makes vectors of texts.
///
/// # Errors
/// The request is wrong, or the model is not there or of another kind.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "OpenAI",
    request_body = EmbeddingRequest,
    responses((status = 200, description = "The vectors, in the order of the texts", body = EmbeddingResponse))
)]
pub async fn embeddings(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let Json { value: request, ignored } = body;
    let found = app.models.find(request.model.as_deref()).await?;
    let cut = |longest| Cut::of(request.truncate_prompt_tokens, longest);
    let made = vectors(&caller, &found, request.input, cut, request.dimensions, ("input", "`truncate_prompt_tokens`"));
    let (vectors, tokens) = within_time(&app, made).await?;
    let format = request.encoding_format.unwrap_or_default();
    let data = vectors.into_iter().enumerate().map(|(index, vector)| {
        let embedding = match format {
            EncodingFormat::Float => Numbers::Float(vector.values),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                Numbers::Base64(BASE64_STANDARD.encode(bytes))
            }
        };
        EmbeddingObject { object: "embedding", embedding, index }
    });
    let data = data.collect();
    let response =
        EmbeddingResponse { object: "list", data, model: found.name.clone(), usage: InputUsage::new(tokens) };
    let response = axum::Json(response).into_response();
    Ok(naming(&ignored, response))
}
