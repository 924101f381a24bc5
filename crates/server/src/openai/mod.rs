//! OpenAI's dialect (platform.openai.com/docs/api-reference).

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod fields;
pub mod list;
pub mod messages;
pub mod prompt;
pub mod responses;
pub mod tools;

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Which program computed it: same name, same numbers.
pub const FINGERPRINT: &str = concat!("alula-", env!("CARGO_PKG_VERSION"));
