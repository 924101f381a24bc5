//! Spans of requests, sent to a collector: OpenTelemetry's protocol over HTTP, in JSON (OTLP 1.x), with the attributes of the
//! GenAI conventions. No span has anything that a user wrote.
//!
//! Spans go through a bounded queue to a thread of their own, which sends a batch at a time. A collector that is slow or away holds
//! up no answer: spans that find the queue full, or that it does not take, are counted and dropped.

use crate::log::Line;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Spans that wait to be sent at most.
const QUEUE: usize = 4096;
/// Spans in a message at most.
const BATCH: usize = 512;
/// How long a message is gathered.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take for a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of its answer that are read at most.
const ANSWER: usize = 64 << 10;
/// Whose spans these are.
const NAME: &str = "alula";

/// An address that spans cannot be sent to.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address of a collector: give http://HOST:PORT, to which /v1/traces is added")]
pub struct EndpointError(String);

/// Where a request stands among others: its trace, its own number, and who asked (W3C Trace Context).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    trace: u128,
    span: u64,
    parent: Option<u64>,
    began: SystemTime,
}

/// Where spans go; nowhere, at first.
#[derive(Debug, Default)]
pub struct Traces {
    queue: Mutex<Option<(Sender<Value>, JoinHandle<()>)>>,
    dropped: Arc<AtomicU64>,
}

impl Traces {
    /// To a collector; nowhere without one.
    ///
    /// # Errors
    /// The address is none, or the system gives no thread.
    pub fn new(endpoint: Option<&str>) -> std::io::Result<Traces> {
        let Some(endpoint) = endpoint else { return Ok(Traces::default()) };
        let dropped = Arc::new(AtomicU64::new(0));
        let collector = Collector::new(endpoint).map_err(std::io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, spans) = channel(QUEUE);
        let lost = Arc::clone(&dropped);
        let run = move || runtime.block_on(send(collector, spans, &lost));
        let thread = std::thread::Builder::new().name("traces".into()).spawn(run)?;
        Ok(Traces { queue: Mutex::new(Some((queue, thread))), dropped })
    }

    /// Spans that nobody took.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A request's place, if its span is to be sent: not if whoever asked says that the trace is not recorded.
    pub(crate) fn place(&self, headers: &HeaderMap) -> Option<Place> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?;
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        let (trace, span) = random.split_at(16);
        let new = u128::from_be_bytes(trace.try_into().ok()?).max(1);
        let span = u64::from_be_bytes(span.try_into().ok()?).max(1);
        let (trace, parent) = match headers.get("traceparent").and_then(|v| traceparent(v.to_str().ok()?)) {
            Some((_, _, false)) => return None,
            Some((trace, parent, true)) => (trace, Some(parent)),
            None => (new, None),
        };
        Some(Place { trace, span, parent, began: SystemTime::now() })
    }

    /// Sends a request's span.
    pub(crate) fn request(&self, place: Place, line: &Line<'_>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((queue, _)) = queue.as_ref()
            && queue.try_send(span(place, line)).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends what waits, as long as a collector may take for a message.
    pub async fn end(&self) {
        let Some((queue, thread)) = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        drop(queue);
        _ = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(|| thread.join())).await;
    }
}

/// `00-TRACE-PARENT-FLAGS`, hexadecimal: the trace, the span, whether they are recorded. None if it is not that.
fn traceparent(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let whole = version != "00" || parts.next().is_none();
    if !(whole && hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2)) {
        return None;
    }
    let (trace, parent) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
    (trace != 0 && parent != 0).then_some((trace, parent, u8::from_str_radix(flags, 16).ok()? & 1 == 1))
}

/// What a route does, in the words of the GenAI conventions.
fn operation(route: &str) -> Option<&'static str> {
    Some(match route {
        "/v1/chat/completions" | "/v1/responses" | "/v1/messages" | "/api/chat" | "/ws" => "chat",
        "/v1/completions" | "/api/generate" => "text_completion",
        "/v1/embeddings" | "/api/embed" | "/api/embeddings" => "embeddings",
        _ => return None,
    })
}

fn span(place: Place, line: &Line<'_>) -> Value {
    let noted = line.noted;
    let nanos = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    // Whole numbers are strings in protobuf's JSON.
    let whole = |key: &str, value: usize| json!({"key": key, "value": {"intValue": value.to_string()}});
    let number = |key: &str, value: f64| json!({"key": key, "value": {"doubleValue": value}});
    let mut attributes = vec![
        text("http.request.method", line.method),
        text("http.route", line.route),
        whole("http.response.status_code", line.status.into()),
        text("alula.request.id", line.id),
    ];
    attributes.extend(line.key.map(|key| text("alula.key", key)));
    let mut name = format!("{} {}", line.method, line.route);
    if let (Some(operation), Some(model)) = (operation(line.route), &noted.model) {
        name = format!("{operation} {model}");
        attributes.extend([
            text("gen_ai.operation.name", operation),
            text("gen_ai.provider.name", NAME),
            text("gen_ai.request.model", model),
            text("gen_ai.response.model", model),
            whole("gen_ai.usage.input_tokens", noted.prompt),
            whole("gen_ai.usage.cache_read.input_tokens", noted.cached),
            whole("gen_ai.usage.output_tokens", noted.generated),
        ]);
        attributes.extend(noted.first.map(|s| number("gen_ai.response.time_to_first_chunk", s)));
        attributes.extend(noted.waited.map(|s| number("alula.queue.duration", s)));
        attributes.extend(noted.reason.map(|reason| {
            let reasons = json!([{"stringValue": reason}]);
            json!({"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": reasons}}})
        }));
    }
    let failed = line.status >= 500 || noted.reason == Some("error");
    attributes.extend(failed.then(|| text("error.type", &line.status.to_string())));
    let end = place.began + Duration::try_from_secs_f64(line.seconds).unwrap_or_default();
    let mut span = json!({
        "traceId": format!("{:032x}", place.trace),
        "spanId": format!("{:016x}", place.span),
        "name": name,
        "kind": 2, // server
        "startTimeUnixNano": nanos(place.began),
        "endTimeUnixNano": nanos(end),
        "attributes": attributes,
        "status": {"code": if failed { 2 } else { 0 }},
    });
    if let Some(parent) = place.parent {
        span["parentSpanId"] = format!("{parent:016x}").into();
    }
    span
}

/// Sends batches until nobody can add to the queue and it is empty.
async fn send(collector: Collector, mut spans: Receiver<Value>, dropped: &AtomicU64) {
    loop {
        let mut batch = Vec::new();
        if spans.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let gather = async { while batch.len() < BATCH && spans.recv_many(&mut batch, BATCH).await > 0 {} };
        _ = tokio::time::timeout(GATHER, gather).await;
        let count = batch.len() as u64;
        let taken = tokio::time::timeout(PATIENCE, collector.post(batch)).await;
        if !matches!(taken, Ok(Ok(()))) {
            dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// Who takes spans.
struct Collector {
    host: String,
    address: String,
    path: String,
}

impl Collector {
    fn new(endpoint: &str) -> Result<Collector, EndpointError> {
        let wrong = || EndpointError(alula_format::clip_to(endpoint, 200));
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        let (Some("http"), Some(authority), None) = (uri.scheme_str(), uri.authority(), uri.query()) else {
            return Err(wrong());
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(4318));
        let path = format!("{}/v1/traces", uri.path().trim_end_matches('/'));
        Ok(Collector { host: authority.as_str().to_owned(), address, path })
    }

    async fn post(&self, spans: Vec<Value>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let version = env!("CARGO_PKG_VERSION");
        let message = json!({"resourceSpans": [{
            "resource": {"attributes": [text("service.name", NAME), text("service.version", version)]},
            "scopeSpans": [{"scope": {"name": NAME, "version": version}, "spans": spans}],
        }]});
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post(&self.path).header(HOST, &self.host).header(CONTENT_TYPE, "application/json");
        let answer = sender.send_request(request.body(Full::new(Bytes::from(message.to_string())))?).await?;
        let status = answer.status();
        Limited::new(answer.into_body(), ANSWER).collect().await?;
        connection.abort();
        if status.is_success() { Ok(()) } else { Err(status.to_string().into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Collector, traceparent};

    #[test]
    fn parents() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let read = |version: &str, flags: &str| traceparent(&format!("{version}-{trace}-{parent}-{flags}"));
        assert_eq!(read("00", "01"), Some((0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, true)));
        assert!(!read("00", "00").unwrap().2);
        assert!(read("cc", "01-what-the-future-will-be-like").is_some());
        for (version, flags) in [("ff", "01"), ("00", "01-x"), ("00", "1"), ("0", "01"), ("00", "0G"), ("00", "")] {
            assert_eq!(read(version, flags), None, "{version} {flags}");
        }
        assert_eq!(traceparent(&format!("00-{}-{parent}-01", "0".repeat(32))), None);
        assert_eq!(traceparent(&format!("00-{trace}-{}-01", "0".repeat(16))), None);
        assert_eq!(traceparent(&format!("00-{}-{parent}-01", trace.to_uppercase())), None);
        assert_eq!(traceparent(""), None);
    }

    #[test]
    fn collectors() {
        let made = |endpoint| Collector::new(endpoint).map(|c| (c.address, c.path));
        assert_eq!(made("http://localhost").unwrap(), ("localhost:4318".into(), "/v1/traces".into()));
        assert_eq!(made("http://[::1]:1/a/").unwrap(), ("[::1]:1".into(), "/a/v1/traces".into()));
        for wrong in ["", "localhost:4318", "https://a", "http://", "http://a:b@c", "http://a/?x", "ftp://a"] {
            assert!(made(wrong).is_err(), "{wrong}");
        }
    }
}
