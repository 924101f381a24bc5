//! `/api/embed` and `/api/embeddings`.

use super::{KeepAlive, find, nanos};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::openai::embeddings::{Cut, vectors};
use crate::openai::fields::OneOrMany;
use crate::openai::prompt::Prompt;
use crate::turns::within_time;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// Texts to make vectors of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::EmbedRequest)]
pub struct EmbedRequest {
    /// The model; `:latest` may follow its name.
    pub model: String,
    /// A text or texts.
    pub input: OneOrMany<String>,
    /// Whether texts are cut that are longer than the model reads. Without it they are refused.
    pub truncate: Option<bool>,
    /// The first so many elements of each vector; by default all.
    pub dimensions: Option<usize>,
    /// None has a meaning here.
    pub options: Option<NoOptions>,
    /// How long the model stays loaded after this, unless another request names it.
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
}

/// Options of requests that have none.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::NoOptions)]
pub struct NoOptions {}

/// Vectors of length 1.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::EmbedResponse)]
pub struct EmbedResponse {
    model: String,
    embeddings: Vec<Vec<f32>>,
    /// Nanoseconds.
    total_duration: u64,
    /// Nanoseconds.
    load_duration: u64,
    /// Tokens that were read.
    prompt_eval_count: usize,
}

/// A text to make a vector of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::EmbeddingRequest)]
pub struct EmbeddingRequest {
    /// The model; `:latest` may follow its name.
    pub model: String,
    /// The text.
    pub prompt: String,
    /// None has a meaning here.
    pub options: Option<NoOptions>,
    /// How long the model stays loaded after this, unless another request names it.
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
}

/// A vector, as the model makes it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::EmbeddingResponse)]
pub struct EmbeddingResponse {
    embedding: Vec<f32>,
}

/// Makes vectors of texts.
///
/// # Errors
/// The request is wrong, or the model is not there or of another kind.
#[utoipa::path(
    post,
    path = "/api/embed",
    tag = "Ollama",
    request_body = EmbedRequest,
    responses((status = 200, description = "The vectors, in the order of the texts", body = EmbedResponse))
)]
pub async fn embed(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<EmbedRequest>,
) -> Result<axum::Json<EmbedResponse>, ApiError> {
    let (began, request) = (Instant::now(), body.value);
    let (found, _keep) = find(&app, &request.model, request.keep_alive).await?;
    let load = began.elapsed();
    let cut = if request.truncate == Some(true) { Cut::Longest } else { Cut::Refuse };
    let input = Prompt::Texts(request.input.list(|text| text));
    let made = vectors(&caller, &found, input, |_| Ok(cut), request.dimensions, ("input", "`truncate`"));
    let (vectors, prompt_eval_count) = within_time(&app, made).await?;
    let unit = |mut values: Vec<f32>| {
        let square: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let length = square.sqrt().max(1e-12);
        values.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        values
    };
    Ok(axum::Json(EmbedResponse {
        model: request.model,
        embeddings: vectors.into_iter().map(|v| unit(v.values)).collect(),
        total_duration: nanos(began.elapsed()),
        load_duration: nanos(load),
        prompt_eval_count,
    }))
}

/// Makes a vector of a text.
///
/// # Errors
/// As [`embed`].
#[utoipa::path(
    post,
    path = "/api/embeddings",
    tag = "Ollama",
    request_body = EmbeddingRequest,
    responses((status = 200, description = "The vector", body = EmbeddingResponse))
)]
pub async fn embedding(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<EmbeddingRequest>,
) -> Result<axum::Json<EmbeddingResponse>, ApiError> {
    let request = body.value;
    let (found, _keep) = find(&app, &request.model, request.keep_alive).await?;
    let input = Prompt::Texts(vec![request.prompt]);
    let made = vectors(&caller, &found, input, |_| Ok(Cut::Refuse), None, ("prompt", "`truncate` of /api/embed"));
    let (vectors, _) = within_time(&app, made).await?;
    let embedding = vectors.into_iter().next().map(|v| v.values).unwrap_or_default();
    Ok(axum::Json(EmbeddingResponse { embedding }))
}
