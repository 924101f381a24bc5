//! Which path does what: one row each.

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::gate::gate;
use crate::openai::responses::{self, kept};
use crate::openai::{chat, completions, embeddings, list};
use crate::{anthropic, door, manage, metrics, ollama, openapi, page, rerank, resume, tokenize, ws};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a key must permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Nothing: anybody may ask.
    Open,
    /// Nothing, but it must be one: files of the built-in pages.
    Page,
    /// To use models.
    Infer,
    /// To read metrics.
    Metrics,
    /// To change the server.
    Admin,
}

/// A path and what it does.
type Row = (&'static str, Scope, fn() -> MethodRouter<Arc<App>>);

/// All of them; `openapi::Document` describes each.
pub const ROUTES: &[Row] = &[
    // A browser asks its user for the key, as the gate says.
    ("/", Scope::Page, || get(page::index)),
    ("/docs", Scope::Page, || get(page::docs)),
    ("/openapi.json", Scope::Page, || get(openapi::document)),
    ("/page/{file}", Scope::Page, || get(page::file)),
    ("/livez", Scope::Open, || get(live)),
    ("/readyz", Scope::Open, || get(ready)),
    ("/health", Scope::Open, || get(ready)),
    ("/metrics", Scope::Metrics, || get(metrics::text::metrics)),
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
    ("/v1/responses", Scope::Infer, || post(responses::create).get(ws::responses)),
    ("/v1/responses/{id}", Scope::Infer, || get(kept::show).delete(kept::delete)),
    ("/v1/responses/{id}/input_items", Scope::Infer, || get(kept::inputs)),
    ("/v1/responses/{id}/cancel", Scope::Infer, || post(kept::cancel)),
    ("/v1/streams/{name}", Scope::Infer, || get(resume::show).delete(resume::cancel)),
    ("/ws", Scope::Infer, || get(ws::chat)),
    ("/tokenize", Scope::Infer, || post(tokenize::tokenize)),
    ("/detokenize", Scope::Infer, || post(tokenize::detokenize)),
];

/// The service.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (path, _, handler) in ROUTES {
        router = router.route(path, handler());
    }
    let router = router.fallback(unknown).method_not_allowed_fallback(method);
    let router = router.layer(from_fn_with_state(Arc::clone(&app), resume::layer));
    let router = router.layer(from_fn_with_state(Arc::clone(&app), gate)).with_state(app);
    // Outermost: whoever refuses a request, it is said in the dialect that was spoken.
    router.layer(axum::middleware::from_fn(door::answer))
}

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "Health", responses((status = 200, description = "It runs", body = String, content_type = "text/plain")))]
pub async fn live() -> &'static str {
    "ok\n"
}

/// Requests are welcome.
#[utoipa::path(get, path = "/readyz", tag = "Health", responses(
    (status = 200, description = "They are", body = String, content_type = "text/plain"),
    (status = 503, description = "The server is loading, or shutting down", body = ErrorBody),
))]
pub async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
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
