//! Streams that can be taken up again where the connection broke.
//!
//! Who asks with `x-alula-resume: 1` gets events that are numbered: `id: STREAM:N`. When the connection breaks the answer is
//! still written for a grace period, and `Last-Event-ID: STREAM:N` brings exactly the events after the Nth, with `GET
//! /v1/streams/STREAM` or with the same request again. It works on what is sent, whatever the endpoint. Without the header a
//! broken connection cancels its answer.

use crate::app::App;
use crate::error::ApiError;
use crate::openai::responses::owner;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Streams at most.
const MOST: usize = 256;
/// Bytes of events that are held for a stream at most; more are not fetched before somebody reads.
const BYTES: usize = 4 << 20;
/// How often a quiet stream says that it is there.
const ALIVE: Duration = Duration::from_secs(15);
/// Asks for a stream that can be taken up again.
pub const ASK: &str = "x-alula-resume";
/// What an answer calls its stream.
pub const NAME: &str = "x-alula-stream";
/// The last event that arrived.
const LAST: &str = "last-event-id";

/// Streams by name.
#[derive(Debug, Default)]
pub struct Streams(Mutex<HashMap<String, Arc<Run>>>);

/// A stream: its events and who reads them.
#[derive(Debug)]
struct Run {
    name: String,
    owner: String,
    state: Mutex<Held>,
    /// Changes with the state.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Held {
    events: VecDeque<Bytes>,
    /// The number of the first one that is held; the very first has 1.
    first: u64,
    bytes: usize,
    /// The last one that somebody was sent.
    sent: u64,
    readers: usize,
    /// When the last reader left.
    left: Instant,
    /// Nothing more comes.
    over: bool,
}

impl Streams {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Run>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for one more; those that are over make room.
    fn room(&self) -> bool {
        let mut open = self.open();
        if open.len() >= MOST {
            open.retain(|_, run| {
                let held = run.held();
                !(held.over && held.readers == 0)
            });
        }
        open.len() < MOST
    }

    fn find(&self, name: &str, owner: &str) -> Result<Arc<Run>, ApiError> {
        let found = self.open().get(name).filter(|run| run.owner == owner).cloned();
        found.ok_or_else(|| {
            let what = format!("there is no stream `{}` here, or it is over", alula_format::clip_to(name, 100));
            ApiError::not_found("stream_not_found", what)
        })
    }

    /// The events behind the one that arrived last: `STREAM:N`.
    fn take_up(&self, last: &str, owner: &str) -> Result<Response, ApiError> {
        let (name, number) = last.rsplit_once(':').unwrap_or((last, "0"));
        let wrong = || ApiError::field(LAST, format!("`{LAST}` must be the id of an event, like STREAM:12"));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let run = self.find(name, owner)?;
        let (first, end) = {
            let held = run.held();
            (held.first, held.first + held.events.len() as u64)
        };
        if number >= end {
            return Err(wrong());
        }
        if number + 1 < first {
            let what = format!("events from {} on were asked for, but only those from {first} on are held", number + 1);
            return Err(ApiError::status(StatusCode::GONE, "invalid_request_error", what).code("stream_expired"));
        }
        Ok(run.response(number + 1))
    }
}

impl Run {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells everybody.
    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held());
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Whether another event may be fetched. Events that were sent are let go of when there are too many.
    fn room(&self) -> bool {
        let mut held = self.held();
        while held.bytes > BYTES && held.first <= held.sent {
            let Some(event) = held.events.pop_front() else { break };
            held.bytes -= event.len();
            held.first += 1;
        }
        held.bytes <= BYTES
    }

    /// Waits until nobody has read for so long, or nobody reads and the server closes.
    async fn abandoned(&self, grace: Duration, mut closing: watch::Receiver<bool>) {
        let mut news = self.news.subscribe();
        loop {
            let (readers, left) = {
                let held = self.held();
                (held.readers, held.left)
            };
            if readers == 0 && (*closing.borrow() || left.elapsed() >= grace) {
                return;
            }
            let wait = if readers == 0 { grace.saturating_sub(left.elapsed()) } else { Duration::from_secs(3600) };
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(wait) => {}
                () = async { _ = closing.wait_for(|c| *c).await }, if readers == 0 => {}
            }
        }
    }

    /// Fetches events until there are no more or nobody wants them.
    async fn drive(self: Arc<Self>, app: Arc<App>, mut events: BodyDataStream) {
        let grace = app.config.resume_grace;
        {
            let abandoned = self.abandoned(grace, app.closing());
            tokio::pin!(abandoned);
            let mut news = self.news.subscribe();
            while !self.held().over {
                tokio::select! {
                    () = &mut abandoned => break,
                    event = events.next(), if self.room() => match event {
                        Some(Ok(event)) => self.add(&event),
                        _ => break,
                    },
                    _ = news.changed() => {}
                }
            }
        }
        drop(events);
        self.change(|held| held.over = true);
        self.abandoned(grace, app.closing()).await;
        app.streams.open().remove(&self.name);
    }

    fn add(&self, event: &[u8]) {
        // Comments only say that the stream is there, which readers are told anyway.
        if event.starts_with(b":") {
            return;
        }
        self.change(|held| {
            let number = held.first + held.events.len() as u64;
            let mut numbered = format!("id: {}:{number}\n", self.name).into_bytes();
            numbered.extend_from_slice(event);
            held.bytes += numbered.len();
            held.events.push_back(numbered.into());
        });
    }

    /// The events from the `next`th on.
    fn response(self: &Arc<Self>, next: u64) -> Response {
        let reader = Reader::new(self);
        let events = stream::unfold((reader, next), |(mut reader, next)| async move {
            let event = reader.event(next).await?;
            let next = next + u64::from(!event.starts_with(b":"));
            Some((Ok::<_, Infallible>(event), (reader, next)))
        });
        let mut response = Body::from_stream(events).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            headers.insert(NAME, name);
        }
        response
    }
}

/// Somebody who reads a stream.
struct Reader {
    run: Arc<Run>,
    news: watch::Receiver<u64>,
}

impl Reader {
    fn new(run: &Arc<Run>) -> Reader {
        run.change(|held| held.readers += 1);
        Reader { run: Arc::clone(run), news: run.news.subscribe() }
    }

    /// An event by its number, or a comment if it does not come for a while; none if there is none.
    async fn event(&mut self, number: u64) -> Option<Bytes> {
        loop {
            let (event, over) = {
                let mut held = self.run.held();
                let at = number.checked_sub(held.first).and_then(|at| usize::try_from(at).ok());
                let event = at.and_then(|at| held.events.get(at).cloned());
                if event.is_some() {
                    held.sent = held.sent.max(number);
                }
                // Another reader was further, and what this one lacks is gone.
                (event, held.over || number < held.first)
            };
            if event.is_some() {
                return event;
            }
            if over {
                return None;
            }
            if let Err(_quiet) = tokio::time::timeout(ALIVE, self.news.changed()).await {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.run.change(|held| {
            held.readers = held.readers.saturating_sub(1);
            held.left = Instant::now();
        });
    }
}

/// Makes streams that can be taken up again of those that are asked for so, and takes them up.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match with(app, request, next).await {
        Ok(response) => response,
        Err(e) => e.into_response(),
    }
}

async fn with(app: Arc<App>, request: Request, next: Next) -> Result<Response, ApiError> {
    let owner = owner(request.extensions());
    if request.method() == Method::POST && request.headers().get(LAST).is_some_and(|v| !v.is_empty()) {
        return app.streams.take_up(last(request.headers())?, &owner);
    }
    match request.headers().get(ASK).map(HeaderValue::as_bytes) {
        None | Some(b"0" | b"false") => return Ok(next.run(request).await),
        Some(b"1" | b"true") => {}
        Some(_) => return Err(ApiError::field(ASK, format!("the header `{ASK}` must be 1 or 0"))),
    }
    if !app.streams.room() {
        let what = format!("{MOST} streams that can be taken up again are open; ask later, or without `{ASK}`");
        return Err(ApiError::busy(what, app.config.resume_grace));
    }
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|k| k.starts_with(b"text/event-stream")) {
        return Ok(response);
    }
    let name = crate::generate::name("stream_")?;
    let held =
        Held { events: VecDeque::new(), first: 1, bytes: 0, sent: 0, readers: 0, left: Instant::now(), over: false };
    let (state, news) = (Mutex::new(held), watch::Sender::new(0));
    let run = Arc::new(Run { name: name.clone(), owner, state, news });
    app.streams.open().insert(name, Arc::clone(&run));
    let (parts, body) = response.into_parts();
    let mut response = run.response(1);
    for (name, value) in &parts.headers {
        if !response.headers().contains_key(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    tokio::spawn(run.drive(app, body.into_data_stream()));
    Ok(response)
}

fn last(headers: &HeaderMap) -> Result<&str, ApiError> {
    let value = headers.get(LAST).map(HeaderValue::to_str);
    let wrong = || ApiError::field(LAST, format!("`{LAST}` must be the id of an event, like STREAM:12"));
    value.unwrap_or(Ok("")).map_err(|_| wrong())
}

/// The rest of a stream, from its beginning without `Last-Event-ID`.
///
/// # Errors
/// There is no stream of that name, or what is asked for is not held any more.
#[utoipa::path(get, path = "/v1/streams/{name}", tag = "Streams", params(
    ("name" = String, Path, description = "The stream, as the header `x-alula-stream` calls it"),
    ("last-event-id" = Option<String>, Header, description = "The last event that arrived"),
), responses(
    (status = 200, description = "The events behind it", body = String, content_type = "text/event-stream"), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody),
    (status = 410, description = "They are not held any more", body = crate::error::ErrorBody),
))]
pub async fn show(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = match last(&headers)? {
        "" => format!("{name}:0"),
        id if id.contains(':') => id.to_owned(),
        number => format!("{name}:{number}"),
    };
    if last.rsplit_once(':').is_none_or(|(of, _)| of != name) {
        return Err(ApiError::field(LAST, format!("`{LAST}` is of another stream")));
    }
    app.streams.take_up(&last, &owner(&extensions))
}

/// Ends a stream, whoever reads it.
///
/// # Errors
/// There is no stream of that name.
#[utoipa::path(delete, path = "/v1/streams/{name}", tag = "Streams", params(("name" = String, Path, description = "The stream, as the header `x-alula-stream` calls it")), responses(
    (status = 204, description = "It ends"), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody),
))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.streams.find(&name, &owner(&extensions))?.change(|held| held.over = true);
    Ok(StatusCode::NO_CONTENT)
}
