//! The door: refusals leave in the dialect that was spoken.
//!
//! Handlers, and what stands before them, refuse with an [`ApiError`]; the path says whose words it is put in. A body that
//! nobody read is read here if it is short; otherwise the answer says that the connection ends, or a client who uses it again
//! would find it closed.

use crate::error::ApiError;
use crate::{anthropic, ollama};
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// Bytes of a body that nobody wants which are read all the same, at most.
const SHORT: u64 = 64 << 10;
/// How long that may take.
const SOON: Duration = Duration::from_secs(1);

/// Answers a request, and rewrites a refusal.
pub async fn answer(request: Request, next: Next) -> Response {
    let write: Option<fn(&ApiError) -> Response> = match request.uri().path() {
        path if path == "/v1/messages" || path.starts_with("/v1/messages/") => {
            Some(|e| axum::Json(anthropic::ErrorBody::of(e)).into_response())
        }
        path if path.starts_with("/api/") => Some(|e| axum::Json(ollama::ErrorBody::of(e)).into_response()),
        _ => None,
    };
    let (back, left) = oneshot::channel();
    let request = request.map(|body| Body::new(Lent { body: Some(body), back: Some(back) }));
    let mut response = next.run(request).await;
    let left = { left }.try_recv();
    if let Ok(body) = left
        && !read(body).await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (Some(write), Some(error)) = (write, response.extensions().get::<ApiError>()) else { return response };
    // The status and all headers stay; the length is of the other body.
    let body = write(error).into_body();
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

/// Whether the rest of a body was short.
async fn read(mut body: Body) -> bool {
    if body.size_hint().lower() > SHORT {
        return false;
    }
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
            if bytes > SHORT {
                break;
            }
        }
        body.is_end_stream()
    };
    tokio::time::timeout(SOON, read).await.unwrap_or(false)
}

/// A body that comes back if it was not read to its end.
struct Lent {
    body: Option<Body>,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits for it where the answer has gone.
            _ = back.send(body);
        }
    }
}
