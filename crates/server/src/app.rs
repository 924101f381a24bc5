//! What handlers share.

use crate::config::Config;
use crate::models::Models;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// The server's state.
pub struct App {
    /// Its settings.
    pub config: Config,
    /// Its models.
    pub models: Models,
    ready: AtomicBool,
    closing: watch::Sender<bool>,
}

impl App {
    /// A server that is not ready yet.
    pub fn new(config: Config, models: Models) -> App {
        App { config, models, ready: AtomicBool::new(false), closing: watch::Sender::new(false) }
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
