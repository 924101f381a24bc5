//! The door: who may come in, for what, and how much.
//!
//! Every request passes here, also those that ask for what is not there. With keys, a route needs one that has its scope
//! ([`ROUTES`]). Without, only this machine's own programs are served: a name that a foreign web page made to
//! point at this machine (DNS rebinding), or a page of another origin, is refused.

use crate::app::App;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::keys::Key;
use crate::routes::{ROUTES, Scope};
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a page may read of an answer beside what it always may.
const EXPOSED: &str = "x-request-id, retry-after, x-alula-ignored, x-ratelimit-limit-requests, \
    x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, \
    x-ratelimit-reset-tokens";
/// How a browser is told to ask its user for a key, which it then sends with every request. Programs are not told so, as a
/// page's own requests would open a window.
const PASSWORD: &str = "Basic realm=\"alula, with a key as the password\", charset=\"UTF-8\"";
/// Bytes of a request's name at most.
const LONGEST_ID: usize = 128;

/// Lets a request in, or says why not.
pub async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.as_ref().and_then(|o| allow(&app, o));
    let row = row(&request);
    let route = row.map_or("(none)", |r| r.0);
    let id = match request_id(request.headers()) {
        Ok(id) => id,
        Err(e) => return e.into_response(),
    };
    let mut response = match (preflight(&request, allowed.as_ref()), check(&app, &request, row, allowed.is_some())) {
        (Some(response), _) => response,
        (None, checked) => {
            let (key, refused) = match checked {
                Ok(key) => (key, None),
                Err(e) => (None, Some(e)),
            };
            let span = app.traces.place(request.headers());
            let limited = refused.is_none() && row.is_some_and(|r| r.1 == Scope::Infer);
            let (caller, refused) = match Caller::new(&app, id, request.method().clone(), route, key, limited, span) {
                Ok(caller) => (caller, refused),
                Err((e, caller)) => (caller, Some(e)),
            };
            let response = match refused {
                Some(e) => e.into_response(),
                None => {
                    request.extensions_mut().insert(caller.clone());
                    next.run(request).await
                }
            };
            finish(response, caller)
        }
    };
    if response.status() == StatusCode::UNAUTHORIZED && row.is_some_and(|r| r.1 == Scope::Page) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(PASSWORD));
    }
    if let Some(allowed) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    if !app.config.cors_origins.is_empty() {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// The row that a request belongs to.
fn row(request: &Request) -> Option<(&'static str, Scope)> {
    let path = request.extensions().get::<MatchedPath>()?;
    ROUTES.iter().find(|r| r.0 == path.as_str()).map(|r| (r.0, r.1))
}

/// Writes what is known into the headers, and keeps the caller until the body's end.
fn finish(response: Response, caller: Caller) -> Response {
    let (status, error) = (response.status(), response.extensions().get::<ApiError>().map(|e| e.message.clone()));
    caller.note(|n| {
        n.status = Some(status);
        n.error = n.error.take().or(error);
    });
    let (mut parts, body) = response.into_parts();
    caller.headers(&mut parts.headers);
    Response::from_parts(parts, Body::new(Held { body, _caller: caller }))
}

/// A body that keeps its caller.
struct Held {
    body: Body,
    _caller: Caller,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The name that the client gave its request, or a new one.
fn request_id(headers: &HeaderMap) -> Result<String, ApiError> {
    let given = headers.get("x-request-id").and_then(|v| v.to_str().ok());
    let fits = |id: &&str| (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(fits).map_or_else(|| crate::generate::name("req_"), |id| Ok(id.to_owned()))
}

/// The key of a request that may come in, if it has one.
fn check(app: &App, request: &Request, row: Option<(&str, Scope)>, cors: bool) -> Result<Option<Arc<Key>>, ApiError> {
    // The connection's buffer may hold more than a head's limit.
    let size: usize = request.headers().iter().map(|(k, v)| k.as_str().len() + v.len()).sum();
    if size + request.uri().path().len() + request.uri().query().map_or(0, str::len) > app.config.max_header {
        let what = format!("the head is over {} bytes; shorten it, or raise --max-header", app.config.max_header);
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(ApiError::status(status, "invalid_request_error", what));
    }
    // What stands before this server may have read the other one (RFC 9112, 3.2).
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return Err(ApiError::invalid("the request has more than one `Host`; send one"));
    }
    let keys = app.keys();
    if !keys.needed() {
        local(app, request.headers(), request.uri(), cors)?;
        return Ok(None);
    }
    if row.is_some_and(|r| r.1 == Scope::Open) {
        return Ok(None);
    }
    let refused =
        |what: &str, code| Err(ApiError::status(StatusCode::UNAUTHORIZED, "authentication_error", what).code(code));
    let Some((shown, password)) = shown(request.headers()) else {
        return refused("a key is needed: send `Authorization: Bearer KEY` or `x-api-key: KEY`", "missing_api_key");
    };
    let Some(key) = keys.find(&shown) else {
        return refused("this key is not known here, or it has expired", "invalid_api_key");
    };
    if password && !same_origin(request.headers(), host(request.headers(), request.uri())) {
        return refused("pages of other origins must send the key themselves", "foreign_origin");
    }
    match row {
        Some((path, scope)) if !key.permits(scope) => {
            let scope = format!("{scope:?}").to_lowercase();
            let what = format!("the key `{}` lacks the scope `{scope}` that {path} needs", key.entry.name);
            Err(ApiError::status(StatusCode::FORBIDDEN, "permission_error", what).code("insufficient_scope"))
        }
        _ => Ok(Some(key)),
    }
}

/// The key that a client shows, as OpenAI's clients send it, as Anthropic's, or as a browser sends a password; and whether it is
/// the last, which a browser sends with every request to this server, whatever page it comes from.
fn shown(headers: &HeaderMap) -> Option<(Cow<'_, str>, bool)> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.split_once(' '));
    let password = |text: &str| {
        let text = String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()?;
        Some((Cow::Owned(text.split_once(':')?.1.to_owned()), true))
    };
    match authorization {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Some((Cow::Borrowed(key.trim()), false)),
        Some((scheme, text)) if scheme.eq_ignore_ascii_case("basic") => password(text.trim()),
        _ => Some((Cow::Borrowed(headers.get("x-api-key")?.to_str().ok()?), false)),
    }
}

/// Whether the page that asks, if it is one, is this server's own.
fn same_origin(headers: &HeaderMap, host: Option<&str>) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    origin.is_some_and(|(_, o)| host.is_some_and(|host| o.eq_ignore_ascii_case(host)))
}

/// The host that a request was sent to.
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    headers.get(header::HOST).map(|v| v.to_str().unwrap_or("?")).or_else(|| uri.authority().map(|a| a.as_str()))
}

/// Whether a request without a key comes from a program of this machine, as far as a web page could pretend.
fn local(app: &App, headers: &HeaderMap, uri: &Uri, cors: bool) -> Result<(), ApiError> {
    let refused = |what: String| Err(ApiError::status(StatusCode::FORBIDDEN, "permission_error", what));
    // Every browser names the host; what names none is a program.
    let Some(host) = host(headers, uri) else { return Ok(()) };
    if app.config.host.is_loopback() && !loopback(host) {
        let host = alula_format::clip_to(host, 100);
        return refused(format!(
            "the host `{host}` is not this machine's own: without keys only names like localhost are served; start the server with --keys"
        ));
    }
    if same_origin(headers, Some(host)) || cors {
        return Ok(());
    }
    refused("pages of other origins are not served without a key; allow them with --cors-origin".to_owned())
}

/// Whether a host, perhaps with a port, is this machine for itself.
fn loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split_once(']').is_some_and(|(ip, port)| ip == "::1" && is_port(port)),
        None => match host.split_once(':') {
            Some((_, port)) if !port.is_empty() && port.parse::<u16>().is_err() => return false,
            Some((name, _)) => name,
            None => host,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok())
}

/// What a page of this origin is told, if it may ask.
fn allow(app: &App, origin: &HeaderValue) -> Option<HeaderValue> {
    let origins = &app.config.cors_origins;
    match origins.iter().any(|o| o == "*") {
        true => Some(HeaderValue::from_static("*")),
        false => origins.iter().any(|o| o.as_bytes() == origin.as_bytes()).then(|| origin.clone()),
    }
}

/// The answer to a browser that asks whether a page may ask (Fetch standard, 3.2.2); it carries no key.
fn preflight(request: &Request, allowed: Option<&HeaderValue>) -> Option<Response> {
    let headers = request.headers();
    if *request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    allowed?;
    let mut response = Response::new(Body::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let put: [(HeaderName, Option<HeaderValue>); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, Some(HeaderValue::from_static("GET, POST, DELETE"))),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, wanted),
        (header::ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from_static("600"))),
    ];
    for (name, value) in put {
        value.map(|value| response.headers_mut().insert(name, value));
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::loopback;

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.9.8.7:1",
            "[::1]",
            "[::1]:80",
            "a.localhost:3",
            "localhost.",
        ] {
            assert!(loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]:80",
            "[::1]x",
            "localhost:evil",
            "0.0.0.0",
        ] {
            assert!(!loopback(host), "{host}");
        }
    }
}
