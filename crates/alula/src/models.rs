//! What MODEL means.

use crate::Fail;
use alula_engine::local::Package;
use std::path::{Path, PathBuf};

/// The model in the binary.
pub const BUILTIN: &str = "builtin";
static BUILTIN_BYTES: &[u8] = include_bytes!("../assets/builtin.gguf");

/// A model that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one in the binary.
    Builtin,
    /// A GGUF file or a Hugging Face folder.
    Path(PathBuf),
}

impl Place {
    /// Opens it.
    pub fn open(&self) -> Result<Package, Fail> {
        Ok(match self {
            Place::Builtin => Package::from_bytes(BUILTIN_BYTES, BUILTIN)?,
            Place::Path(p) => Package::open(p)?,
        })
    }

    /// Its bytes, if it is in the binary.
    pub fn bytes(&self) -> Option<&'static [u8]> {
        matches!(self, Place::Builtin).then_some(BUILTIN_BYTES)
    }
}

/// The models directory: `ALULA_MODELS`, else `alula/models` in the XDG data directory.
pub fn directory() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = || var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
    var("ALULA_MODELS").or_else(|| Some(data()?.join("alula/models")))
}

/// Where packed weights are kept: in the models directory, as they are as large as the models, and where those have
/// room these have too.
pub fn packed() -> Option<PathBuf> {
    Some(directory()?.join(".packed"))
}

/// A model in the models directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The models in the models directory, by name.
pub fn entries() -> Vec<Entry> {
    let Some(dir) = directory() else { return Vec::new() };
    let Ok(read) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<Entry> = read.flatten().filter_map(|e| entry(e.path())).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn entry(path: PathBuf) -> Option<Entry> {
    let file = path.file_name()?.to_str()?.to_owned();
    if path.is_dir() {
        let files = std::fs::read_dir(&path).ok()?.flatten();
        let bytes = files.filter_map(|f| f.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum();
        return path.join("config.json").is_file().then_some(Entry { name: file, bytes, path });
    }
    let stem = file.strip_suffix(".gguf")?;
    // A split model is known by its first part.
    let parts = stem.rsplit_once("-of-").and_then(|(s, n)| Some((s.rsplit_once('-')?, n)));
    let (name, bytes) = match parts {
        Some(((name, part), of)) if part.len() == 5 && part.parse::<u32>().is_ok() => {
            if part != "00001" {
                return None;
            }
            let count: u32 = of.parse().ok()?;
            let sizes = (1..=count.min(99_999)).map(|i| path.with_file_name(format!("{name}-{i:05}-of-{of}.gguf")));
            (name, sizes.map_while(|p| p.metadata().ok()).map(|m| m.len()).sum())
        }
        _ => (stem, path.metadata().ok()?.len()),
    };
    Some(Entry { name: name.to_owned(), bytes, path })
}

/// What `name` stands for, if it names a model.
pub fn find(name: &str) -> Option<Place> {
    if name == BUILTIN {
        return Some(Place::Builtin);
    }
    if !name.is_empty() && Path::new(name).exists() {
        return Some(Place::Path(name.into()));
    }
    let known = |e: &Entry| e.name == name || e.path.file_name().is_some_and(|f| f == name);
    entries().into_iter().find(known).map(|e| Place::Path(e.path))
}

/// Whether a text is meant as a path, though nothing is there.
pub fn looks_like_path(text: &str) -> bool {
    let one_word = !text.is_empty() && !text.contains(char::is_whitespace);
    one_word
        && (text.ends_with(".gguf")
            || text.ends_with(".safetensors")
            || text.starts_with(['/', '~'])
            || text.starts_with("./")
            || text.starts_with("../"))
}

/// What `name` stands for.
///
/// # Errors
/// It names nothing.
pub fn need(name: &str) -> Result<Place, Fail> {
    find(name).ok_or_else(|| {
        if looks_like_path(name) {
            return format!("{name}: no such file or folder; give a GGUF file, a Hugging Face folder, or a name that `alula list` shows").into();
        }
        format!("`{name}` is no file, no folder and no known model; `alula list` shows what there is").into()
    })
}
