//! `/tokenize` and `/detokenize`, as vLLM and llama-server have them.

use crate::app::App;
use crate::body::Json;
use crate::dialogue::{self, Talk};
use crate::error::ApiError;
use crate::openai::messages::{Message, for_template};
use crate::turns::aside;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A text or a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// The same in llama-server's word.
    pub content: Option<String>,
    /// A conversation, written with the model's chat template.
    pub messages: Option<Vec<Message>>,
    /// Add the special tokens that begin a text; by default true for texts.
    pub add_special_tokens: Option<bool>,
    /// Report each token's text too.
    pub return_token_strs: Option<bool>,
}

/// Its tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many.
    count: usize,
    /// Tokens of a sequence at most.
    max_model_len: usize,
    /// Their ids.
    tokens: Vec<u32>,
    /// Their texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

/// Text to token ids.
///
/// # Errors
/// There is no text, or the model is not there.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Tokens",
    request_body = TokenizeRequest,
    responses((status = 200, description = "Its tokens", body = TokenizeResponse))
)]
pub async fn tokenize(
    State(app): State<Arc<App>>,
    body: Json<TokenizeRequest>,
) -> Result<axum::Json<TokenizeResponse>, ApiError> {
    let request = body.value;
    let found = app.models.find(request.model.as_deref()).await?;
    let max_model_len = app.models.entry(request.model.as_deref())?.0.facts.context;
    let tokens = match (request.prompt.or(request.content), request.messages) {
        (Some(text), None) => {
            let (tokenizer, special) = (Arc::clone(&found.model.tokenizer), request.add_special_tokens.unwrap_or(true));
            let ids = aside(move || tokenizer.encode(&text, special, true)).await?;
            ids.map_err(|e| ApiError::field("prompt", e.to_string()))?
        }
        (None, Some(messages)) => {
            let developer = found.model.writer(&found.name)?.speech.source().contains("developer");
            let talk = Talk { messages: for_template(messages, developer)?, ..Talk::default() };
            dialogue::prompt(&found, talk).await?
        }
        (None, None) => return Err(ApiError::field("prompt", "give `prompt` or `messages`")),
        (Some(_), Some(_)) => return Err(ApiError::field("messages", "give `prompt` or `messages`, not both")),
    };
    let text = |&id: &u32| String::from_utf8_lossy(&found.model.tokenizer.token_bytes(id)).into_owned();
    let token_strs = (request.return_token_strs == Some(true)).then(|| tokens.iter().map(text).collect());
    Ok(axum::Json(TokenizeResponse { count: tokens.len(), max_model_len, tokens, token_strs }))
}

/// Token ids.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// Their text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text.
    prompt: String,
}

/// Token ids to text, special tokens too.
///
/// # Errors
/// An id is not in the vocabulary, or the model is not there.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Tokens",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "Their text", body = DetokenizeResponse))
)]
pub async fn detokenize(
    State(app): State<Arc<App>>,
    body: Json<DetokenizeRequest>,
) -> Result<axum::Json<DetokenizeResponse>, ApiError> {
    let request = body.value;
    let found = app.models.find(request.model.as_deref()).await?;
    let tokenizer = &found.model.tokenizer;
    let vocab = tokenizer.vocab_size();
    if let Some(at) = request.tokens.iter().position(|&id| id as usize >= vocab) {
        let (path, id) = (format!("tokens[{at}]"), request.tokens[at]);
        let what = format!("`{path}` is {id} but the vocabulary has {vocab} tokens");
        return Err(ApiError::field(path, what));
    }
    Ok(axum::Json(DetokenizeResponse { prompt: tokenizer.decode(&request.tokens, false) }))
}
