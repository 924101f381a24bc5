//! What handlers share.

use crate::config::Config;
use crate::models::Models;
use crate::openai::responses::Active;
use crate::resume::Streams;
use crate::store::Store;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// The server's state.
pub struct App {
    /// Its settings.
    pub config: Config,
    /// Its models.
    pub models: Models,
    /// Responses that are kept.
    pub store: Store,
    /// Responses that are being written.
    pub active: Active,
    /// Streams that can be taken up again.
    pub streams: Streams,
    /// Connections that are no longer HTTP's.
    guests: watch::Sender<usize>,
    ready: AtomicBool,
    closing: watch::Sender<bool>,
}

impl App {
    /// A server that is not ready yet.
    pub fn new(config: Config, models: Models) -> App {
        let store = Store::new(config.store.clone(), config.store_size, config.store_age);
        App {
            config,
            models,
            store,
            active: Active::default(),
            streams: Streams::default(),
            guests: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        }
    }

    /// A place for a WebSocket, if there is one. It counts as a connection until it is dropped.
    pub fn guest(&self) -> Option<Guest> {
        let most = self.config.max_connections;
        let mut room = false;
        self.guests.send_modify(|n| {
            room = *n < most;
            *n += usize::from(room);
        });
        room.then(|| Guest(self.guests.clone()))
    }

    /// Waits until no WebSocket is open.
    pub async fn alone(&self) {
        _ = self.guests.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Says whether new requests are welcome.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// The server takes no more requests and ends what is under way.
    pub fn close(&self) {
        self.set_ready(false);
        self.closing.send_replace(true);
    }

    /// Becomes true when the server closes.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Whether new requests are welcome.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && self.models.healthy()
    }
}

/// A place for a WebSocket.
pub struct Guest(watch::Sender<usize>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}
