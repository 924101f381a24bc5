//! What handlers share.

use crate::config::Config;
use crate::keys::{KeyError, KeyFile, Keys};
use crate::limits::{Account, Limits};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::models::Models;
use crate::openai::responses::Active;
use crate::resume::Streams;
use crate::store::Store;
use crate::tls::TlsError;
use crate::trace::Traces;
use rustls::ServerConfig;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The server's state.
pub struct App {
    /// Its settings.
    pub config: Config,
    /// Its models.
    pub models: Models,
    /// What it counts.
    pub metrics: Metrics,
    /// What it writes down.
    pub log: Log,
    /// Where spans of requests go.
    pub traces: Traces,
    /// What a signal can change.
    rules: RwLock<Rules>,
    /// What those without a key have used.
    anonymous: Arc<Account>,
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

/// Who may ask, and for how much.
#[derive(Clone, Default)]
struct Rules {
    keys: Arc<Keys>,
    limits: Limits,
    tls: Option<Arc<ServerConfig>>,
}

/// Rules that cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The server's identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Everybody could come in.
    #[error(
        "{0} can be reached from other machines, and without keys everybody could use it: give --keys FILE (see `alula key create`) or ALULA_API_KEY, or say --insecure"
    )]
    Open(std::net::IpAddr),
}

impl App {
    /// A server that is not ready yet. If its settings have keys, nobody is let in before [`App::reload`] has read them.
    pub fn new(config: Config, models: Models) -> App {
        let log = Log::new(config.log);
        let closed = (config.keys.is_some() || !config.api_keys.is_empty()).then(KeyFile::default);
        let keys = Arc::new(Keys::new(closed, &[], config.limits, &Keys::default()));
        let rules = RwLock::new(Rules { keys, limits: config.limits, tls: None });
        let store = Store::new(config.store.clone(), config.store_size, config.store_age);
        App {
            config,
            models,
            metrics: Metrics::default(),
            log,
            traces: Traces::default(),
            rules,
            anonymous: Arc::default(),
            store,
            active: Active::default(),
            streams: Streams::default(),
            guests: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        }
    }

    /// Reads keys, limits and the server's identity anew, as `config` says; what was before holds if it cannot. Says what is
    /// different. The other settings hold from start to end.
    ///
    /// # Errors
    /// A file is not there or wrong, or everybody could come in.
    pub fn reload(&self, config: &Config) -> Result<Vec<String>, RulesError> {
        let old = self.rules();
        let file = config.keys.as_deref().map(KeyFile::read).transpose()?;
        let keys = Keys::new(file, &config.api_keys, config.limits, &old.keys);
        if !keys.needed() && !self.config.host.is_loopback() && !self.config.insecure {
            return Err(RulesError::Open(self.config.host));
        }
        let tls = config.tls.as_ref().map(|tls| tls.load()).transpose()?;
        let mut changes = keys.changes(&old.keys);
        if config.limits != old.limits {
            changes.push("limits changed".to_owned());
        }
        if let (Some(_), Some(_)) = (&tls, &old.tls) {
            changes.push("certificates read".to_owned());
        }
        let rules = Rules { keys: Arc::new(keys), limits: config.limits, tls };
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(changes)
    }

    fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that hold.
    pub fn keys(&self) -> Arc<Keys> {
        self.rules().keys
    }

    /// The limits of those who have none of their own.
    pub fn limits(&self) -> Limits {
        self.rules().limits
    }

    /// The server's identity, if it has one.
    pub fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.rules().tls
    }

    /// What those without a key have used.
    pub fn anonymous(&self) -> Arc<Account> {
        Arc::clone(&self.anonymous)
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
