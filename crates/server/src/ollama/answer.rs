//! Answers: one object, or a line for each piece.

use super::{ErrorBody, Keep, date, nanos};
use crate::dialogue::{self, Delta, Deltas, Finish, Part};
use crate::error::ApiError;
use crate::openai::messages::Role;
use alula_engine::Usage;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use std::convert::Infallible;
use std::time::{Duration, Instant, SystemTime};
use utoipa::ToSchema;

/// A piece of an answer, or all of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Line)]
pub struct Line {
    model: String,
    created_at: String,
    /// Of `/api/chat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Said>,
    /// Of `/api/generate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    /// Of `/api/generate`: what the model wrote for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
}

/// What the assistant says.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Said)]
pub struct Said {
    role: Role,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

/// A call.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Call)]
pub struct Call {
    id: String,
    function: CalledFunction,
}

/// Which function and with what.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::CalledFunction)]
pub struct CalledFunction {
    index: usize,
    name: String,
    /// What the limit of tokens broke off is text under `INVALID_JSON`.
    #[schema(value_type = Object)]
    arguments: Value,
}

/// What an answer took; times in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Metrics)]
pub struct Metrics {
    total_duration: u64,
    load_duration: u64,
    /// Tokens of the prompt.
    prompt_eval_count: usize,
    prompt_eval_duration: u64,
    /// Tokens of the answer.
    eval_count: usize,
    eval_duration: u64,
}

/// What all lines of an answer have.
#[derive(Clone, Debug)]
pub struct Head {
    /// As the request names it.
    pub model: String,
    /// Whether it is a message or a text.
    pub chat: bool,
    /// When the request came.
    pub began: Instant,
    /// How long it waited for the model.
    pub load: Duration,
}

/// What is new.
#[derive(Default)]
struct New {
    content: String,
    thinking: String,
    calls: Vec<Call>,
}

impl Head {
    fn line(&self, new: New, end: Option<(&'static str, Option<Usage>)>) -> Line {
        let thinking = (!new.thinking.is_empty()).then_some(new.thinking);
        let (message, response, thinking) = match self.chat {
            true => {
                let said = Said { role: Role::Assistant, content: new.content, thinking, tool_calls: new.calls };
                (Some(said), None, None)
            }
            false => (None, Some(new.content), thinking),
        };
        let metrics = |usage: Usage| Metrics {
            total_duration: nanos(self.began.elapsed()),
            load_duration: nanos(self.load),
            prompt_eval_count: usage.prompt,
            prompt_eval_duration: nanos(usage.prompt_time),
            eval_count: usage.generated,
            eval_duration: nanos(usage.generate_time),
        };
        Line {
            model: self.model.clone(),
            created_at: date(SystemTime::now()),
            message,
            response,
            thinking,
            done: end.is_some(),
            done_reason: end.map(|(reason, _)| reason),
            metrics: end.and_then(|(_, usage)| usage).map(metrics),
        }
    }
}

/// The answer to a request that says nothing: the model is loaded, or goes.
pub fn nothing(head: &Head, goes: bool) -> Response {
    axum::Json(head.line(New::default(), Some((if goes { "unload" } else { "load" }, None)))).into_response()
}

fn reason(finish: Finish) -> &'static str {
    if finish == Finish::Length { "length" } else { "stop" }
}

/// A whole call.
fn call(index: usize, (id, name, arguments): (String, String, String)) -> Call {
    Call { id, function: CalledFunction { index, name, arguments: dialogue::object(&arguments) } }
}

/// The answer when it is whole.
///
/// # Errors
/// It broke off.
pub async fn whole(head: &Head, deltas: Deltas) -> Result<Response, ApiError> {
    let answer = dialogue::whole(deltas, 1).await?.pop().unwrap_or_default();
    let calls = answer.calls.into_iter().enumerate().map(|(i, c)| call(i, c)).collect();
    let end = answer.end.map_or(("stop", None), |(finish, usage, _)| (reason(finish), Some(usage)));
    let new = New { content: answer.content, thinking: answer.reasoning, calls };
    Ok(axum::Json(head.line(new, Some(end))).into_response())
}

/// Calls are sent whole.
#[derive(Default)]
struct Place {
    /// The call that is being written.
    open: Option<(usize, (String, String, String))>,
}

impl Place {
    fn close(&mut self, head: &Head, out: &mut Vec<Line>) {
        if let Some((index, open)) = self.open.take() {
            out.push(head.line(New { calls: vec![call(index, open)], ..New::default() }, None));
        }
    }

    fn lines(&mut self, head: &Head, delta: Delta) -> Vec<Line> {
        let mut out = Vec::new();
        for part in delta.parts {
            match part {
                Part::Arguments { text, .. } => {
                    if let Some((_, (_, _, arguments))) = &mut self.open {
                        arguments.push_str(&text);
                    }
                    continue;
                }
                Part::Content(content) => {
                    self.close(head, &mut out);
                    out.push(head.line(New { content, ..New::default() }, None));
                }
                Part::Reasoning(thinking) => {
                    self.close(head, &mut out);
                    out.push(head.line(New { thinking, ..New::default() }, None));
                }
                Part::Call { index, id, name } => {
                    self.close(head, &mut out);
                    self.open = Some((index, (id, name, String::new())));
                }
            }
        }
        if let Some((finish, usage, _)) = delta.end {
            self.close(head, &mut out);
            out.push(head.line(New::default(), Some((reason(finish), Some(usage)))));
        }
        out
    }
}

/// A value on a line of its own.
fn line<T: Serialize>(value: &T) -> Bytes {
    let mut text = crate::sse::line(value).into_bytes();
    text.push(b'\n');
    text.into()
}

/// The answer as it is written.
pub(super) fn lines(head: Head, deltas: Deltas, keep: Keep) -> Response {
    let mut place = Place::default();
    let lines = deltas.flat_map(move |delta| {
        // The model may go when its last word is said, or when nobody listens.
        let _ = &keep;
        stream::iter(match delta {
            Ok(delta) => place.lines(&head, delta).iter().map(line).collect(),
            Err(e) => vec![line(&ErrorBody::of(&e))],
        })
    });
    let mut response = Body::from_stream(lines.map(Ok::<_, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies such as nginx would hold lines back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
