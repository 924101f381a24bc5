//! How a server behaves.

use crate::limits::Limits;
use crate::log::LogConfig;
use crate::tls::TlsConfig;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Every setting, with its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Serve everybody who can reach the address, without keys.
    pub insecure: bool,
    /// Keys in plain text, which permit everything. Never written.
    #[serde(skip_serializing)]
    pub api_keys: Vec<String>,
    /// File of keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    /// Limits of a key that has none of its own, and of all those together who have no key.
    pub limits: Limits,
    /// Origins whose pages may ask; `*` is all.
    pub cors_origins: Vec<String>,
    /// The server's identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// What is logged.
    pub log: LogConfig,
    /// Whether metrics have a line for each key.
    pub metrics_per_key: bool,
    /// Where spans of requests are sent (OTLP over HTTP); without, they are not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// Ignore unknown fields of requests, and say so in a header.
    pub lenient: bool,
    /// Bytes of a body at most.
    pub max_body: usize,
    /// How long a body may take to arrive.
    #[serde(with = "seconds")]
    pub body_timeout: Duration,
    /// How long a request's head may take to arrive.
    #[serde(with = "seconds")]
    pub header_timeout: Duration,
    /// Bytes of a request's head at most.
    pub max_header: usize,
    /// How long a client may leave what it is sent unread.
    #[serde(with = "seconds")]
    pub write_timeout: Duration,
    /// Connections at most; more wait.
    pub max_connections: usize,
    /// How long an answer may take.
    #[serde(with = "seconds")]
    pub request_timeout: Duration,
    /// How long answers under way have to end after a signal to stop.
    #[serde(with = "seconds")]
    pub drain_timeout: Duration,
    /// Directory of responses that are kept; without, they are in memory.
    pub store: Option<std::path::PathBuf>,
    /// Bytes of responses that are kept at most; 0 keeps none.
    pub store_size: usize,
    /// How long an answer that can be taken up again is written without a reader.
    #[serde(with = "seconds")]
    pub resume_grace: Duration,
    /// How long a WebSocket may be silent.
    #[serde(with = "seconds")]
    pub websocket_idle: Duration,
    /// How long a response is kept.
    #[serde(with = "seconds")]
    pub store_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            insecure: false,
            api_keys: Vec::new(),
            keys: None,
            limits: Limits::default(),
            cors_origins: Vec::new(),
            tls: None,
            log: LogConfig { format: crate::log::Format::Off, ..LogConfig::default() },
            metrics_per_key: false,
            otlp_endpoint: None,
            lenient: false,
            max_body: 8 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            max_header: 64 << 10,
            write_timeout: Duration::from_secs(30),
            max_connections: 1024,
            request_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(30),
            resume_grace: Duration::from_secs(60),
            websocket_idle: Duration::from_secs(600),
            store: None,
            store_size: 64 << 20,
            store_age: Duration::from_secs(24 * 3600),
        }
    }
}

impl Config {
    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

/// Durations as seconds.
mod seconds {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(d)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| D::Error::custom("give a number of seconds, 0 or more"))
    }
}
