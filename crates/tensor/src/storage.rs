//! Bytes with an owner: a mapped file, a vector, or data inside the binary.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};

/// Shared, read-only bytes. Cheap to clone; the last clone frees or unmaps them.
#[derive(Clone)]
pub struct Storage(Kind);

#[derive(Clone)]
enum Kind {
    Mapped(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

impl Storage {
    /// Maps a file. Nothing is read until it is touched.
    ///
    /// # Errors
    /// What the operating system says about opening or mapping it.
    pub fn map(path: &Path) -> io::Result<Storage> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Storage(Kind::Static(&[]))); // an empty mapping is an error on some systems
        }
        // SAFETY: `Mmap::map` asks that the file does not change while mapped. The mapping is private to reading and
        // read-only; a model file is not written while it is served. If someone truncates it all the same, the
        // process gets SIGBUS, as with every program that maps its weights.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Storage(Kind::Mapped(Arc::new(map))))
    }

    /// Tells the operating system that the bytes of `range` will not be read again soon, so that weights that were
    /// copied into another layout do not stay resident twice. They can still be read, which fetches them anew.
    /// Does nothing for memory that is not a mapped file.
    pub fn release(&self, range: Range<usize>) {
        if let Kind::Mapped(map) = &self.0
            && range.start < range.end
            && range.end <= map.len()
        {
            // Whole pages inside the range only: its neighbours may be in use.
            let start = range.start.next_multiple_of(PAGE);
            let end = if range.end == map.len() { range.end } else { range.end / PAGE * PAGE };
            if start < end {
                // SAFETY: `DontNeed` drops private changes, which a read-only file mapping has none of; the next
                // read sees the file's bytes again. The advice may fail, which costs memory and nothing else.
                let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
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
            Kind::Mapped(map) => map,
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
    fn an_empty_file_maps_to_nothing() {
        let path = std::env::temp_dir().join(format!("alula-empty-{}", std::process::id()));
        std::fs::write(&path, []).expect("write");
        assert!(Storage::map(&path).expect("map").is_empty());
        std::fs::remove_file(&path).expect("remove");
        assert!(Storage::map(&path).is_err());
    }
}
