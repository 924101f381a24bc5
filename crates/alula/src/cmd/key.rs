//! `alula key`: who may use a server.

use crate::cli::Key;
use crate::{Fail, say};
use alula_server::keys::{Entry, KeyFile, now};
use std::io::{Write, stdout};
use std::time::{Duration, UNIX_EPOCH};

/// `alula key create|list|rm`.
pub fn key(a: Key) -> Result<(), Fail> {
    match a {
        Key::Create(a) => {
            let entry = Entry {
                name: a.name,
                sha256: String::new(),
                scopes: a.scope,
                created: now(),
                expires: a.days.map(|days| now() + u64::from(days) * 86_400),
                priority: a.priority,
                limits: a.limits.limits(),
            };
            let key = KeyFile::edit(&a.file.keys, |file| file.create(entry))?;
            say("alula: this is the only time that the key is shown; only its hash is kept");
            writeln!(stdout(), "{key}")?;
        }
        Key::List { file, json } => {
            for key in KeyFile::read(&file.keys)?.keys {
                match json {
                    true => writeln!(stdout(), "{}", serde_json::to_string(&Listed::from(&key))?)?,
                    false => {
                        let scopes: Vec<String> = key.scopes.iter().map(|s| format!("{s:?}").to_lowercase()).collect();
                        let end = key.expires.map_or_else(|| "never".to_owned(), day);
                        let (made, scopes) = (day(key.created), scopes.join(","));
                        writeln!(stdout(), "{:20} {scopes:20} made {made}  ends {end}", key.name)?;
                    }
                }
            }
        }
        Key::Rm { file, name } => {
            // One that is not there has no key to remove.
            _ = KeyFile::read(&file.keys)?;
            KeyFile::edit(&file.keys, |keys| keys.remove(&name))?;
        }
    }
    Ok(())
}

fn day(seconds: u64) -> String {
    // A second of the far future is no date.
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(1 << 40))).map(alula_server::log::time);
    time.and_then(|t| t.split('T').next().map(str::to_owned)).unwrap_or_default()
}

/// A key without its hash.
#[derive(serde::Serialize)]
struct Listed<'a> {
    name: &'a str,
    scopes: &'a [alula_server::routes::Scope],
    created: u64,
    expires: Option<u64>,
    priority: i32,
    #[serde(flatten)]
    limits: alula_server::limits::Limits,
}

impl<'a> From<&'a Entry> for Listed<'a> {
    fn from(e: &'a Entry) -> Self {
        let Entry { name, scopes, created, expires, priority, limits, .. } = e;
        Listed { name, scopes, created: *created, expires: *expires, priority: *priority, limits: *limits }
    }
}
