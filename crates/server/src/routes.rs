//! Which path does what: one row each.

use crate::app::App;
use crate::error::ApiError;
use crate::openai::{chat, completions, embeddings, list};
use crate::tokenize;
use crate::{anthropic, door, manage, ollama, rerank};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;

/// What a key must permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: anybody may ask.
    Open,
    /// To use models.
    Infer,
    /// To read metrics.
    Metrics,
    /// To change the server.
    Admin,
}

/// A path and what it does.
type Row = (&'static str, Scope, fn() -> MethodRouter<Arc<App>>);

/// All of them.
pub const ROUTES: &[Row] = &[
    ("/livez", Scope::Open, || get(live)),
    ("/readyz", Scope::Open, || get(ready)),
    ("/health", Scope::Open, || get(ready)),
    ("/v1/models", Scope::Infer, || get(list::list)),
    ("/v1/models/{*model}", Scope::Infer, || get(list::show)),
    ("/v1/chat/completions", Scope::Infer, || post(chat::chat)),
    ("/v1/completions", Scope::Infer, || post(completions::complete)),
    ("/v1/embeddings", Scope::Infer, || post(embeddings::embeddings)),
    ("/v1/rerank", Scope::Infer, || post(rerank::rerank)),
    ("/rerank", Scope::Infer, || post(rerank::unversioned)),
    ("/v1/messages", Scope::Infer, || post(anthropic::messages)),
    ("/v1/messages/count_tokens", Scope::Infer, || post(anthropic::count_tokens)),
    ("/api/chat", Scope::Infer, || post(ollama::chat::chat)),
    ("/api/generate", Scope::Infer, || post(ollama::generate::generate)),
    ("/api/embed", Scope::Infer, || post(ollama::embed::embed)),
    ("/api/embeddings", Scope::Infer, || post(ollama::embed::embedding)),
    ("/api/tags", Scope::Infer, || get(ollama::info::tags)),
    ("/api/ps", Scope::Infer, || get(ollama::info::ps)),
    ("/api/show", Scope::Infer, || post(ollama::info::show)),
    ("/api/version", Scope::Infer, || get(ollama::info::version)),
    ("/models/load", Scope::Admin, || post(manage::load)),
    ("/models/unload", Scope::Admin, || post(manage::unload)),
    ("/tokenize", Scope::Infer, || post(tokenize::tokenize)),
    ("/detokenize", Scope::Infer, || post(tokenize::detokenize)),
];

/// The service.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, _, handler) in ROUTES {
        router = router.route(path, handler());
    }
    let router = router.fallback(unknown).method_not_allowed_fallback(method).with_state(app);
    // Outermost: whoever refuses a request, it is said in the dialect that was spoken.
    router.layer(axum::middleware::from_fn(door::answer))
}

/// The process runs.
async fn live() -> &'static str {
    "ok\n"
}

/// Requests are welcome.
async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if app.ready() { Ok("ok\n") } else { Err(ApiError::unavailable("the server is loading, or shutting down")) }
}

async fn unknown(uri: axum::http::Uri) -> ApiError {
    let what =
        format!("there is no `{}` here; /openapi.json lists what there is", alula_format::clip_to(uri.path(), 100));
    ApiError::not_found("unknown_url", what)
}

async fn method(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let what = format!("`{}` does not take {method}", alula_format::clip_to(uri.path(), 100));
    ApiError::status(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", what)
}
