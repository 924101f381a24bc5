//! Connections: taken within limits, ended in good order.

use crate::app::App;
use crate::routes;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

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
    /// It is taken, or not of this machine.
    pub async fn bind(app: App) -> std::io::Result<Server> {
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
            let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
            let (alive, mut closing) = (alive.clone(), app.closing());
            tokio::spawn(async move {
                tokio::pin!(connection);
                // A connection that broke has nobody to tell.
                tokio::select! {
                    _ = connection.as_mut() => {}
                    () = async { _ = closing.wait_for(|closing| *closing).await } => {
                        connection.as_mut().graceful_shutdown();
                        _ = connection.await;
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
    }
}

fn http(app: &App) -> hyper::server::conn::http1::Builder {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.header_timeout)
        .max_buf_size(app.config.max_header.max(8 << 10))
        .max_headers(128);
    http
}
