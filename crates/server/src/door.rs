//! The door: refusals leave in the dialect that was spoken.
//!
//! Handlers, and what stands before them, refuse with an [`ApiError`]; the path says whose words it is put in.

use crate::error::ApiError;
use crate::{anthropic, ollama};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Answers a request, and rewrites a refusal.
pub async fn answer(request: Request, next: Next) -> Response {
    let write: Option<fn(&ApiError) -> Response> = match request.uri().path() {
        path if path == "/v1/messages" || path.starts_with("/v1/messages/") => {
            Some(|e| axum::Json(anthropic::ErrorBody::of(e)).into_response())
        }
        path if path.starts_with("/api/") => Some(|e| axum::Json(ollama::ErrorBody::of(e)).into_response()),
        _ => None,
    };
    let response = next.run(request).await;
    let (Some(write), Some(error)) = (write, response.extensions().get::<ApiError>()) else { return response };
    // The status and all headers stay; the length is of the other body.
    let body = write(error).into_body();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}
