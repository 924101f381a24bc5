//! Packed weights, kept from one start to the next: a folder of files, one for each model.
//!
//! A file appears under its name when it is complete, and is replaced or removed, never written again, so that who has
//! mapped it keeps what it mapped. It is a copy of what can be made again: whatever is wrong with it or with the
//! folder, the weights are packed as if it were not there.

mod file;
#[cfg(test)]
mod tests;

pub use file::digest;
pub(crate) use file::{Part, Wanted};

use alula_kernels::{Ctx, Packed};
use alula_tensor::Storage;
use file::Header;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// How a file's name ends, and that of one that is being written.
const ENDS: [&str; 2] = ["packed", "part"];
/// Bytes of a folder at most; the files that were used last stay.
const MOST: u64 = 64 << 30;

/// Where a model's packed weights are kept.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The folder; made when it is needed.
    pub folder: PathBuf,
    /// What people call the model.
    pub name: String,
    /// Where the model is.
    pub source: String,
    /// Stands for the model's bytes and for how they become matrices: another model has another one.
    pub identity: u64,
    /// The model's files. If they change while they are read, nothing is kept.
    pub files: Vec<Storage>,
    /// Fewer bytes than this are not kept.
    pub least: usize,
}

/// A file of packed weights.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The file.
    pub file: PathBuf,
    /// What the model was called; the file's own name where it is broken.
    pub name: String,
    /// Where the model was; `None` where the file is broken.
    pub source: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

impl Keep {
    /// The model's file. The name is for people, the number tells models of that name apart.
    fn path(&self) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let name: String = self.name.chars().map(plain).take(64).collect();
        self.folder.join(format!("{name}-{:016x}.{}", self.identity, ENDS[0]))
    }

    /// The matrices that are wanted, if they are all there, and the file that they lie in.
    pub(crate) fn load(&self, ctx: Ctx<'_>, wanted: &[Wanted<'_>]) -> Option<(Vec<Packed>, Storage)> {
        let path = self.path();
        path.metadata().ok().filter(std::fs::Metadata::is_file)?; // opening a pipe would wait
        let file = Storage::map(&path).ok()?;
        let packed = Header::read(&file)?.load(ctx, self, &file, wanted)?;
        // The time of writing is that of the last use. Where it cannot be set, the file goes earlier.
        _ = File::open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        Some((packed, file))
    }

    /// Keeps matrices, if they are enough, in a thread of its own: nobody waits for a disk but who ends the program.
    pub(crate) fn save(&self, parts: Vec<Part>) -> Option<Saving> {
        let bytes: usize = parts.iter().map(|p| p.matrix.bytes()).sum();
        let keep = self.clone();
        let thread = std::thread::Builder::new().name("alula-keep".to_owned());
        let work = move || _ = keep.write(&parts);
        (bytes > 0 && bytes >= self.least).then(|| thread.spawn(work).ok())?.map(|thread| Saving(Some(thread)))
    }

    fn write(&self, parts: &[Part]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let (path, tag) = (self.path(), self.folder.join("CACHEDIR.TAG"));
        if let Ok(mut tag) = File::create_new(tag) {
            // For programs that make backups.
            tag.write_all(b"Signature: 8a477f597d28d172789f06886806bc55\nPacked weights, which alula makes anew.\n")?;
        }
        if sweep(&self.folder)?.iter().any(|live| live.with_extension("").with_extension(ENDS[0]) == path) {
            return Ok(()); // another process is at it
        }
        let mut temporary = Temporary::new(&path)?;
        file::write(&mut temporary.file, self, parts)?;
        temporary.file.sync_all()?;
        if !self.files.iter().all(Storage::is_unchanged) {
            return Err(io::Error::other("the model changed while it was read"));
        }
        fs::rename(&temporary.path, &path)?;
        drop(temporary);
        _ = File::open(&self.folder).and_then(|f| f.sync_all());
        self.tidy(&path)
    }

    /// Removes what this file takes the place of, and what has not been used for longest where there is too much.
    fn tidy(&self, path: &Path) -> io::Result<()> {
        let mut others: Vec<Kept> = list(&self.folder)?.into_iter().filter(|k| k.file != path).collect();
        others.sort_by_key(|k| std::cmp::Reverse(k.used));
        let mut total = path.metadata()?.len();
        for k in others {
            total = total.saturating_add(k.bytes);
            if total > MOST || k.source.as_ref() == Some(&self.source) {
                _ = fs::remove_file(k.file);
                total -= k.bytes;
            }
        }
        Ok(())
    }
}

/// A file that is being written: under a name that nobody else has, locked as long as its writer lives, removed unless
/// it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn new(path: &Path) -> io::Result<Temporary> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = path.with_extension(format!("{:x}-{:x}.{}", std::process::id(), now.as_nanos(), ENDS[1]));
        let mut options = File::options();
        // The model may be nobody else's business.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.read(true).write(true).create_new(true).open(&path)?;
        _ = file.try_lock(); // some file systems have no locks
        Ok(Temporary { path, file })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.path);
    }
}

/// Waits for the thread that writes.
pub(crate) struct Saving(Option<JoinHandle<()>>);

impl Drop for Saving {
    fn drop(&mut self) {
        _ = self.0.take().map(JoinHandle::join);
    }
}

/// The files of a folder whose names end like this. A folder that is not there has none.
fn files(folder: &Path, end: &str) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(read) => Ok(read.flatten().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == end)).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Removes what writers that ended too early left behind. Gives the files that are being written.
///
/// # Errors
/// The folder cannot be read.
pub fn sweep(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut live = files(folder, ENDS[1])?;
    live.retain(|path| {
        if !path.symlink_metadata().is_ok_and(|m| m.is_file()) {
            return false; // not ours, and opening a pipe would wait
        }
        let Ok(file) = File::open(path) else { return false };
        let dead = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            // No locks here: nobody writes for a day.
            Err(TryLockError::Error(_)) => {
                let written = file.metadata().and_then(|m| m.modified());
                written.is_ok_and(|t| t.elapsed().is_ok_and(|t| t > Duration::from_secs(24 * 60 * 60)))
            }
        };
        !(dead && fs::remove_file(path).is_ok())
    });
    Ok(live)
}

/// The files of packed weights in a folder, by name. One that is not there is empty.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<Kept>> {
    let kept = |file: PathBuf| {
        let meta = file.metadata().ok().filter(|m| m.is_file())?;
        let header = Storage::map(&file).ok().and_then(|f| Header::read(&f));
        let (name, source) = match header {
            Some(h) => (h.name, Some(h.source)),
            None => (file.file_name()?.to_string_lossy().into_owned(), None),
        };
        Some(Kept { name, source, bytes: meta.len(), used: meta.modified().ok()?, file })
    };
    let mut all: Vec<Kept> = files(folder, ENDS[0])?.into_iter().filter_map(kept).collect();
    all.sort_by(|a, b| (&a.name, &a.file).cmp(&(&b.name, &b.file)));
    Ok(all)
}
