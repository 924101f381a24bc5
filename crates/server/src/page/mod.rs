//! The built-in page to chat, and the viewer of the API's document: plain files, no build step, nothing from elsewhere.

use crate::error::ApiError;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};

/// What a page may do: load its own files and ask this server. Scripts that are not files of ours do not run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file: its name, its kind, its text.
type File = (&'static str, &'static str, &'static str);

/// What the pages load, under `/page/`.
const FILES: &[File] = &[
    ("api.js", SCRIPT, include_str!("api.js")),
    ("app.js", SCRIPT, include_str!("app.js")),
    ("docs.js", SCRIPT, include_str!("docs.js")),
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("markdown.js", SCRIPT, include_str!("markdown.js")),
    ("store.js", SCRIPT, include_str!("store.js")),
    ("style.css", STYLE, include_str!("style.css")),
];

/// The page to chat.
pub async fn index() -> Response {
    send(HTML, include_str!("index.html"))
}

/// The viewer of `/openapi.json`.
pub async fn docs() -> Response {
    send(HTML, include_str!("docs.html"))
}

/// A file that the pages load.
///
/// # Errors
/// There is none of that name.
pub async fn file(uri: Uri) -> Result<Response, ApiError> {
    match FILES.iter().find(|f| uri.path().strip_prefix("/page/") == Some(f.0)) {
        Some(&(_, kind, text)) => Ok(send(kind, text)),
        None => Err(ApiError::not_found("unknown_url", "the pages have no such file")),
    }
}

fn send(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // A new version of the program brings new files.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}
