//! Connections: taken within limits, ended in good order.

use crate::app::App;
use crate::patience::Patience;
use crate::routes;
use axum::Router;
use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// How long who was told that answers end has to take the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A server that is bound to its address.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
}

impl Server {
    /// Takes the address that the settings say.
    ///
    /// # Errors
    /// It is taken, or not of this machine, or its keys and certificates cannot be read, or everybody could come in.
    pub async fn bind(app: App) -> std::io::Result<Server> {
        app.reload(&app.config).map_err(std::io::Error::other)?;
        let listener = TcpListener::bind(app.config.address()).await?;
        Ok(Server { app: Arc::new(app), listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Its state.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Serves until `stop` is done; then takes no more connections, lets answers under way end for as long as the settings
    /// say, and ends the rest with an error.
    pub async fn run(self, mut stop: BoxFuture<'static, ()>) {
        let Server { app, listener } = self;
        let router = routes::router(Arc::clone(&app));
        let http = http(&app);
        // Nobody sends: it ends when the last connection has dropped its end.
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let places = Arc::new(Semaphore::new(app.config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        loop {
            let place = tokio::select! {
                () = &mut stop => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let stream = tokio::select! {
                () = &mut stop => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Too many open files: wait until some are closed.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            _ = stream.set_nodelay(true);
            let service = TowerToHyperService::new(router.clone());
            let stream = Patience::new(stream, app.config.write_timeout);
            let (alive, closing, http) = (alive.clone(), app.closing(), http.clone());
            let (tls, shake) = (app.tls(), app.config.header_timeout);
            tokio::spawn(async move {
                match tls {
                    None => serve(http, stream, service, closing).await,
                    Some(tls) => {
                        let accept = TlsAcceptor::from(tls).accept(stream);
                        if let Ok(Ok(stream)) = tokio::time::timeout(shake, accept).await {
                            serve(http, stream, service, closing).await;
                        }
                    }
                }
                drop((place, alive));
            });
        }
        app.close();
        drop((listener, alive));
        let ended = async {
            gone.recv().await;
            app.alone().await;
        };
        tokio::pin!(ended);
        if tokio::time::timeout(app.config.drain_timeout, &mut ended).await.is_err() {
            app.models.stop("the server is shutting down");
            _ = tokio::time::timeout(LAST_WORDS, ended).await;
        }
        app.traces.end().await;
    }
}

/// Serves a connection until it ends, or until the server closes and the answer under way is over.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    http: http1::Builder,
    stream: S,
    service: TowerToHyperService<Router>,
    mut closing: watch::Receiver<bool>,
) {
    let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    // A connection that broke has nobody to tell.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = async { _ = closing.wait_for(|closing| *closing).await } => {
            connection.as_mut().graceful_shutdown();
            _ = connection.await;
        }
    }
}

fn http(app: &App) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.header_timeout)
        .max_buf_size(app.config.max_header.max(8 << 10))
        .max_headers(128);
    http
}
