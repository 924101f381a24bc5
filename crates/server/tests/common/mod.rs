//! A server in this process, with small real models or without any.
#![allow(dead_code, unreachable_pub)]

use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::embed::{self, Embedder, Ranker, Recipe};
use alula_engine::local::{LoadOptions, Package, Words, usual_context};
use alula_engine::speech::Speech;
use alula_engine::{Engine, Options};
use alula_server::models::{Entry, Facts, Kind, Model, Models, Task, Writer};
use alula_server::worker::Worker;
use alula_server::{App, Config, Server, routes};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// The context of the built-in model.
pub const CONTEXT: usize = 512;

/// How much a model that writes does at once.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Answers at a time.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Cache pages; by default enough for all.
    pub pages: Option<usize>,
}

impl Default for Size {
    fn default() -> Size {
        Size { running: 4, waiting: usize::MAX, pages: None }
    }
}

/// The files of a model: `builtin`, or an encoder of the test data.
pub fn place(name: &str) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match name {
        "builtin" => crates.join("alula/assets/builtin.gguf"),
        name => crates.join("../testdata/encoders").join(name),
    }
}

/// A model for a task.
pub fn load(name: &str, task: Task, size: Size) -> Model {
    let package = Package::open(&place(name)).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let tokenizer = Arc::new(package.tokenizer().unwrap());
    let cache = CacheType::F32;
    let kind = match task {
        Task::Generate => {
            let speech = Speech::new(&package, Arc::clone(&tokenizer)).unwrap();
            let shown = Writer::shown(&speech, &tokenizer);
            let words = Words::new(Arc::clone(&tokenizer), package.end_ids()).showing(shown);
            let Size { running, waiting, pages } = size;
            let (context, outputs) = (Some(CONTEXT), 2 * running);
            let options = LoadOptions { context, sequences: running, outputs, pages, cache, ..LoadOptions::default() };
            let local = package.load(&device, options, &mut |_, _| {}).unwrap();
            let options = Options { running, waiting, ..Options::default() };
            let worker = Worker::start(name, Engine::new(local, Some(Arc::new(words)), options)).unwrap();
            let writer = Writer::new(worker, speech, CONTEXT, &tokenizer, &package.end_ids());
            let (recipe, width) = (Recipe::of(&package).unwrap(), package.model.spec().width);
            Kind::Writer(Box::new(writer.embedding(recipe, width)))
        }
        Task::Embed => {
            let recipe = Recipe::of(&package).unwrap();
            let (dimensions, package) = (package.model.spec().width, package.with_head(recipe.head()).unwrap());
            let local = package.load(&device, embed::options(recipe.longest, cache), &mut |_, _| {}).unwrap();
            let embedder = Embedder::new(local, (*tokenizer).clone(), recipe, dimensions);
            Kind::Embedder(Arc::new(tokio::sync::Mutex::new(embedder)))
        }
        Task::Rerank => {
            let options = embed::options(usual_context(package.model.spec()), cache);
            let local = package.load(&device, options, &mut |_, _| {}).unwrap();
            Kind::Ranker(Arc::new(tokio::sync::Mutex::new(Ranker::new(local, (*tokenizer).clone()))))
        }
    };
    Model { tokenizer, kind, fresh: Box::new(|| true) }
}

/// A model that is loaded when it is asked for; requests call it `called`.
pub fn entry(called: &str, name: &'static str, task: Task, size: Size) -> Entry {
    let (architecture, parameters) = ("llama".into(), 2_500_000);
    let facts = Facts { context: CONTEXT, architecture, parameters, task, ..Facts::default() };
    Entry::new(called.to_owned(), Vec::new(), facts, Box::new(move || Ok(load(name, task, size))))
}

/// The built-in model, called `m`, that writes `running` answers at a time and lets `waiting` wait.
pub fn builtin(running: usize, waiting: usize) -> Entry {
    entry("m", "builtin", Task::Generate, Size { running, waiting, pages: None })
}

/// An app with these models.
pub fn app(config: Config, entries: Vec<Entry>) -> Arc<App> {
    let app = App::new(config, Models::new(entries, 8).unwrap());
    app.reload(&app.config).unwrap();
    app.set_ready(true);
    Arc::new(app)
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// Asks without a socket.
pub async fn send_with(
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

/// Asks without a socket, and reads all of the answer.
pub async fn ask(app: &Arc<App>, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (parts, body) = send_with(app, method, path, headers, body.to_owned()).await.into_parts();
    let text = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text }
}

/// Listens on a free port until `stop` is dropped.
pub async fn listen(config: Config, entries: Vec<Entry>) -> (SocketAddr, Arc<App>, tokio::sync::oneshot::Sender<()>) {
    let config = Config { port: 0, drain_timeout: Duration::from_millis(100), ..config };
    let server = Server::bind(App::new(config, Models::new(entries, 8).unwrap())).await.unwrap();
    let (address, app) = (server.address().unwrap(), server.app());
    app.set_ready(true);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(server.run(Box::pin(async move { _ = stopped.await })));
    (address, app, stop)
}
