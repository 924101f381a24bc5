//! A server in this process, with the built-in model or without any.
#![allow(dead_code, unreachable_pub)]

use alula_device::{Cpu, CpuDevice};
use alula_engine::local::{LoadOptions, Package, Words};
use alula_engine::speech::Speech;
use alula_engine::{Engine, Options};
use alula_server::models::{Entry, Facts, Kind, Model, Models, Writer};
use alula_server::worker::Worker;
use alula_server::{App, Config, Server, routes};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

static BUILTIN: &[u8] = include_bytes!("../../../alula/assets/builtin.gguf");

/// The built-in model, called `m`, that writes `running` answers at a time and lets `waiting` wait.
pub fn builtin(running: usize, waiting: usize) -> Entry {
    let load = move || {
        let package = Package::from_bytes(BUILTIN, "m")?;
        let tokenizer = Arc::new(package.tokenizer()?);
        let speech = Speech::new(&package, Arc::clone(&tokenizer))?;
        let words = Arc::new(Words::new(Arc::clone(&tokenizer), package.end_ids()));
        let (sequences, outputs) = (running, running * 2);
        let load = LoadOptions { context: Some(512), sequences, outputs, step_tokens: 128, ..LoadOptions::default() };
        let local = package.load(&CpuDevice::new(Cpu::from_env()?, 1), load, &mut |_, _| {})?;
        let engine = Engine::new(local, Some(words), Options { running, waiting, ..Options::default() });
        let worker = Worker::start("m", engine)?;
        let writer = Writer::new(worker, speech, 512, &tokenizer, &package.end_ids());
        Ok(Model { tokenizer, kind: Kind::Writer(Box::new(writer)) })
    };
    Entry::new("m".into(), Vec::new(), Facts { context: 512, ..Facts::default() }, Box::new(load))
}

/// An app with this model.
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
pub async fn ask(app: &Arc<App>, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = routes::router(Arc::clone(app)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
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
