//! How a server behaves.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Every setting, with its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
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
            lenient: false,
            max_body: 8 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            max_header: 64 << 10,
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
