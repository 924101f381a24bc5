//! Bytes with an owner: a mapped file, a vector, or data inside the binary.
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memmap2::{Mmap, UncheckedAdvice};
use torn::Guard;

mod torn;

/// Shared, read-only bytes. Cheap to clone; the last clone frees or unmaps them.
#[derive(Clone)]
pub struct Storage(Kind);

#[derive(Clone)]
enum Kind {
    Mapped(Arc<Mapped>),
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

struct Mapped {
    /// Before the mapping, so that it ends before it.
    guard: Guard,
    map: Mmap,
    file: File,
    stamp: Stamp,
}

/// What tells whether a file is still the one that it was: it changes with every write and with every replacement,
/// and does not depend on the file's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Bytes.
    pub len: u64,
    /// The file system's number for it; 0 where there is none.
    pub inode: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// When it, or what the system knows about it, was last changed: seconds and nanoseconds; unlike `modified` nobody
    /// can set it. 0 where there is no such thing.
    pub changed: [i64; 2],
}

impl Stamp {
    /// The last of its times.
    pub fn newest(&self) -> SystemTime {
        let [seconds, nanos] = self.changed.map(|t| u64::try_from(t).unwrap_or(0));
        let changed = Duration::from_secs(seconds) + Duration::from_nanos(nanos);
        SystemTime::UNIX_EPOCH.checked_add(changed).map_or(self.modified, |t| t.max(self.modified))
    }

    fn of(m: &Metadata) -> io::Result<Stamp> {
        #[cfg(unix)]
        let (inode, changed) = {
            use std::os::unix::fs::MetadataExt;
            (m.ino(), [m.ctime(), m.ctime_nsec()])
        };
        #[cfg(not(unix))]
        let (inode, changed) = (0, [0, 0]);
        Ok(Stamp { len: m.len(), inode, modified: m.modified()?, changed })
    }
}

impl Storage {
    /// Maps a file. Nothing is read until it is touched. What somebody cuts off, or a disk does not give, reads as zeros:
    /// [`is_unwritten`](Storage::is_unwritten) says so, and who has read must ask.
    ///
    /// # Errors
    /// What the operating system says about opening or mapping it.
    pub fn map(path: &Path) -> io::Result<Storage> {
        let file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?)?;
        if stamp.len == 0 {
            return Ok(Storage(Kind::Static(&[]))); // an empty mapping is an error on some systems
        }
        // SAFETY: `Mmap::map` asks that the file does not change while mapped. The mapping is private to reading and
        // read-only; a model file is not written while it is served. If someone does so all the same, what is read is
        // bytes all the same, of which `is_unwritten` says that they are not the file's.
        let map = unsafe { Mmap::map(&file)? };
        let guard = Guard::new(map.as_ptr_range());
        Ok(Storage(Kind::Mapped(Arc::new(Mapped { guard, map, file, stamp }))))
    }

    /// Tells the operating system that the bytes of `range` will not be read again soon, so that weights that were
    /// copied into another layout do not stay resident twice. They can still be read, which fetches them anew.
    /// Does nothing for memory that is not a mapped file.
    pub fn release(&self, range: Range<usize>) {
        if let Kind::Mapped(m) = &self.0
            && range.start < range.end
            && range.end <= m.map.len()
        {
            // Whole pages inside the range only: its neighbours may be in use.
            let start = range.start.next_multiple_of(PAGE);
            let end = if range.end == m.map.len() { range.end } else { range.end / PAGE * PAGE };
            if start < end {
                // SAFETY: `DontNeed` drops private changes, which a read-only file mapping has none of; the next
                // read sees the file's bytes again. The advice may fail, which costs memory and nothing else.
                let _ = unsafe { m.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
    }

    /// What the mapped file was when it was mapped.
    pub fn stamp(&self) -> Option<Stamp> {
        if let Kind::Mapped(m) = &self.0 { Some(m.stamp) } else { None }
    }

    /// Whether nothing was written to the mapped file since it was mapped. True for memory that is no mapped file.
    pub fn is_unchanged(&self) -> bool {
        match &self.0 {
            Kind::Mapped(m) => {
                !m.guard.torn() && m.file.metadata().and_then(|now| Stamp::of(&now)).is_ok_and(|now| now == m.stamp)
            }
            _ => true,
        }
    }

    /// Whether the mapped file has the bytes that it was mapped with: of what [`is_unchanged`](Storage::is_unchanged) looks at,
    /// new names and rights are no matter. True for memory that is no mapped file.
    pub fn is_unwritten(&self) -> bool {
        match &self.0 {
            Kind::Mapped(m) => {
                let same = |now: Stamp| Stamp { changed: m.stamp.changed, ..now } == m.stamp;
                !m.guard.torn() && m.file.metadata().and_then(|now| Stamp::of(&now)).is_ok_and(same)
            }
            _ => true,
        }
    }

    /// Whether nothing of the mapped file was cut off or could not be read since it was mapped: what
    /// [`is_unwritten`](Storage::is_unwritten) says, but for the time of writing. True for memory that is no mapped file.
    pub fn is_whole(&self) -> bool {
        match &self.0 {
            Kind::Mapped(m) => !m.guard.torn() && m.file.metadata().is_ok_and(|now| now.len() == m.stamp.len),
            _ => true,
        }
    }

    /// The mapped file, whose bytes these are.
    pub fn file(&self) -> Option<&File> {
        if let Kind::Mapped(m) = &self.0 { Some(&m.file) } else { None }
    }

    /// Whether the bytes are those of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Kind::Mapped(_))
    }
}

/// A multiple of every page size in use (4, 16 and 64 KiB).
const PAGE: usize = 1 << 16;

impl Deref for Storage {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Kind::Mapped(m) => &m.map,
            Kind::Owned(bytes) => bytes,
            Kind::Static(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Storage {
    fn from(bytes: Vec<u8>) -> Self {
        Storage(Kind::Owned(Arc::new(bytes)))
    }
}

impl From<&'static [u8]> for Storage {
    fn from(bytes: &'static [u8]) -> Self {
        Storage(Kind::Static(bytes))
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.0 {
            Kind::Mapped(_) => "mapped",
            Kind::Owned(_) => "owned",
            Kind::Static(_) => "static",
        };
        write!(f, "Storage({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_range_reads_the_same() {
        let path = std::env::temp_dir().join(format!("alula-storage-{}", std::process::id()));
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i * 7) as u8).collect();
        std::fs::write(&path, &bytes).expect("write");
        let storage = Storage::map(&path).expect("map");
        std::fs::remove_file(&path).expect("remove");
        assert!(storage.is_mapped() && *storage == bytes[..]);
        for range in [0..300_000, 1..200_000, 10..10, 0..usize::MAX, 299_999..300_000] {
            storage.release(range);
            assert!(*storage == bytes[..]);
        }
        let (owned, fixed) = (Storage::from(vec![1, 2]), Storage::from(&[3u8][..]));
        owned.release(0..2);
        assert_eq!((&*owned, &*fixed), (&[1, 2][..], &[3][..]));
    }

    #[test]
    fn a_written_file_is_another() {
        let path = std::env::temp_dir().join(format!("alula-stamp-{}", std::process::id()));
        std::fs::write(&path, [1; 100]).expect("write");
        let first = Storage::map(&path).expect("map");
        let again = Storage::map(&path).expect("map");
        assert!(first.stamp().is_some_and(|s| s.newest() >= s.modified));
        assert!(first.is_unchanged() && first.stamp().is_some() && first.stamp() == again.stamp());
        // A copy over another file keeps its number, and its time of writing can be set.
        let written = first.stamp().expect("a stamp").modified;
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, [2; 100]).expect("write");
        File::options().write(true).open(&path).and_then(|f| f.set_modified(written)).expect("a time");
        let second = Storage::map(&path).expect("map");
        if cfg!(unix) {
            assert!(!first.is_unchanged() && second.stamp() != first.stamp());
        }
        // So is a file of the same bytes in its place.
        std::fs::remove_file(&path).expect("remove");
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, [2; 100]).expect("write");
        assert!(Storage::map(&path).expect("map").stamp() != second.stamp());
        std::fs::remove_file(&path).expect("remove");
        let memory = Storage::from(vec![1, 2]);
        assert!(memory.is_unchanged() && memory.stamp().is_none());
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let path = std::env::temp_dir().join(format!("alula-empty-{}", std::process::id()));
        std::fs::write(&path, []).expect("write");
        assert!(Storage::map(&path).expect("map").is_empty());
        std::fs::remove_file(&path).expect("remove");
        assert!(Storage::map(&path).is_err());
    }
}
