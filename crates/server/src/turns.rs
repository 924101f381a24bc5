//! What handlers share: models that several requests use in turn, work beside the connections, the heads of responses.

use crate::app::App;
use crate::body::Ignored;
use crate::error::ApiError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Does something with a model when its turn has come, without holding others up. Who drops this while it waits for its
/// turn is out of the line.
///
/// # Errors
/// It panicked.
pub async fn in_turn<M: Send + 'static, T: Send + 'static>(
    model: &Arc<Mutex<M>>,
    work: impl FnOnce(&mut M) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let mut model = Arc::clone(model).lock_owned().await;
    aside(move || work(&mut model)).await
}

/// Does something that takes a while, without holding others up.
///
/// # Errors
/// It panicked.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("it panicked on the way; this is a bug"))
}

/// A response that names the fields that were left out of its request.
pub fn naming(ignored: &Ignored, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    if let Some(header) = ignored.header() {
        response.headers_mut().insert("x-alula-ignored", header);
    }
    response
}

/// Waits for something as long as a request may take.
///
/// # Errors
/// It took longer, or failed.
pub async fn within_time<T>(app: &App, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let timeout = app.config.request_timeout;
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let what = format!("the answer took over {} seconds", timeout.as_secs());
        Err(ApiError::status(StatusCode::GATEWAY_TIMEOUT, "server_error", what).code("timeout"))
    })
}
