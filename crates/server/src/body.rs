//! Bodies of requests: JSON, read strictly.
//!
//! An unknown field is refused with its path, since a field that is ignored is a promise that is not kept. With `--lenient`
//! unknown fields are taken out and named in the header `x-alula-ignored`.

use crate::app::App;
use crate::error::ApiError;
use crate::strict::{Place, Step, Strict};
use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// Unknown fields that are left out at most.
const MOST_IGNORED: usize = 64;
/// Of a field's name that was left out, in bytes.
const LONGEST_NAME: usize = 80;

/// A request's body.
#[derive(Clone, Debug)]
pub struct Json<T> {
    /// What it says.
    pub value: T,
    /// Fields that were left out.
    pub ignored: Ignored,
}

/// Fields that nobody knew.
#[derive(Clone, Debug, Default)]
pub struct Ignored(Vec<String>);

impl Ignored {
    /// As a header, if there are any.
    pub fn header(&self) -> Option<HeaderValue> {
        let name = |n: &String| alula_format::clip_to(n, LONGEST_NAME).to_string().escape_default().to_string();
        let names: Vec<String> = self.0.iter().map(name).collect();
        (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", ")).ok())?
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_headers(&parts.headers)?;
        let bytes = read(body, app).await?;
        parse(&bytes, app.config.lenient)
    }
}

/// The body's kind and encoding.
fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported =
        |what: String| ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", what);
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let have = if kind.is_empty() { "none".to_owned() } else { format!("`{}`", alula_format::clip_to(kind, 80)) };
        return Err(unsupported(format!(
            "the content type is {have}; send JSON with `Content-Type: application/json`"
        )));
    }
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(unsupported("compressed bodies are not accepted; send it without Content-Encoding".to_owned())),
    }
}

/// All of a body, within the limits of size and time.
pub async fn read(body: Body, app: &App) -> Result<bytes::Bytes, ApiError> {
    let limit = app.config.max_body;
    let too_large = || {
        let what = format!("the body is over {limit} bytes; shorten it, or raise --max-body");
        ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", what)
    };
    // Who says that more will come need not send it.
    if HttpBody::size_hint(&body).lower() > limit as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(app.config.body_timeout, Limited::new(body, limit).collect()).await;
    let collected = collected.map_err(|_| {
        let seconds = app.config.body_timeout.as_secs();
        let what = format!("the body did not arrive within {seconds} seconds");
        ApiError::status(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", what)
    })?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(e) => Err(ApiError::invalid(format!("the body broke off: {e}"))),
    }
}

/// What the bytes say.
///
/// # Errors
/// They are no JSON, or not what was asked for: with the path of the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], lenient: bool) -> Result<Json<T>, ApiError> {
    let mut misfit = match typed(bytes) {
        Ok(value) => return Ok(Json { value, ignored: Ignored::default() }),
        Err(e) if !lenient || unknown(&e.error.to_string()).is_none() => return Err(e.refused()),
        Err(e) => e,
    };
    let whole = |error| Misfit { path: Vec::new(), error }.refused();
    let mut tree: Value = serde_json::from_slice(bytes).map_err(whole)?;
    let mut ignored = Vec::new();
    while ignored.len() < MOST_IGNORED {
        let Some(name) = unknown(&misfit.error.to_string()) else { break };
        if !remove(&mut tree, &misfit.path, &name) {
            break;
        }
        ignored.push(join(&misfit.path, &name));
        misfit = match typed(&serde_json::to_vec(&tree).map_err(whole)?) {
            Ok(value) => return Ok(Json { value, ignored: Ignored(ignored) }),
            Err(e) => e,
        };
    }
    Err(misfit.refused())
}

/// Where a value was not what it should be.
struct Misfit {
    path: Vec<Step>,
    error: serde_json::Error,
}

fn typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Misfit> {
    let (place, mut reader) = (Place::default(), serde_json::Deserializer::from_slice(bytes));
    let value = T::deserialize(Strict::new(&mut reader, &place)).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let mut path = place.into_inner();
        path.reverse();
        Misfit { path, error }
    })
}

/// The name in "unknown field `x`, expected …".
fn unknown(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let end = rest.find("`, expected").or_else(|| rest.find("`, there are no fields"))?;
    Some(rest[..end].to_owned())
}

fn join(path: &[Step], name: &str) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::At(i) => out += &format!("[{i}]"),
            Step::Key(key) if out.is_empty() => out += key,
            Step::Key(key) => out += &format!(".{key}"),
        }
    }
    match (out.is_empty(), name.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => out,
        (false, false) => format!("{out}.{name}"),
    }
}

fn remove(tree: &mut Value, path: &[Step], name: &str) -> bool {
    let mut at = tree;
    for step in path {
        let next = match step {
            Step::At(i) => at.get_mut(*i),
            Step::Key(key) => at.get_mut(key),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    at.as_object_mut().is_some_and(|o| o.shift_remove(name).is_some())
}

impl Misfit {
    fn refused(self) -> ApiError {
        let text = self.error.to_string();
        if !self.error.is_data() {
            return ApiError::invalid(format!("the body is not valid JSON: {text}")).code("invalid_json");
        }
        // serde_json adds a place in the text, which a path says better.
        let inner = text.split(" at line ").next().unwrap_or_default();
        let clip = |text: &str| alula_format::clip_to(text, 400).to_string();
        if let Some(name) = unknown(&text) {
            let name = join(&self.path, &name);
            let what = format!(
                "unknown field `{}`: it is not supported; leave it out, or start the server with --lenient",
                clip(&name)
            );
            return ApiError::field(clip(&name), what).code("unknown_field");
        }
        let missing = inner.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        if let Some(name) = missing {
            let name = join(&self.path, name);
            return ApiError::field(&name, format!("the field `{name}` is missing")).code("missing_field");
        }
        let twice = inner.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`'));
        if let Some(name) = twice {
            let name = clip(&join(&self.path, name));
            return ApiError::field(&name, format!("the field `{name}` is there twice"));
        }
        let path = clip(&join(&self.path, ""));
        let what = clip(&plain(inner));
        match path.is_empty() {
            true => ApiError::invalid(format!("the body is wrong: {what}")),
            false => ApiError::field(&path, format!("`{path}`: {what}")),
        }
    }
}

/// What serde says, without Rust's names of types.
fn plain(text: &str) -> String {
    let Some((have, want)) = text.rsplit_once(", expected ") else { return text.to_owned() };
    let want = match want {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        want => want.strip_prefix("struct ").map_or(want, |_| "an object"),
    };
    format!("{have}, expected {want}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        n: u32,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        list: Vec<Inner>,
        name: Option<String>,
    }

    fn refused(text: &str) -> (Option<String>, String) {
        let e = parse::<Outer>(text.as_bytes(), false).unwrap_err();
        assert_eq!(e.status, 400);
        (e.param, e.message)
    }

    #[test]
    fn errors_name_the_place() {
        assert_eq!(refused(r#"{"list":[{"n":1},{"n":2,"x":3}]}"#).0.unwrap(), "list[1].x");
        assert_eq!(refused(r#"{"list":[],"naem":3}"#).0.unwrap(), "naem");
        assert_eq!(refused(r#"{"list":[{}]}"#).0.unwrap(), "list[0].n");
        assert_eq!(refused(r#"{"list":[],"list":[]}"#).0.unwrap(), "list");
        let (param, what) = refused(r#"{"list":[{"n":-1}]}"#);
        assert_eq!(param.unwrap(), "list[0].n");
        assert!(what.ends_with("expected a whole number, 0 or more"), "{what}");
        assert_eq!(refused(r#"{"name":"a"}"#).0.unwrap(), "list");
        let (param, message) = refused(r#"{"list":[{"n":-1}]}"#);
        assert_eq!(param.unwrap(), "list[0].n");
        assert!(message.contains("-1") && !message.contains("line"), "{message}");
        assert!(refused("{").1.contains("line 1"));
        assert!(refused("\u{ff}").1.contains("not valid JSON"));
        assert!(parse::<Outer>(b"{\"list\":\xff}", false).unwrap_err().message.contains("not valid JSON"));
        assert!(refused(&"{\"list\":[{\"n\":".repeat(100_000)).1.contains("list[0].n"));
        assert!(refused("[[],\"b\"]").1.contains("expected an object"));
        assert_eq!(refused("{\"list\":[[1]]}").0.unwrap(), "list[0]");
        assert_eq!(refused("{\"list\":[3]}").1, "`list[0]`: invalid type: integer `3`, expected an object");
    }

    #[test]
    fn lenient_leaves_out_and_says_so() {
        let text = br#"{"list":[{"n":1,"x":1}],"y":{"z":1},"name":"b"}"#;
        let Json { value, ignored } = parse::<Outer>(text, true).unwrap();
        assert_eq!((value.list[0].n, value.name.unwrap().as_str()), (1, "b"));
        let header = ignored.header().unwrap();
        let mut names: Vec<&str> = header.to_str().unwrap().split(", ").collect();
        names.sort_unstable();
        assert_eq!(names, ["list[0].x", "y"]);
        assert!(parse::<Outer>(br#"{"list":[{"n":"1"}],"y":1}"#, true).is_err());
    }
}
