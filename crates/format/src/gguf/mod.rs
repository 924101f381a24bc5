//! GGUF, versions 2 and 3, in one file or several.
//!
//! Source: `docs/gguf.md` in ggml. Little-endian only. Shapes come out outermost first, the reverse of `ne` in the file.

mod metadata;
mod read;
mod types;

use std::path::{Path, PathBuf};

use alula_tensor::{Storage, Tensor};

use crate::catalog::{Catalog, MAX_TENSORS, Part};
use crate::{Error, TensorInfo};

pub use metadata::{Array, FromValue, Metadata, Strs, Value};

/// An open GGUF model.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// The key-value pairs, of the first file if the model is split.
    pub metadata: Metadata,
    version: u32,
    catalog: Catalog,
}

impl Gguf {
    /// Opens a file; if it is the first part of a split model, its siblings too.
    ///
    /// # Errors
    /// If a file cannot be mapped, breaks the format, or is a later part of a split model.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let first = read::file(Part::map(path)?)?;
        let Some(split) = Split::of(&first)? else { return Gguf::of(vec![first]) };
        let siblings = split.siblings(path, &first)?;
        let mut files = vec![first];
        let mut tensors = files[0].infos.len();
        for (no, sibling) in siblings.iter().enumerate().skip(1) {
            let missing = |e: Error| if e.kind() == crate::ErrorKind::Io { split.missing(e, no) } else { e };
            let mut file = read::file(Part::map(sibling).map_err(missing)?)?;
            match Split::of(&file)? {
                Some(s) if (s.no, s.count) == (no, split.count) => {}
                _ => {
                    let what = format!("is not part {} of {} of this model", no + 1, split.count);
                    return Err(Error::malformed(&file.part.name, "split.no", what));
                }
            }
            file.infos.iter_mut().for_each(|info| info.part = no as u32);
            tensors += file.infos.len();
            if tensors > MAX_TENSORS {
                return Err(read::too_many(&file.part.name, "tensors", tensors as u64, MAX_TENSORS));
            }
            files.push(file);
        }
        if let Some(want) = split.tensors.filter(|&want| want != tensors as u64) {
            let what = format!("the parts hold {tensors} tensors but `split.tensors.count` says {want}");
            return Err(Error::malformed(&files[0].part.name, "split.tensors.count", what));
        }
        Gguf::of(files)
    }

    /// Reads a model that is in memory; `name` stands for the file in messages.
    ///
    /// # Errors
    /// If the bytes break the format or are one part of a split model.
    pub fn from_bytes(bytes: impl Into<Storage>, name: &str) -> Result<Gguf, Error> {
        let file = read::file(Part { name: name.to_owned(), storage: bytes.into() })?;
        if let Some(split) = Split::of(&file)? {
            let what = format!("is part {} of {} of a split model", split.no + 1, split.count);
            return Err(Error::unsupported(name, "split.count", what, "open the first part by its path"));
        }
        Gguf::of(vec![file])
    }

    fn of(files: Vec<read::File>) -> Result<Gguf, Error> {
        let (mut parts, mut infos, mut head) = (Vec::new(), Vec::new(), None);
        for file in files {
            parts.push(file.part);
            if infos.is_empty() {
                infos = file.infos
            } else {
                infos.extend(file.infos)
            }
            head.get_or_insert((file.metadata, file.version));
        }
        let (metadata, version) = head.ok_or_else(|| Error::malformed("", "", "no file"))?;
        Ok(Gguf { metadata, version, catalog: Catalog::new(parts, infos, |_| true)? })
    }

    /// The format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of all files together.
    pub fn file_size(&self) -> u64 {
        self.catalog.bytes()
    }

    /// Every file, and its bytes before the first tensor: all that says what its tensors are.
    pub fn heads(&self) -> impl Iterator<Item = (&Storage, &[u8])> {
        self.catalog.heads()
    }

    /// How many files the model is in.
    pub fn parts(&self) -> usize {
        self.catalog.parts.len()
    }

    /// The tensors, in the order of the files, also those of types that Alula cannot use.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.catalog.infos.iter()
    }

    /// What the file says about one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.catalog.info(name)
    }

    /// The tensor of this name, a view of the mapped file.
    ///
    /// # Errors
    /// If there is none, or its type is not one of [`alula_tensor::FORMATS`].
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.catalog.tensor(name)
    }
}

/// What a part of a split model says about itself.
struct Split {
    no: usize,
    count: usize,
    tensors: Option<u64>,
}

impl Split {
    /// `None` for a model in one file.
    fn of(file: &read::File) -> Result<Option<Split>, Error> {
        let Some(count) = file.metadata.find::<u16>("split.count")?.filter(|&n| n > 1) else { return Ok(None) };
        let no = file.metadata.find::<u16>("split.no")?.unwrap_or(0);
        let tensors = file.metadata.find("split.tensors.count")?;
        Ok(Some(Split { no: no.into(), count: count.into(), tensors }))
    }

    /// The paths of all parts, `-00001-of-0000N.gguf` and so on, from the path of the first.
    fn siblings(&self, path: &Path, file: &read::File) -> Result<Vec<PathBuf>, Error> {
        let suffix = |no: usize| format!("-{:05}-of-{:05}.gguf", no + 1, self.count);
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let error = |what, fix: String| Err(Error::unsupported(&file.part.name, "split.no", what, fix));
        let Some(stem) = name.strip_suffix(&suffix(self.no)) else {
            let what = format!("is part {} of {} of a split model under another name", self.no + 1, self.count);
            return error(what, format!("rename it so that it ends in `{}`", suffix(self.no)));
        };
        if self.no != 0 {
            let what = format!("is part {} of {}", self.no + 1, self.count);
            return error(what, format!("open the first part, `{stem}{}`", suffix(0)));
        }
        Ok((0..self.count).map(|no| path.with_file_name(format!("{stem}{}", suffix(no)))).collect())
    }

    fn missing(&self, e: Error, no: usize) -> Error {
        let file = e.file().to_owned();
        let what = format!("part {} of {} of the model cannot be opened", no + 1, self.count);
        Error::missing(&file, "split.count", what, "download every part into one folder")
    }
}
