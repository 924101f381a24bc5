//! One line for each request, on standard error.
//!
//! Lines go through a bounded queue to a thread of their own, so a terminal or pipe that is not read holds up no answer; lines
//! that find the queue full are counted and dropped.

use crate::caller::Noted;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that wait to be written at most.
const QUEUE: usize = 4096;
/// Paths that are asked for again and again by machines.
const QUIET: [&str; 4] = ["/livez", "/readyz", "/health", "/metrics"];

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people: time, level, then `name=value`.
    #[default]
    Text,
    /// For programs: an object a line.
    Json,
    /// No lines.
    Off,
}

/// How much a line must matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What the server failed to do.
    Error,
    /// What it refused, too.
    Warn,
    /// Every request, but health checks and metrics.
    #[default]
    Info,
    /// These too.
    Debug,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How it looks.
    pub format: Format,
    /// The least level.
    pub level: Level,
    /// Prompts and answers too. Without this no line has anything that a user wrote.
    pub content: bool,
}

/// A request that is over.
pub(crate) struct Line<'a> {
    pub(crate) id: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) seconds: f64,
    pub(crate) noted: &'a Noted,
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    queue: Option<SyncSender<String>>,
    dropped: AtomicU64,
}

impl Log {
    /// To standard error.
    pub fn new(config: LogConfig) -> Log {
        Log::to(config, std::io::stderr())
    }

    /// To somewhere else.
    pub fn to(config: LogConfig, mut out: impl Write + Send + 'static) -> Log {
        let queue = (config.format != Format::Off).then(|| {
            let (queue, lines): (_, Receiver<String>) = sync_channel(QUEUE);
            let run = move || lines.into_iter().for_each(|line| _ = out.write_all(line.as_bytes()));
            std::thread::Builder::new().name("log".into()).spawn(run).ok().map(|_| queue)
        });
        Log { config, queue: queue.flatten(), dropped: AtomicU64::new(0) }
    }

    /// Lines that nobody could take.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn request(&self, line: &Line<'_>) {
        let level = match line.status {
            // That it does not serve yet, or no more, is no failure.
            503 if QUIET.contains(&line.route) => Level::Debug,
            500.. => Level::Error,
            400.. => Level::Warn,
            _ if QUIET.contains(&line.route) => Level::Debug,
            _ => Level::Info,
        };
        self.write(level, &fields(line, self.config.content));
    }

    /// Says what the server could not do for itself. Nothing that a user wrote belongs there.
    pub(crate) fn warn(&self, what: &str) {
        self.write(Level::Warn, &[("message", what.into())]);
    }

    fn write(&self, level: Level, fields: &[(&'static str, Value)]) {
        let Some(queue) = self.queue.as_ref().filter(|_| level <= self.config.level) else { return };
        let text = match self.config.format {
            Format::Json => json(level, fields),
            _ => text(level, fields),
        };
        if queue.try_send(text).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a line says, without what is not known.
fn fields(line: &Line<'_>, content: bool) -> Vec<(&'static str, Value)> {
    let ms = |seconds: f64| Value::from((seconds * 1e6).round() / 1e3);
    let noted = line.noted;
    let mut out: Vec<(&str, Value)> = vec![("id", line.id.into())];
    out.extend(line.key.map(|k| ("key", k.into())));
    out.extend([("method", line.method.into()), ("route", line.route.into()), ("status", line.status.into())]);
    out.push(("ms", ms(line.seconds)));
    if let Some(model) = &noted.model {
        out.push(("model", model.as_str().into()));
        out.extend([("prompt_tokens", noted.prompt.into()), ("cached_tokens", noted.cached.into())]);
        out.push(("generated_tokens", noted.generated.into()));
    }
    out.extend(noted.waited.map(|s| ("queue_ms", ms(s))));
    out.extend(noted.first.map(|s| ("first_token_ms", ms(s))));
    out.extend(noted.reason.map(|r| ("reason", r.into())));
    // Messages of errors quote what was sent, so they are content; their kind is in the status.
    if content {
        out.extend(noted.error.as_ref().map(|e| ("error", e.as_str().into())));
        out.extend((!noted.asked.is_empty()).then(|| ("prompt", noted.asked.as_str().into())));
        out.extend((!noted.answered.is_empty()).then(|| ("answer", noted.answered.as_str().into())));
    }
    out
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

fn text(level: Level, fields: &[(&'static str, Value)]) -> String {
    let mut out = format!("{} {:5}", time(SystemTime::now()), name(level).to_uppercase());
    for (name, value) in fields {
        let plain = value.as_str().filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic() && b != b'"'));
        match plain {
            Some(plain) => out += &format!(" {name}={plain}"),
            // JSON's quotes keep a line one line whatever is in it.
            None => out += &format!(" {name}={value}"),
        }
    }
    out + "\n"
}

fn json(level: Level, fields: &[(&'static str, Value)]) -> String {
    let head = [("time", time(SystemTime::now()).into()), ("level", name(level).into())];
    let all: Map<String, Value> = head.iter().chain(fields).map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Value::Object(all).to_string() + "\n"
}

/// RFC 3339, in UTC, to the millisecond.
pub fn time(at: SystemTime) -> String {
    let since: Duration = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    // Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms": eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let (d, m) = (in_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    let (h, min, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{:03}Z", since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |s: u64| time(UNIX_EPOCH + Duration::from_millis(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(4_107_542_399_000), "2100-02-28T23:59:59.000Z");
        assert_eq!(at(1_735_689_599_000), "2024-12-31T23:59:59.000Z");
    }

    #[test]
    fn content_only_when_asked_and_always_one_line() {
        let noted =
            Noted { asked: "secret\n".into(), answered: "s2".into(), model: Some("m".into()), ..Noted::default() };
        let line =
            Line { id: "a b\n", key: Some("k"), method: "POST", route: "/x", status: 200, seconds: 0.5, noted: &noted };
        for content in [false, true] {
            let fields = fields(&line, content);
            for text in [text(Level::Info, &fields), json(Level::Info, &fields)] {
                assert_eq!(text.matches('\n').count(), 1, "{text}");
                assert_eq!(text.contains("secret"), content, "{text}");
                assert!(text.contains("500"), "{text}");
            }
        }
    }
}
