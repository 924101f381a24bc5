//! A server without a listener.

use crate::base::{self, Size, entry, place};
pub(crate) use crate::base::{CONTEXT, send_with};
use alula_engine::local::Package;
use alula_server::models::Task;
use alula_server::{App, Config};
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use std::sync::Arc;

/// What transformers computed for an encoder.
pub(crate) fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place(name).join("golden.json")).unwrap()).unwrap()
}

/// A model's tokenizer.
pub(crate) fn tokenizer(name: &str) -> alula_tokenizer::Tokenizer {
    Package::open(&place(name)).unwrap().tokenizer().unwrap()
}

/// A server of these models.
pub(crate) fn server(names: &[(&'static str, Task)]) -> Arc<App> {
    configured(Config::default(), names)
}

/// The same, configured.
pub(crate) fn configured(config: Config, names: &[(&'static str, Task)]) -> Arc<App> {
    base::app(config, names.iter().map(|&(name, task)| entry(name, name, task, Size::default())).collect())
}

/// A server of the built-in model.
pub(crate) fn writer() -> Arc<App> {
    server(&[("builtin", Task::Generate)])
}

/// Asks for something.
pub(crate) async fn send(app: &Arc<App>, method: &str, path: &str, body: impl Into<Body>) -> Response {
    send_with(app, method, path, &[], body).await
}

/// The JSON in events, without the last one of OpenAI's, which has none.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|l| l.strip_prefix("data: ")).filter(|d| *d != "[DONE]");
    data.map(|d| serde_json::from_str(d).unwrap()).collect()
}

/// The text of a response.
pub(crate) async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Posts JSON: status and JSON.
pub(crate) async fn post(app: &Arc<App>, path: &str, body: &Value) -> (StatusCode, Value) {
    let response = send(app, "POST", path, body.to_string()).await;
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")))
}

/// Posts JSON that is right.
pub(crate) async fn good(app: &Arc<App>, path: &str, body: &Value) -> Value {
    let (status, value) = post(app, path, body).await;
    assert_eq!(status, 200, "{value}");
    value
}

/// Gets JSON.
pub(crate) async fn get(app: &Arc<App>, path: &str) -> Value {
    let response = send(app, "GET", path, Body::empty()).await;
    assert_eq!(response.status(), 200);
    serde_json::from_str(&text(response).await).unwrap()
}

/// Numbers of an array.
pub(crate) fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}
