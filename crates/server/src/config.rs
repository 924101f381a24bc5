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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            lenient: false,
            max_body: 8 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            max_header: 64 << 10,
            max_connections: 1024,
            request_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(30),
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
