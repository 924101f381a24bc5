//! Ollama's dialect (docs.ollama.com/api): lines of JSON, numbers of nanoseconds, names with tags.

pub mod answer;
pub mod chat;
pub mod embed;
pub mod generate;
pub mod info;
pub mod options;

use crate::app::App;
use crate::error::ApiError;
use crate::models::{Entry, Found};
use alula_template::Civil;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// An error as Ollama writes it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::ErrorBody)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    error: String,
}

impl ErrorBody {
    /// In Ollama's words.
    pub fn of(e: &ApiError) -> ErrorBody {
        ErrorBody { error: e.message.clone() }
    }
}

/// What Ollama adds to a name without a tag.
const TAG: &str = ":latest";

/// The entry that a name means, and its name here.
fn entry<'a>(app: &'a App, name: &'a str) -> Result<(&'a Entry, &'a str), ApiError> {
    let error = match app.models.entry(Some(name)) {
        Ok((entry, _)) => return Ok((entry, name)),
        Err(e) => e,
    };
    let Some(short) = name.strip_suffix(TAG) else { return Err(error) };
    app.models.entry(Some(short)).map(|(entry, _)| (entry, short)).map_err(|_| error)
}

/// A name with a tag.
fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}{TAG}") }
}

/// The model that a name means, loaded, and what lets go of it when the request is over.
async fn find(app: &Arc<App>, name: &str, keep: Option<KeepAlive>) -> Result<(Found, Keep), ApiError> {
    let (entry, short) = entry(app, name)?;
    let found = app.models.find(Some(short)).await?;
    let keep = Keep { app: Arc::clone(app), name: short.to_owned(), since: app.models.used(entry), keep };
    Ok((found, keep))
}

/// How long a model stays loaded after a request: seconds, or a text such as `5m`; below 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive(Option<Duration>);

impl KeepAlive {
    fn seconds(seconds: f64) -> Option<KeepAlive> {
        if seconds < 0.0 {
            return Some(KeepAlive(None));
        }
        Duration::try_from_secs_f64(seconds).ok().map(|d| KeepAlive(Some(d)))
    }

    /// As Go's `time.ParseDuration` reads it, or a number of seconds.
    fn parse(text: &str) -> Option<KeepAlive> {
        if let Ok(seconds) = text.parse() {
            return KeepAlive::seconds(seconds);
        }
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.is_empty() {
            return None;
        }
        let mut sum = 0.0;
        while !rest.is_empty() {
            let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (digits, tail) = rest.split_at(number);
            let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let factor = match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
            sum += digits.parse::<f64>().ok()? * factor;
            rest = tail;
        }
        KeepAlive::seconds(if negative { -sum } else { sum })
    }

    /// Whether the model is to go at once.
    fn ends(self) -> bool {
        self.0 == Some(Duration::ZERO)
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = KeepAlive;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds or a text such as \"5m\"")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<KeepAlive, E> {
                KeepAlive::parse(text).ok_or_else(|| E::custom("give a number of seconds or a text such as \"5m\""))
            }
            fn visit_f64<E: Error>(self, seconds: f64) -> Result<KeepAlive, E> {
                KeepAlive::seconds(seconds).ok_or_else(|| E::custom("that is too long"))
            }
            fn visit_u64<E: Error>(self, seconds: u64) -> Result<KeepAlive, E> {
                self.visit_f64(seconds as f64)
            }
            fn visit_i64<E: Error>(self, seconds: i64) -> Result<KeepAlive, E> {
                self.visit_f64(seconds as f64)
            }
        }
        d.deserialize_any(V)
    }
}

/// Lets go of a model some time after a request, unless another names it in between.
struct Keep {
    app: Arc<App>,
    name: String,
    since: Duration,
    keep: Option<KeepAlive>,
}

impl Drop for Keep {
    fn drop(&mut self) {
        if let Some(KeepAlive(Some(keep))) = self.keep {
            crate::models::Models::release_later(&self.app, &self.name, self.since, keep);
        }
    }
}

/// A time as RFC 3339 writes it.
fn date(time: SystemTime) -> String {
    let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    format!("{}.{nanos:09}Z", Civil::from(time).format("%Y-%m-%dT%H:%M:%S"))
}

/// A span of time as Ollama writes it.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_keep_a_model() {
        let seconds = |s: f64| Some(KeepAlive(Some(Duration::from_secs_f64(s))));
        assert_eq!(KeepAlive::parse("5m"), seconds(300.0));
        assert_eq!(KeepAlive::parse("1h30m0.5s"), seconds(5400.5));
        assert_eq!(KeepAlive::parse("20ms"), seconds(0.02));
        assert_eq!(KeepAlive::parse("0"), seconds(0.0));
        assert_eq!(KeepAlive::parse("7"), seconds(7.0));
        for forever in ["-1", "-1m", "-0.5s"] {
            assert_eq!(KeepAlive::parse(forever), Some(KeepAlive(None)), "{forever}");
        }
        for wrong in ["", "m", "5x", "1e999", "5m5", ".m", "nan", "-"] {
            assert!(KeepAlive::parse(wrong).is_none(), "{wrong}");
        }
        assert_eq!(serde_json::from_str::<KeepAlive>("1.5").ok(), seconds(1.5));
        assert_eq!(serde_json::from_str::<KeepAlive>("-1").ok(), Some(KeepAlive(None)));
    }

    #[test]
    fn dates_are_rfc_3339() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 42);
        assert_eq!(date(time), "2023-11-14T22:13:20.000000042Z");
    }
}
