//! Keys: who may ask, what for, and how much.
//!
//! A key is 256 random bits, and only its SHA-256 is kept. A slow hash (Argon2, bcrypt) protects passwords because these can be
//! guessed; nobody can guess 256 random bits however fast the hash is, and a slow one would only cost each request time.
//! The hash of what a client sends is compared in constant time with that of every key.

use crate::limits::{Account, Limits};
use crate::routes::Scope;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use subtle::ConstantTimeEq;

/// Bytes of a key file at most.
const LONGEST_FILE: u64 = 16 << 20;

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the key file {0}: {1}")]
    File(String, std::io::Error),
    /// Its content is wrong.
    #[error("the key file {0}: {1}")]
    Content(String, String),
    /// There is one of that name.
    #[error("there is a key called `{0}` already; choose another name, or remove it with `alula key rm {0}`")]
    Exists(String),
    /// A name that lists, logs and metrics cannot show.
    #[error("a key's name has 1 to 100 bytes and no control characters, and `{}` has not", .0.escape_debug())]
    Name(String),
    /// There is none of that name.
    #[error("there is no key called `{0}`")]
    Missing(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A key as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What people call it; in logs and metrics.
    pub name: String,
    /// SHA-256 of the key, in hexadecimal digits.
    pub sha256: String,
    /// What it permits.
    pub scopes: Vec<Scope>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Its requests come before those of lower priority.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How much it may ask for.
    #[serde(flatten)]
    pub limits: Limits,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// A key file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Its keys.
    #[serde(default, rename = "key")]
    pub keys: Vec<Entry>,
}

impl KeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is not there, or wrong.
    pub fn read(path: &Path) -> Result<KeyFile, KeyError> {
        let name = path.display().to_string();
        let mut text = String::new();
        let file = File::open(path).map_err(|e| KeyError::File(name.clone(), e))?;
        file.take(LONGEST_FILE).read_to_string(&mut text).map_err(|e| KeyError::File(name.clone(), e))?;
        let file: KeyFile = toml::from_str(&text).map_err(|e| KeyError::Content(name.clone(), e.to_string()))?;
        for (i, entry) in file.keys.iter().enumerate() {
            let wrong = |what: &str| Err(KeyError::Content(name.clone(), format!("the key `{}` {what}", entry.name)));
            if digest_of(&entry.sha256).is_none() {
                return wrong("has a `sha256` that is not 64 hexadecimal digits");
            }
            if file.keys[..i].iter().any(|other| other.name == entry.name) {
                return wrong("is there twice");
            }
            if let Some(other) = file.keys[..i].iter().find(|other| other.sha256.eq_ignore_ascii_case(&entry.sha256)) {
                return wrong(&format!("has the same `sha256` as `{}`", other.name));
            }
        }
        Ok(file)
    }

    /// Writes a file that only its owner can read: the whole of it or nothing.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let fail = |e| KeyError::File(path.display().to_string(), e);
        let text = toml::to_string(self).map_err(|e| KeyError::Content(path.display().to_string(), e.to_string()))?;
        let random = getrandom::u64().map_err(KeyError::Random)?;
        let beside = path.with_file_name(format!(
            ".{}.{random:016x}",
            path.file_name().map_or_else(|| "keys".into(), |f| f.to_string_lossy())
        ));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|e| {
            _ = std::fs::remove_file(&beside);
            fail(e)
        })
    }

    /// Reads a file, or begins one, changes it and writes it, while nobody else who does so is between.
    ///
    /// # Errors
    /// It is wrong, cannot be written, or `change` says so; then it is as it was.
    pub fn edit<T>(path: &Path, change: impl FnOnce(&mut KeyFile) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fail = |e| KeyError::File(path.display().to_string(), e);
        // The file itself is replaced, so the lock is its folder's. It ends with this handle.
        let lock = File::open(folder).map_err(fail)?;
        lock.lock().map_err(fail)?;
        let mut file = KeyFile::open(path)?;
        let done = change(&mut file)?;
        file.write(path)?;
        Ok(done)
    }

    /// Makes a key and returns it; only its hash is kept.
    ///
    /// # Errors
    /// There is one of that name, or the name cannot be shown.
    pub fn create(&mut self, entry: Entry) -> Result<String, KeyError> {
        if !(1..=100).contains(&entry.name.len()) || entry.name.chars().any(char::is_control) {
            return Err(KeyError::Name(entry.name));
        }
        if self.keys.iter().any(|k| k.name == entry.name) {
            return Err(KeyError::Exists(entry.name));
        }
        let mut bits = [0u8; 32];
        getrandom::fill(&mut bits).map_err(KeyError::Random)?;
        let key = format!("alula-{}", URL_SAFE_NO_PAD.encode(bits));
        self.keys.push(Entry { sha256: hex(&digest(&key)), ..entry });
        Ok(key)
    }

    /// Takes a key out.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<Entry, KeyError> {
        let at = self.keys.iter().position(|k| k.name == name).ok_or_else(|| KeyError::Missing(name.to_owned()))?;
        Ok(self.keys.remove(at))
    }

    /// Reads a file, or begins one.
    ///
    /// # Errors
    /// It is there but wrong.
    pub fn open(path: &Path) -> Result<KeyFile, KeyError> {
        match KeyFile::read(path) {
            Err(KeyError::File(_, e)) if e.kind() == ErrorKind::NotFound => Ok(KeyFile::default()),
            other => other,
        }
    }
}

/// SHA-256.
fn digest(key: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn digest_of(hex: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A key that the server knows.
#[derive(Debug)]
pub struct Key {
    /// Its settings; the limits are those that hold.
    pub entry: Entry,
    /// What it has used.
    pub account: Arc<Account>,
    digest: [u8; 32],
}

impl Key {
    /// A number for its requests, so that the engine serves keys in turn.
    pub fn group(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.digest[..8]);
        u64::from_le_bytes(first)
    }

    /// Whether it permits this.
    pub fn permits(&self, scope: Scope) -> bool {
        matches!(scope, Scope::Open | Scope::Page) || self.entry.scopes.contains(&scope)
    }
}

/// All keys that the server knows.
#[derive(Debug, Default)]
pub struct Keys {
    /// Whether one is needed. A file without keys lets nobody in.
    needed: bool,
    keys: Vec<Arc<Key>>,
}

impl Keys {
    /// The keys of a file and those that were given in plain text, which permit everything. `usual` are the limits of a key
    /// that has none of its own. Keys that `old` has too go on with what they have used.
    pub fn new(file: Option<KeyFile>, plain: &[String], usual: Limits, old: &Keys) -> Keys {
        let needed = file.is_some() || !plain.is_empty();
        let given = plain.iter().zip(1..).map(|(key, i)| Entry {
            name: format!("api-key-{i}"),
            sha256: hex(&digest(key)),
            scopes: vec![Scope::Infer, Scope::Metrics, Scope::Admin],
            created: 0,
            expires: None,
            priority: 0,
            limits: Limits::default(),
        });
        let entries = file.map(|f| f.keys).unwrap_or_default().into_iter().chain(given);
        let keys = entries.filter_map(|entry| {
            let digest = digest_of(&entry.sha256)?;
            let account = old.keys.iter().find(|k| k.digest == digest).map(|k| Arc::clone(&k.account));
            let entry = Entry { limits: entry.limits.or(usual), ..entry };
            Some(Arc::new(Key { entry, account: account.unwrap_or_default(), digest }))
        });
        Keys { needed, keys: keys.collect() }
    }

    /// Whether a request needs one.
    pub fn needed(&self) -> bool {
        self.needed
    }

    /// All of them.
    pub fn all(&self) -> &[Arc<Key>] {
        &self.keys
    }

    /// The one that a client shows, unless it has ended.
    pub fn find(&self, shown: &str) -> Option<Arc<Key>> {
        let digest = digest(shown);
        let mut found = None;
        // All of them are compared, so that the time says nothing about which one it is.
        for key in &self.keys {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(key);
            }
        }
        found.filter(|k| k.entry.expires.is_none_or(|end| now() < end)).cloned()
    }

    /// What is different from before, in words.
    pub fn changes(&self, old: &Keys) -> Vec<String> {
        let by_name =
            |keys: &Keys, name: &str| keys.keys.iter().find(|k| k.entry.name == name).map(|k| k.entry.clone());
        let mut out = Vec::new();
        for key in &self.keys {
            match by_name(old, &key.entry.name) {
                None => out.push(format!("key `{}` added", key.entry.name)),
                Some(was) if was != key.entry => out.push(format!("key `{}` changed", key.entry.name)),
                Some(_) => {}
            }
        }
        for key in old.keys.iter().filter(|k| by_name(self, &k.entry.name).is_none()) {
            out.push(format!("key `{}` removed", key.entry.name));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            sha256: String::new(),
            scopes: vec![Scope::Infer],
            created: 1,
            expires: None,
            priority: 0,
            limits: Limits { requests_per_minute: Some(7), ..Limits::default() },
        }
    }

    #[test]
    fn a_file_keeps_hashes_for_its_owner_only() {
        let folder = std::env::temp_dir().join(format!("alula-keys-{:016x}", getrandom::u64().unwrap()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("keys.toml");
        let mut file = KeyFile::open(&path).unwrap();
        let (a, b) = (file.create(entry("a")).unwrap(), file.create(entry("b")).unwrap());
        assert!(matches!(file.create(entry("a")), Err(KeyError::Exists(_))));
        file.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&a) && !text.contains(&b));
        assert_eq!(KeyFile::read(&path).unwrap(), file);
        let keys = Keys::new(Some(file.clone()), &[], Limits::default(), &Keys::default());
        assert_eq!(keys.find(&a).unwrap().entry.name, "a");
        assert_eq!(keys.find(&b).unwrap().entry.limits.requests_per_minute, Some(7));
        assert!(keys.find(&a.to_uppercase()).is_none() && keys.find("").is_none());
        file.remove("a").unwrap();
        assert!(matches!(file.remove("a"), Err(KeyError::Missing(_))));
        let fewer = Keys::new(Some(file), &[], Limits::default(), &keys);
        assert!(fewer.find(&a).is_none() && fewer.find(&b).is_some());
        assert_eq!(fewer.changes(&keys), ["key `a` removed"]);
        std::fs::write(&path, "[[key]]\nname = 'x'\nsha256 = '12'\nscopes = []\ncreated = 0\n").unwrap();
        assert!(KeyFile::read(&path).unwrap_err().to_string().contains("64 hexadecimal digits"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nobodys_change_is_lost_and_names_can_be_shown() {
        let folder = std::env::temp_dir().join(format!("alula-keys-{:016x}", getrandom::u64().unwrap()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("keys.toml");
        let keys: Vec<String> = std::thread::scope(|scope| {
            let make = |i| {
                let path = &path;
                scope.spawn(move || KeyFile::edit(path, |f| f.create(entry(&format!("k{i}")))).unwrap())
            };
            let threads: Vec<_> = (0..16).map(make).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let all = Keys::new(Some(KeyFile::read(&path).unwrap()), &[], Limits::default(), &Keys::default());
        assert!(keys.iter().all(|key| all.find(key).is_some()) && all.all().len() == 16);
        for name in ["", "a\nb", &"x".repeat(101)] {
            assert!(matches!(KeyFile::default().create(entry(name)), Err(KeyError::Name(_))), "{name}");
        }
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .split("[[key]]")
            .nth(1)
            .unwrap()
            .replace("name = \"k", "name = \"l");
        let twice = std::fs::read_to_string(&path).unwrap() + "[[key]]" + &text;
        std::fs::write(&path, twice).unwrap();
        assert!(KeyFile::read(&path).unwrap_err().to_string().contains("the same `sha256`"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_expired_key_is_none_and_an_empty_file_closes() {
        let mut file = KeyFile::default();
        let key = file.create(Entry { expires: Some(now() - 1), ..entry("old") }).unwrap();
        let keys = Keys::new(Some(file), &[], Limits::default(), &Keys::default());
        assert!(keys.find(&key).is_none() && keys.needed());
        assert!(Keys::new(Some(KeyFile::default()), &[], Limits::default(), &keys).needed());
        assert!(!Keys::new(None, &[], Limits::default(), &keys).needed());
    }

    /// FIPS 180-4's first example.
    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(hex(&digest("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest_of(&hex(&digest("abc"))), Some(digest("abc")));
    }
}
