//! Which path does what: one row each.

use crate::app::App;
use crate::error::ApiError;
use crate::openai::responses::{self, kept};
use crate::openai::{chat, completions, list};
use crate::{resume, tokenize, ws};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
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
    let router = router.layer(from_fn_with_state(Arc::clone(&app), resume::layer));
    router.fallback(unknown).method_not_allowed_fallback(method).with_state(app)
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
