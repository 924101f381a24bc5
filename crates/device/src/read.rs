//! Parts of files, read past the system's page cache where that is possible: what is read for one step and then forgotten
//! would push out of it what others need, and costs a copy.

use alula_tensor::Storage;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What offsets, lengths and addresses of such reads must be multiples of.
const ALIGN: usize = 4096;

/// A file to be read.
pub(crate) struct Reader {
    storage: Storage,
    direct: Option<File>,
}

impl Reader {
    pub(crate) fn new(storage: &Storage) -> Reader {
        let mut reader = Reader { storage: storage.clone(), direct: storage.file().and_then(direct) };
        // Some file systems refuse only the first read.
        let mut buffer = Vec::new();
        let first = 0..storage.len().min(1);
        if reader.direct.as_ref().is_some_and(|f| aligned(f, storage.len(), first, &mut buffer).is_err()) {
            reader.direct = None;
        }
        reader
    }

    /// Whether it reads this storage.
    pub(crate) fn is_of(&self, storage: &Storage) -> bool {
        std::ptr::eq::<[u8]>(&*self.storage, &**storage)
    }

    /// The bytes of `range`, which lie in `buffer` or in the mapping.
    ///
    /// # Errors
    /// What the system says; the file was written to.
    pub(crate) fn read<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        let unwritten = || match self.storage.is_unwritten() {
            true => Ok(()),
            false => Err(io::Error::other("it was written to after the model was loaded; load the model again")),
        };
        match &self.direct {
            Some(file) => {
                let bytes = aligned(file, self.storage.len(), range, buffer);
                unwritten().and(bytes)
            }
            // Beyond the end that it has by now, the mapping must not be touched.
            None => {
                unwritten()?;
                self.storage.get(range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// Bytes that a buffer for `len` of them takes.
pub(crate) fn room(len: usize) -> usize {
    len.saturating_add(3 * ALIGN)
}

/// The same file, opened anew so that reads go past the page cache.
#[cfg(target_os = "linux")]
fn direct(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    // By its descriptor, as its path may have become another file's.
    File::options().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
fn direct(_: &File) -> Option<File> {
    None
}

/// Reads whole blocks around the range of a file of `len` bytes.
#[cfg(target_os = "linux")]
fn aligned<'b>(file: &File, len: usize, range: Range<usize>, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    use std::os::unix::fs::FileExt;
    let (first, end) = (range.start / ALIGN * ALIGN, range.end.min(len).next_multiple_of(ALIGN));
    if buffer.len() < room(range.len()) {
        buffer.try_reserve_exact(room(range.len()) - buffer.len())?;
        buffer.resize(room(range.len()), 0);
    }
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let blocks = &mut buffer[skip..skip + end - first];
    let mut done = 0;
    while done < range.end - first {
        match file.read_at(&mut blocks[done..], (first + done) as u64) {
            // A file's last block may be short; before it, what is read are whole blocks.
            Ok(n) if n > 0 && (n.is_multiple_of(ALIGN) || done + n >= range.end - first) => done += n,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&blocks[range.start - first..range.end - first])
}

#[cfg(not(target_os = "linux"))]
fn aligned<'b>(_: &File, _: usize, _: Range<usize>, _: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes per second at which parts of a file can be read by some threads, the best of a few measurements of a tenth of a second.
/// `None` for memory, and where reads fail.
pub fn disk_speed(storage: &Storage) -> Option<f64> {
    const PART: usize = 1 << 20;
    let reader = Reader::new(storage);
    let parts = storage.len() / PART;
    if !storage.is_mapped() || parts == 0 {
        return None;
    }
    let next = AtomicUsize::new(0);
    let measure = || {
        let (start, read) = (Instant::now(), AtomicUsize::new(0));
        let work = || {
            let mut buffer = Vec::new();
            while start.elapsed() < Duration::from_millis(100) {
                // Far from each other, so that the disk's own read-ahead is of no use.
                let at = next.fetch_add(1, Relaxed) * (parts / 2 + 1) % parts * PART;
                let bytes = reader.read(at..at + PART, &mut buffer)?;
                // What is mapped is read when it is touched, and anew when it was released.
                std::hint::black_box(bytes.iter().step_by(ALIGN).fold(0, |all, byte| all ^ byte));
                read.fetch_add(bytes.len(), Relaxed);
                storage.release(at..at + PART);
            }
            Ok(())
        };
        let done: io::Result<()> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..THREADS).map(|_| s.spawn(work)).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or(Err(io::ErrorKind::Other.into())))
        });
        done.ok().map(|()| read.into_inner() as f64 / start.elapsed().as_secs_f64())
    };
    (0..4).filter_map(|_| measure()).reduce(f64::max)
}

/// Threads that read: as many requests as a disk likes to have.
pub(crate) const THREADS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// Any range of a file comes back as it is, past the page cache and through it, and an end that is gone is an error.
    #[test]
    fn ranges_of_a_file() {
        let path = std::env::temp_dir().join(format!("alula-read-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3 * ALIGN as u32 + 77).map(|i| (i * 7 + i / 256) as u8).collect();
        std::fs::write(&path, &bytes).expect("written");
        let storage = Storage::map(&path).expect("mapped");
        let mut readers = vec![Reader::new(&storage), Reader { storage: storage.clone(), direct: None }];
        let mut buffer = Vec::new();
        let ends = [0, 1, 511, 4095, 4096, 4097, 8192, 12287, 12288, bytes.len() - 1, bytes.len()];
        for reader in &mut readers {
            assert!(reader.is_of(&storage));
            for start in ends {
                for end in ends.into_iter().filter(|end| *end >= start) {
                    assert_eq!(
                        reader.read(start..end, &mut buffer).expect("read"),
                        &bytes[start..end],
                        "{start}..{end}"
                    );
                }
            }
        }
        // Another name and no name are no matter; other bytes are, and bytes that are gone.
        let moved = path.with_extension("moved");
        std::fs::rename(&path, &moved).expect("renamed");
        let file = File::options().write(true).open(&moved).expect("opened");
        std::fs::remove_file(&moved).expect("removed");
        for reader in &mut readers {
            assert_eq!(reader.read(5..10, &mut buffer).expect("read"), &bytes[5..10]);
        }
        std::thread::sleep(Duration::from_millis(20));
        std::io::Write::write_all(&mut &file, &[0; 10]).expect("written");
        for len in [bytes.len(), ALIGN] {
            file.set_len(len as u64).expect("cut");
            for reader in &mut readers {
                let why = reader.read(ALIGN..ALIGN + 10, &mut buffer).expect_err("other bytes").to_string();
                assert!(why.contains("written to"), "{why}");
            }
        }
        assert!(disk_speed(&Storage::from(vec![0; 4 << 20])).is_none());
    }
}
