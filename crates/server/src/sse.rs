//! Server-sent events (HTML standard, 9.2).

use crate::error::ApiError;
use axum::http::{HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

/// How often a quiet stream says that it is there.
const ALIVE: Duration = Duration::from_secs(15);

/// A stream of JSON objects as OpenAI sends it: ended by `[DONE]`, or by an error.
pub fn response<T: Serialize>(stream: impl Stream<Item = Result<T, ApiError>> + Send + 'static) -> Response {
    let events = stream.map(|item| match item {
        Ok(value) => (json(&value), false),
        Err(e) => (json(&e.body()), true),
    });
    // Nothing comes after an error.
    let events = events.chain(futures_util::stream::once(async { (Event::default().data("[DONE]"), true) }));
    let events = events.scan(false, |over, (event, last)| {
        let item = (!*over).then_some(Ok::<_, Infallible>(event));
        *over = last;
        std::future::ready(item)
    });
    of(events)
}

fn json<T: Serialize>(value: &T) -> Event {
    // serde_json escapes line ends, so the data is one line.
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}

/// A response of such events.
pub fn of(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response();
    // Proxies such as nginx would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
