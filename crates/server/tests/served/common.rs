//! The built-in model behind a server of its own.

use crate::base::{Size, entry};
use alula_server::models::{Models, Task};
use alula_server::{App, Config, Server};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server that runs.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    over: JoinHandle<()>,
}

impl Served {
    /// Starts one on a free port.
    pub(crate) async fn start(config: Config, running: usize, pages: Option<usize>) -> Served {
        let size = Size { running, pages, ..Size::default() };
        let entries = vec![entry("builtin", "builtin", Task::Generate, size)];
        let models = Models::new(entries, 1).unwrap();
        let server = Server::bind(App::new(Config { port: 0, ..config }, models)).await.unwrap();
        let (app, address) = (server.app(), server.address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = Box::pin(async move { _ = stopped.await });
        let over = tokio::spawn(server.run(stopped));
        app.models.ready(&app.models.entries()[0]).await.unwrap();
        app.set_ready(true);
        Served { address, app, stop: Some(stop), over }
    }

    /// As a signal to stop does.
    pub(crate) fn stop(&mut self) {
        _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until it has stopped.
    pub(crate) async fn over(mut self) {
        self.stop();
        self.over.await.unwrap();
    }

    /// A connection.
    pub(crate) async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        connect(self.address).await
    }

    /// What a POST of JSON brings: status and JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut connection = self.connect().await.unwrap();
        let response = connection.send_request(post(path, body.to_string())).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&whole(response).await.unwrap()).unwrap())
    }
}

/// A connection to a server.
pub(crate) async fn connect(address: SocketAddr) -> std::io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A POST of JSON.
pub(crate) fn post(path: &str, body: String) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "localhost").header("content-type", "application/json");
    request.body(Full::new(body.into())).unwrap()
}

/// All of a body.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Bytes, hyper::Error> {
    Ok(response.into_body().collect().await?.to_bytes())
}
