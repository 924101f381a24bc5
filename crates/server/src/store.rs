//! What is kept between requests: records by name, in memory or as files of a directory, within limits.
//!
//! A file is written under another name, synced and renamed, so it is there whole or not at all. Over the limits, records
//! that were not used for longest go first. Files that are not the store's, which their names say, are left alone: whoever
//! names a directory that holds something else must not lose it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Records at most.
const MOST: usize = 10_000;
/// The end of a record's file name.
const END: &str = ".kept.json";
/// The end of the name of a file that is being written.
const PART: &str = ".kept.part";
/// A file that was being written so long ago belongs to nobody; a younger one may be another server's.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Records by name.
#[derive(Debug)]
pub struct Store {
    directory: Option<PathBuf>,
    /// Bytes at most.
    most: usize,
    /// How long a record is kept.
    age: Duration,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    records: HashMap<String, Record>,
    bytes: usize,
    tick: u64,
}

#[derive(Debug)]
struct Record {
    size: usize,
    used: u64,
    written: SystemTime,
    /// Where there is no file.
    data: Option<Arc<[u8]>>,
}

/// A record that cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It alone is over the limit.
    #[error("it has {size} bytes, and {most} are kept at most")]
    Large {
        /// Its bytes.
        size: usize,
        /// Bytes of all records at most.
        most: usize,
    },
    /// The disk is full, or not there.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Store {
    /// An empty one. With `most` 0 nothing is kept; without a directory records are in memory.
    pub fn new(directory: Option<PathBuf>, most: usize, age: Duration) -> Store {
        Store { directory, most, age, index: Mutex::default() }
    }

    /// Finds what an earlier process left in the directory, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be read or made.
    pub fn open(&self) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        fs::create_dir_all(directory)?;
        let mut found = Vec::new();
        for file in fs::read_dir(directory)? {
            let file = file?;
            // Another server may have taken it away since.
            let Some(facts) = file.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            let written = facts.modified()?;
            if let Some(name) = name.strip_suffix(END).filter(|n| plain(n)) {
                found.push((written, name.to_owned(), usize::try_from(facts.len()).unwrap_or(usize::MAX)));
            } else if name.ends_with(PART) && written.elapsed().is_ok_and(|age| age > ABANDONED) {
                // A write that was interrupted.
                _ = fs::remove_file(file.path());
            }
        }
        found.sort();
        let mut index = self.index();
        for (written, name, size) in found {
            index.add(name, Record { size, used: 0, written, data: None });
        }
        drop(index);
        self.make_room(0);
        Ok(())
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.most > 0
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.directory.as_ref().map(|d| d.join(format!("{name}{END}")))
    }

    /// Keeps a record. May wait for the disk.
    ///
    /// # Errors
    /// It is too large, or the disk is full; then what was there before is there.
    pub fn put(&self, name: &str, data: Vec<u8>) -> Result<(), StoreError> {
        let size = data.len();
        if size > self.most {
            return Err(StoreError::Large { size, most: self.most });
        }
        if !plain(name) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        self.make_room(size);
        let data = match self.path(name) {
            Some(path) => {
                write(&path, &data)?;
                None
            }
            None => Some(data.into()),
        };
        self.index().add(name.to_owned(), Record { size, used: 0, written: SystemTime::now(), data });
        Ok(())
    }

    /// A record, if it is kept. May wait for the disk.
    pub fn get(&self, name: &str) -> Option<Arc<[u8]>> {
        let (old, data) = {
            let mut index = self.index();
            index.tick += 1;
            let tick = index.tick;
            let record = index.records.get_mut(name)?;
            record.used = tick;
            (self.old(record), record.data.clone())
        };
        if old {
            self.remove(name);
            return None;
        }
        match (data, self.path(name)) {
            (Some(data), _) => Some(data),
            (None, Some(path)) => fs::read(path).ok().map(Into::into),
            (None, None) => None,
        }
    }

    /// Forgets a record. False if it was not kept.
    pub fn remove(&self, name: &str) -> bool {
        let mut index = self.index();
        let Some(record) = index.records.remove(name) else { return false };
        index.bytes = index.bytes.saturating_sub(record.size);
        drop(index);
        if let Some(path) = self.path(name) {
            // Somebody else may have taken it away.
            _ = fs::remove_file(path);
        }
        true
    }

    fn old(&self, record: &Record) -> bool {
        record.written.elapsed().is_ok_and(|age| age > self.age)
    }

    /// Forgets what is too old, and then what was not used for longest until there is room for so many bytes.
    fn make_room(&self, size: usize) {
        let gone: Vec<String> = {
            let index = self.index();
            let mut all: Vec<_> = index.records.iter().collect();
            all.sort_by_key(|(_, r)| (r.used, r.written));
            let (mut bytes, mut count) = (index.bytes, all.len());
            let mut gone = Vec::new();
            for (name, record) in all {
                if self.old(record) || bytes.saturating_add(size) > self.most || count >= MOST {
                    bytes = bytes.saturating_sub(record.size);
                    count -= 1;
                    gone.push(name.clone());
                }
            }
            gone
        };
        for name in gone {
            self.remove(&name);
        }
    }
}

impl Index {
    fn add(&mut self, name: String, mut record: Record) {
        self.tick += 1;
        record.used = self.tick;
        self.bytes = self.bytes.saturating_add(record.size);
        if let Some(old) = self.records.insert(name, record) {
            self.bytes = self.bytes.saturating_sub(old.size);
        }
    }
}

/// Whether a name can be a file's.
fn plain(name: &str) -> bool {
    (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Writes a file whole or not at all. Only its owner may read it.
fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    // Nobody else writes under this name, not even another server with the same directory.
    let random = getrandom::u64().map_err(io::Error::other)?;
    let part = path.with_file_name(format!("{random:016x}{PART}"));
    let written = (|| {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&part)?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        // The name must be there after a power cut too.
        path.parent().map_or(Ok(()), |d| File::open(d)?.sync_all())
    })();
    if written.is_err() {
        _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("alula-store-{}-{name}", std::process::id()));
        _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn what_was_used_last_stays() {
        let store = Store::new(None, 100, LONG);
        for name in ["a", "b", "c"] {
            store.put(name, vec![b'x'; 30]).unwrap();
        }
        assert!(store.get("a").is_some());
        store.put("d", vec![b'x'; 30]).unwrap();
        assert!(store.get("a").is_some() && store.get("d").is_some() && store.get("b").is_none());
        assert!(matches!(store.put("e", vec![0; 101]), Err(StoreError::Large { size: 101, most: 100 })));
        assert!(store.remove("a") && !store.remove("a") && store.get("a").is_none());
        assert!(store.put("../a", vec![0]).is_err());
        let old = Store::new(None, 100, Duration::ZERO);
        old.put("a", vec![0]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        assert!(old.get("a").is_none());
    }

    #[test]
    fn files_outlive_the_process() {
        let path = directory("outlive");
        let store = Store::new(Some(path.clone()), 100, LONG);
        store.open().unwrap();
        store.put("a", b"one".to_vec()).unwrap();
        store.put("a", b"two".to_vec()).unwrap();
        let (old, young) = (path.join("1.kept.part"), path.join("2.kept.part"));
        for part in [&old, &young] {
            fs::write(part, "half").unwrap();
        }
        File::options().write(true).open(&old).unwrap().set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        let store = Store::new(Some(path.clone()), 100, LONG);
        store.open().unwrap();
        assert_eq!(&*store.get("a").unwrap(), b"two");
        assert!(!old.exists() && young.exists());
        // Smaller limits hold at once.
        let store = Store::new(Some(path.clone()), 2, LONG);
        store.open().unwrap();
        assert!(store.get("a").is_none() && !path.join("a.kept.json").exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_is_not_the_stores_is_left_alone() {
        let path = directory("foreign");
        fs::create_dir_all(path.join("a.kept.json")).unwrap();
        for name in ["config.json", "tokenizer.json", "film.part", "a b.kept.json"] {
            fs::write(path.join(name), "mine").unwrap();
            let file = File::options().write(true).open(path.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        let store = Store::new(Some(path.clone()), 1, LONG);
        store.open().unwrap();
        assert!(store.get("config").is_none() && !store.remove("config"));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 5);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_disk_that_takes_nothing_is_an_error() {
        let path = directory("full");
        let store = Store::new(Some(path.clone()), 100, LONG);
        store.open().unwrap();
        store.put("a", b"one".to_vec()).unwrap();
        // A directory stands where the file should be.
        fs::create_dir_all(path.join("b.kept.json")).unwrap();
        assert!(matches!(store.put("b", b"two".to_vec()), Err(StoreError::Io(_))));
        assert_eq!(&*store.get("a").unwrap(), b"one");
        assert!(store.get("b").is_none());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "nothing half written is left");
        fs::remove_dir_all(path).unwrap();
    }
}
