//! A server without a listener.

use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::embed::{self, Embedder, Ranker, Recipe};
use alula_engine::local::{LoadOptions, Package, Words, usual_context};
use alula_engine::speech::Speech;
use alula_engine::{Engine, Options};
use alula_server::models::{Entry, Facts, Kind, Model, Models, Task, Writer};
use alula_server::worker::Worker;
use alula_server::{App, Config, routes};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tower::ServiceExt;

/// The context of the model `builtin`.
pub(crate) const CONTEXT: usize = 512;

fn place(name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match name {
        "builtin" => crates.join("alula/assets/builtin.gguf"),
        name => crates.join("../testdata/encoders").join(name),
    }
}

/// What transformers computed for an encoder.
pub(crate) fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place(name).join("golden.json")).unwrap()).unwrap()
}

/// A model's tokenizer.
pub(crate) fn tokenizer(name: &str) -> alula_tokenizer::Tokenizer {
    Package::open(&place(name)).unwrap().tokenizer().unwrap()
}

fn load(name: &str, task: Task) -> Model {
    let package = Package::open(&place(name)).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let tokenizer = Arc::new(package.tokenizer().unwrap());
    let kind = match task {
        Task::Generate => {
            let speech = Speech::new(&package, Arc::clone(&tokenizer)).unwrap();
            let shown = Writer::shown(&speech, &tokenizer);
            let words = Words::new(Arc::clone(&tokenizer), package.end_ids()).showing(shown);
            let (context, cache) = (Some(CONTEXT), CacheType::F32);
            let options = LoadOptions { context, sequences: 4, cache, ..LoadOptions::default() };
            let local = package.load(&device, options, &mut |_, _| {}).unwrap();
            let engine = Engine::new(local, Some(Arc::new(words)), Options { running: 4, ..Options::default() });
            let worker = Worker::start(name, engine).unwrap();
            let writer = Writer::new(worker, speech, CONTEXT, &tokenizer, &package.end_ids());
            let (recipe, width) = (Recipe::of(&package).unwrap(), package.model.spec().width);
            Kind::Writer(Box::new(writer.embedding(recipe, width)))
        }
        Task::Embed => {
            let recipe = Recipe::of(&package).unwrap();
            let (dimensions, package) = (package.model.spec().width, package.with_head(recipe.head()).unwrap());
            let options = embed::options(recipe.longest, CacheType::F32);
            let local = package.load(&device, options, &mut |_, _| {}).unwrap();
            let embedder = Embedder::new(local, (*tokenizer).clone(), recipe, dimensions);
            Kind::Embedder(Arc::new(tokio::sync::Mutex::new(embedder)))
        }
        Task::Rerank => {
            let options = embed::options(usual_context(package.model.spec()), CacheType::F32);
            let local = package.load(&device, options, &mut |_, _| {}).unwrap();
            Kind::Ranker(Arc::new(tokio::sync::Mutex::new(Ranker::new(local, (*tokenizer).clone()))))
        }
    };
    Model { tokenizer, kind }
}

/// A server of these models.
pub(crate) fn server(names: &[(&'static str, Task)]) -> Arc<App> {
    configured(Config::default(), names)
}

/// The same, configured.
pub(crate) fn configured(config: Config, names: &[(&'static str, Task)]) -> Arc<App> {
    let entries = names.iter().map(|&(name, task)| {
        let facts =
            Facts { context: CONTEXT, architecture: "llama".into(), parameters: 2_500_000, task, ..Facts::default() };
        Entry::new(name.to_owned(), Vec::new(), facts, Box::new(move || Ok(load(name, task))))
    });
    let app = App::new(config, Models::new(entries.collect(), names.len()).unwrap());
    app.set_ready(true);
    Arc::new(app)
}

/// A server of the built-in model.
pub(crate) fn writer() -> Arc<App> {
    server(&[("builtin", Task::Generate)])
}

/// Asks for something.
pub(crate) async fn send(app: &Arc<App>, method: &str, path: &str, body: impl Into<Body>) -> Response {
    send_with(app, method, path, &[], body).await
}

/// The same with headers.
pub(crate) async fn send_with(
    app: &Arc<App>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    routes::router(Arc::clone(app)).oneshot(request.body(body.into()).unwrap()).await.unwrap()
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
