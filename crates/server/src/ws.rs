//! Answers over WebSocket (RFC 6455).
//!
//! A message is a request, and what it brings are the events that the same request over HTTP would bring, one a message. Each
//! goes through the whole service as a request with the headers of the handshake, so keys, limits and counters hold for it.
//!
//! - `/ws`: a message is a body of `/v1/chat/completions`; with `request_id` several run at a time. `{"type": "cancel"}`.
//! - `/v1/responses`: `response.create`, one after the other (Open Responses, "WebSocket transport"); `response.cancel`.
//!
//! With `"resume": true` a request's events have an `event_id`, and `{"type": "resume", "event_id": …}` on another connection
//! brings those behind it.

use crate::app::{App, Guest};
use crate::caller::Caller;
use crate::error::{ApiError, ErrorBody};
use crate::openai::responses::{kept::Recent, owner};
use crate::{resume, routes};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tower::ServiceExt;

/// Requests of a connection that run or wait at most.
const MOST_TURNS: usize = 16;
/// Messages that wait to be sent at most; then answers wait.
const MOST_FRAMES: usize = 32;
/// How often the other side is asked whether it is there; three times without a word and it is not.
const PING: Duration = Duration::from_secs(20);
/// How long sending a message may take: who does not read for so long is let go.
const SEND: Duration = Duration::from_secs(30);

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chat,
    Responses,
}

/// `/ws`.
///
/// # Errors
/// It is no handshake, of another site, or there are too many connections.
#[utoipa::path(get, path = "/ws", tag = "WebSocket", responses(
    (status = 101, description = "A connection whose messages are bodies of chat completions"),
    (status = 426, description = "It is no handshake", body = ErrorBody),
))]
pub async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    upgraded(app, headers, extensions, upgrade, Kind::Chat)
}

/// `/v1/responses`.
///
/// # Errors
/// It is no handshake, of another site, or there are too many connections.
#[utoipa::path(get, path = "/v1/responses", tag = "WebSocket", responses(
    (status = 101, description = "A connection as Open Responses has it"),
    (status = 426, description = "It is no handshake", body = ErrorBody),
))]
pub async fn responses(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    upgraded(app, headers, extensions, upgrade, Kind::Responses)
}

fn upgraded(
    app: Arc<App>,
    headers: HeaderMap,
    mut extensions: Extensions,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    kind: Kind,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|e| {
        let what = format!("this path takes WebSocket handshakes: {e}");
        ApiError::status(StatusCode::UPGRADE_REQUIRED, "invalid_request_error", what)
    })?;
    // Browsers let any page open a WebSocket, and say from where.
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").map(|(_, place)| place) != text(header::HOST)
    {
        let what = "pages of another origin may not open a WebSocket here";
        return Err(ApiError::status(StatusCode::FORBIDDEN, "permission_error", what).code("origin_not_allowed"));
    }
    let guest = app.guest().ok_or_else(|| ApiError::unavailable("too many WebSocket connections are open"))?;
    let most = app.config.max_body;
    let upgrade = upgrade.max_message_size(most).max_frame_size(most).write_buffer_size(0);
    let router = routes::router(Arc::clone(&app));
    let owner = owner(&extensions);
    // The handshake is over when it is answered; each message is a request with a caller of its own.
    extensions.remove::<Caller>();
    Ok(upgrade.on_upgrade(move |socket| async move {
        let (out, frames) = mpsc::channel(MOST_FRAMES);
        let recent = Recent::default();
        let session = Session {
            app,
            router,
            headers,
            extensions,
            kind,
            owner,
            recent,
            out,
            turns: BTreeMap::new(),
            next: 0,
            waiting: VecDeque::new(),
        };
        session.run(socket, frames, guest).await;
    }))
}

/// What an answer brings.
enum Frame {
    Text(String),
    End,
}

/// A request that runs.
struct Turn {
    request_id: Option<String>,
    task: AbortHandle,
}

/// A connection.
struct Session {
    app: Arc<App>,
    router: Router,
    headers: HeaderMap,
    extensions: Extensions,
    kind: Kind,
    owner: String,
    recent: Recent,
    out: mpsc::Sender<(u64, Frame)>,
    turns: BTreeMap<u64, Turn>,
    next: u64,
    waiting: VecDeque<Map<String, Value>>,
}

impl Session {
    async fn run(mut self, mut socket: WebSocket, mut frames: mpsc::Receiver<(u64, Frame)>, _guest: Guest) {
        let mut closing = self.app.closing();
        let mut ping = tokio::time::interval(PING);
        let (mut heard, mut used, mut leaving) = (Instant::now(), Instant::now(), false);
        let farewell = loop {
            if leaving && self.turns.is_empty() {
                break Some((close_code::AWAY, "the server is shutting down"));
            }
            let say = tokio::select! {
                message = socket.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            used = Instant::now();
                            self.take(text.as_str(), leaving)
                        }
                        Some(Ok(Message::Binary(_))) => Some(error(&ApiError::invalid("send text, not bytes"), None)),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                        Some(Ok(Message::Close(_))) | None => break None,
                        Some(Err(e)) => break match e.to_string() {
                            e if e.contains("too long") || e.contains("too big") => Some((close_code::SIZE, "the message is too large")),
                            e if e.to_lowercase().contains("utf") => Some((close_code::INVALID, "the message is not UTF-8")),
                            _ => None,
                        },
                    }
                }
                Some((turn, frame)) = frames.recv() => match frame {
                    // A request that was cancelled has nothing more to say.
                    _ if !self.turns.contains_key(&turn) => None,
                    Frame::Text(text) => Some(text),
                    Frame::End => {
                        used = Instant::now();
                        self.turns.remove(&turn);
                        if let Some(body) = self.waiting.pop_front() {
                            self.start(body, None);
                        }
                        None
                    }
                },
                _ = ping.tick() => {
                    if heard.elapsed() > PING * 3 {
                        break None;
                    }
                    if self.turns.is_empty() && used.elapsed() > self.app.config.websocket_idle {
                        break Some((close_code::NORMAL, "nothing was asked for a long time"));
                    }
                    if !send(&mut socket, Message::Ping(Vec::new().into())).await {
                        break None;
                    }
                    None
                }
                () = async { _ = closing.wait_for(|c| *c).await }, if !leaving => {
                    leaving = true;
                    self.waiting.clear();
                    None
                }
            };
            if let Some(text) = say
                && !send(&mut socket, Message::Text(text.into())).await
            {
                break None;
            }
        };
        for turn in self.turns.values() {
            turn.task.abort();
        }
        if let Some((code, reason)) = farewell {
            _ = send(&mut socket, Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
        }
    }

    /// Reads a message; what it returns is to be said at once.
    fn take(&mut self, text: &str, leaving: bool) -> Option<String> {
        let mut body: Map<String, Value> = match serde_json::from_str(text) {
            Ok(body) => body,
            Err(e) => {
                let e = ApiError::invalid(format!("the message is not a JSON object: {e}")).code("invalid_json");
                return Some(error(&e, None));
            }
        };
        let kind = match body.remove("type") {
            None => String::new(),
            Some(Value::String(kind)) => kind,
            Some(_) => return Some(error(&ApiError::field("type", "`type` must be a string"), None)),
        };
        let id = match (self.kind, body.remove("request_id")) {
            (_, None) => None,
            (Kind::Chat, Some(Value::String(id))) if id.len() <= 100 => Some(id),
            (Kind::Chat, Some(_)) => {
                let e = ApiError::field("request_id", "`request_id` must be a string of at most 100 bytes");
                return Some(error(&e, None));
            }
            (Kind::Responses, Some(_)) => {
                let e = ApiError::field("request_id", "`request_id` is not for this path, where answers come in turn");
                return Some(error(&e, None));
            }
        };
        match (self.kind, kind.as_str()) {
            (_, "ping") => Some(json!({"type": "pong"}).to_string()),
            (Kind::Chat, "cancel") => Some(self.cancel(id.as_deref())),
            (Kind::Responses, "response.cancel") => self.cancel_response(&body),
            (_, _) if leaving => Some(error(&ApiError::unavailable("the server is shutting down"), id.as_deref())),
            (Kind::Chat, "" | "resume") | (Kind::Responses, "response.create" | "resume") => {
                if kind == "resume" {
                    body.insert("resume".to_owned(), body.get("event_id").cloned().unwrap_or(Value::Null));
                }
                let busy = match self.kind {
                    Kind::Chat => self.turns.values().any(|t| t.request_id == id),
                    Kind::Responses => false,
                };
                if busy {
                    let what = "a request of this `request_id` is under way: cancel it, or give another one";
                    return Some(error(&ApiError::field("request_id", what).code("request_under_way"), id.as_deref()));
                }
                if self.turns.len() + self.waiting.len() >= MOST_TURNS {
                    let what = format!("{MOST_TURNS} requests of this connection are under way");
                    return Some(error(&ApiError::busy(what, Duration::from_secs(1)), id.as_deref()));
                }
                match self.kind == Kind::Responses && !self.turns.is_empty() {
                    true => self.waiting.push_back(body),
                    false => self.start(body, id),
                }
                None
            }
            (_, other) => {
                let what = format!("the type `{}` is not known here", alula_format::clip_to(other, 60));
                Some(error(&ApiError::field("type", what).code("unknown_type"), id.as_deref()))
            }
        }
    }

    /// Ends a request of `/ws`.
    fn cancel(&mut self, id: Option<&str>) -> String {
        let turn = self.turns.iter().find(|(_, t)| t.request_id.as_deref() == id).map(|(n, _)| *n);
        match turn.and_then(|turn| self.turns.remove(&turn)) {
            Some(turn) => {
                turn.task.abort();
                tagged(json!({"type": "cancelled"}).to_string(), "request_id", id)
            }
            None => error(&ApiError::invalid("no such request is under way").code("request_not_found"), id),
        }
    }

    /// Ends a response, whose stream then has its last event.
    fn cancel_response(&mut self, body: &Map<String, Value>) -> Option<String> {
        let id = body.get("response_id").and_then(Value::as_str);
        let Some(id) = id else {
            let e = ApiError::field("response_id", "the field `response_id` is missing: it is in response.created");
            return Some(error(&e.code("missing_field"), None));
        };
        let e = ApiError::field("response_id", "no such response is being written").code("response_not_found");
        (!self.app.active.cancel(id, &self.owner)).then(|| error(&e, None))
    }

    /// Starts a request.
    fn start(&mut self, mut body: Map<String, Value>, id: Option<String>) {
        let path = if self.kind == Kind::Chat { "/v1/chat/completions" } else { "/v1/responses" };
        let previous = body.get("previous_response_id").and_then(Value::as_str).map(str::to_owned);
        let resume = body.remove("resume");
        body.entry("stream").or_insert(Value::Bool(true));
        let mut request = match &resume {
            Some(Value::String(last)) => {
                let name = last.rsplit_once(':').map_or("", |(name, _)| name);
                let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let mut request = request(Method::GET, &format!("/v1/streams/{name}"), Body::empty());
                if let Ok(last) = HeaderValue::from_str(last) {
                    request.headers_mut().insert("last-event-id", last);
                }
                request
            }
            _ => request(Method::POST, path, Body::from(Value::Object(body).to_string())),
        };
        let hop = [header::CONNECTION, header::UPGRADE, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::ORIGIN];
        for (name, value) in &self.headers {
            if !hop.contains(name) && !name.as_str().starts_with("sec-websocket") {
                request.headers_mut().insert(name, value.clone());
            }
        }
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if resume == Some(Value::Bool(true)) {
            request.headers_mut().insert(resume::ASK, HeaderValue::from_static("1"));
        }
        *request.extensions_mut() = self.extensions.clone();
        if self.kind == Kind::Responses {
            request.extensions_mut().insert(self.recent.clone());
        }
        self.next += 1;
        let turn = self.next;
        let write = Write {
            turn,
            kind: self.kind,
            id: id.clone(),
            out: self.out.clone(),
            previous,
            recent: self.recent.clone(),
        };
        let answer = self.router.clone().oneshot(request);
        let task = tokio::spawn(async move {
            let Ok(response) = answer.await;
            write.all(response).await;
        });
        self.turns.insert(turn, Turn { request_id: id, task: task.abort_handle() });
    }
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

/// Sends a message. False if the other side is gone or does not read.
async fn send(socket: &mut WebSocket, message: Message) -> bool {
    tokio::time::timeout(SEND, socket.send(message)).await.is_ok_and(|sent| sent.is_ok())
}

/// A JSON object's text with one more member.
fn tagged(text: String, name: &str, value: Option<&str>) -> String {
    match (value, text.strip_suffix('}')) {
        (Some(value), Some(open)) => format!("{open},{}:{}}}", json!(name), json!(value)),
        _ => text,
    }
}

fn error(e: &ApiError, id: Option<&str>) -> String {
    let error = serde_json::to_value(e.body()).unwrap_or_default();
    let text = json!({"type": "error", "status": e.status.as_u16(), "error": error["error"]}).to_string();
    tagged(text, "request_id", id)
}

/// Turns an answer into messages.
struct Write {
    turn: u64,
    kind: Kind,
    id: Option<String>,
    out: mpsc::Sender<(u64, Frame)>,
    previous: Option<String>,
    recent: Recent,
}

impl Write {
    async fn all(self, response: Response) {
        let (status, kind) = (response.status(), response.headers().get(header::CONTENT_TYPE).cloned());
        match kind.is_some_and(|k| k.as_bytes().starts_with(b"text/event-stream")) {
            true => self.events(response.into_body()).await,
            false => self.refusal(status, response.into_body()).await,
        }
        _ = self.out.send((self.turn, Frame::End)).await;
    }

    async fn say(&self, text: String) -> bool {
        let text = tagged(text, "request_id", self.id.as_deref());
        self.out.send((self.turn, Frame::Text(text))).await.is_ok()
    }

    /// An answer that is no stream: an error, or an answer that was asked for whole.
    async fn refusal(&self, status: StatusCode, body: Body) {
        let body = Limited::new(body, 64 << 20).collect().await;
        let body = body.map(|b| b.to_bytes()).unwrap_or_default();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            self.say(value.to_string()).await;
            return;
        }
        self.forget();
        self.say(json!({"type": "error", "status": status.as_u16(), "error": value["error"]}).to_string()).await;
    }

    /// The response before a failed one is not remembered (Open Responses).
    fn forget(&self) {
        if let Some(previous) = &self.previous {
            self.recent.remove(previous);
        }
    }

    async fn events(&self, body: Body) {
        let mut events = body.into_data_stream();
        while let Some(Ok(event)) = events.next().await {
            let Ok(event) = std::str::from_utf8(&event) else { continue };
            let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(str::trim_start);
            let Some(data) = field("data:") else { continue };
            let text = match data {
                "[DONE]" if self.kind == Kind::Responses => continue,
                "[DONE]" => json!({"type": "done"}).to_string(),
                data if data.starts_with("{\"error\":") => {
                    let value: Value = serde_json::from_str(data).unwrap_or_default();
                    json!({"type": "error", "status": 500, "error": value["error"]}).to_string()
                }
                data => {
                    if self.kind == Kind::Responses && data.contains("\"type\":\"response.failed\"") {
                        self.forget();
                    }
                    data.to_owned()
                }
            };
            if !self.say(tagged(text, "event_id", field("id:"))).await {
                return;
            }
        }
    }
}
