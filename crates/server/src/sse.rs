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
    Event::default().data(line(value))
}

/// JSON on one line, whatever a client takes for a line: Unicode has more ends of lines than JSON escapes, and Python's
/// `splitlines`, with which clients take streams apart, knows them all.
pub fn line<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    for (end, escape) in [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")] {
        if text.contains(end) {
            // They stand nowhere but in strings.
            text = text.replace(end, escape);
        }
    }
    text
}

/// A response of such events.
pub fn of(events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response();
    // Proxies such as nginx would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_is_one_for_everybody() {
        let text = "a\u{85}b\u{2028}c\u{2029}d\n\u{b}\u{1c}é\\u2028";
        let line = super::line(&text);
        assert!(!line.contains(['\u{85}', '\u{2028}', '\u{2029}', '\n', '\u{b}', '\u{1c}']), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
