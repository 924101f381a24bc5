//! The bytes of one GGUF file: header, key-value pairs, tensor list. Every count is held against the bytes that are
//! left before anything is allocated for it.

use super::metadata::{Entry, Items, Kind, Metadata};
use super::types;
use crate::catalog::{MAX_TENSORS, Part, TensorInfo, place};
use crate::error::{Error, clip};

/// Limits on what has no business being large; published models stay far below.
const MAX_KEYS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 16;
const MAX_DIMS: usize = 4;
const MAX_DEPTH: usize = 8;

/// Smallest encodings: key of one letter, type and a byte; empty name, no dimensions, type and offset; a string's
/// length; an array's type and count.
const MIN_PAIR: usize = 14;
const MIN_TENSOR: usize = 24;
const MIN_STR: usize = 8;
const MIN_ARRAY: usize = 12;

/// One file, read as far as its data.
pub(super) struct File {
    pub(super) part: Part,
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) infos: Vec<TensorInfo>,
}

pub(super) fn file(part: Part) -> Result<File, Error> {
    let (name, bytes) = (part.name.as_str(), &*part.storage);
    let mut cursor = Cursor { bytes, at: 0, file: name };
    let version = header(&mut cursor)?;
    let tensors = cursor.u64("tensor count")?;
    let keys = cursor.u64("metadata count")?;
    let keys = cursor.count("metadata keys", keys, MIN_PAIR, MAX_KEYS)?;
    let tensors = cursor.count("tensors", tensors, MIN_TENSOR, MAX_TENSORS)?;

    let mut entries = Vec::with_capacity(keys);
    for _ in 0..keys {
        entries.push(pair(&mut cursor)?);
    }
    let metadata = Metadata::new(name, part.storage.clone(), entries)?;
    let alignment = metadata.find::<u32>("general.alignment")?.unwrap_or(32) as usize;
    if !alignment.is_power_of_two() {
        let what = format!("`general.alignment` is {alignment}, which is no power of two");
        return Err(Error::malformed(name, "general.alignment", what));
    }

    let mut infos = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        infos.push(tensor(&mut cursor, alignment)?);
    }
    // The data begin after the last description; until here the ranges counted from there.
    let data = cursor.at.checked_next_multiple_of(alignment);
    for info in &mut infos {
        if let Some(range) = &info.range {
            let start = data.and_then(|data| data.checked_add(range.start));
            info.range = Some(place(&part, &info.name, start, range.len())?);
        }
    }
    Ok(File { version, metadata, infos, part })
}

fn header(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let file = cursor.file;
    let unsupported = |what: String, fix: &str| Err(Error::unsupported(file, "version", what, fix));
    match cursor.bytes.get(..4) {
        Some(b"GGUF") => {}
        Some(b"FUGG") => return unsupported("is a big-endian GGUF file".into(), "get the little-endian file"),
        Some(b"ggjt" | b"tjgg" | b"lmgg" | b"fmgg") => {
            return unsupported("is in a format older than GGUF".into(), "convert the original model to GGUF");
        }
        _ => {
            let e = Error::malformed(file, "magic", "does not begin with `GGUF`").at(0);
            return Err(e.fix("this is not a GGUF file, or the download was not the file itself"));
        }
    }
    cursor.at = 4;
    match cursor.u32("version")? {
        v @ 2..=3 => Ok(v),
        1 => unsupported("is GGUF version 1".into(), "convert the original model again; versions 2 and 3 work"),
        v if v & 0xffff == 0 && v != 0 => unsupported("is a big-endian GGUF file".into(), "get the little-endian file"),
        v => unsupported(format!("is GGUF version {v}"), "versions 2 and 3 work"),
    }
}

fn pair(cursor: &mut Cursor<'_>) -> Result<Entry, Error> {
    let start = cursor.at;
    let key = cursor.name("metadata key")?;
    if key.is_empty() {
        return Err(Error::malformed(cursor.file, "metadata key", "a metadata key is empty").at(start));
    }
    let kind = cursor.kind(key)?;
    let (at, items) = match kind {
        Kind::Array => {
            let items = cursor.array(key, MAX_DEPTH, true)?;
            (items.at, Some(items))
        }
        Kind::Str => {
            let at = cursor.at;
            cursor.str(key)?;
            (at, None)
        }
        _ => (cursor.at, cursor.take(kind.size(), key).map(|_| None)?),
    };
    Ok(Entry { key: key.into(), kind, at, items })
}

/// A tensor's description; its range counts from the beginning of the data.
fn tensor(cursor: &mut Cursor<'_>, alignment: usize) -> Result<TensorInfo, Error> {
    let (file, at) = (cursor.file, cursor.at);
    let name = cursor.name("tensor name")?;
    let wrong = |what: String| Err(Error::malformed(file, name, format!("tensor `{}` {what}", clip(name))).at(at));
    let dims = cursor.u32(name)? as usize;
    if dims > MAX_DIMS {
        return wrong(format!("has {dims} dimensions, more than {MAX_DIMS}"));
    }
    let mut shape = Vec::with_capacity(dims);
    for _ in 0..dims {
        match usize::try_from(cursor.u64(name)?) {
            Ok(0) => return wrong("has a dimension of 0".into()),
            Ok(d) if d <= isize::MAX as usize => shape.push(d),
            _ => return wrong("has a negative or impossible dimension".into()),
        }
    }
    let cols = shape.first().copied().unwrap_or(1);
    shape.reverse();
    let ty = types::of(cursor.u32(name)?);
    let offset = cursor.u64(name)?;
    let Some(elements) = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) else {
        return wrong(format!("has the impossible shape {shape:?}"));
    };
    let bytes = match ty.block {
        Some((block, _)) if !cols.is_multiple_of(block) => {
            return wrong(format!("has rows of {cols} elements, which are not whole blocks of {block} ({})", ty.name));
        }
        Some((block, bytes)) => match (elements / block).checked_mul(bytes) {
            None => return wrong(format!("has the impossible shape {shape:?}")),
            bytes => bytes,
        },
        None => None,
    };
    if !offset.is_multiple_of(alignment as u64) {
        return wrong(format!("lies at {offset}, which is not aligned to {alignment}"));
    }
    let range = match (bytes, usize::try_from(offset)) {
        (None, _) => None,
        (Some(bytes), Ok(start)) if start.checked_add(bytes).is_some() => Some(start..start + bytes),
        _ => return wrong(format!("lies at the impossible offset {offset}")),
    };
    let (name, shape) = (name.into(), shape.into());
    Ok(TensorInfo { name, dtype: ty.dtype, type_name: ty.name, shape, part: 0, range })
}

pub(crate) fn too_many(file: &str, what: &str, n: u64, max: usize) -> Error {
    Error::unsupported(file, what, format_args!("says that it has {n} {what}"), format_args!("at most {max} are read"))
}

/// A place in a file that only moves forward over bytes that are there.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    file: &'a str,
}

impl<'a> Cursor<'a> {
    /// The array whose item type stands at `at` of a file that was read before.
    pub(super) fn reread(bytes: &'a [u8], at: usize) -> Option<Items> {
        Cursor { bytes, at, file: "" }.array("", MAX_DEPTH, true).ok()
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    fn take(&mut self, n: usize, field: &str) -> Result<&'a [u8], Error> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(self.ends(n, field)),
        }
    }

    #[cold]
    fn ends(&self, n: usize, field: &str) -> Error {
        let what = format!("`{}` needs {n} bytes but the file ends after {}", clip(field), self.left());
        Error::malformed(self.file, field, what).at(self.at)
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        let bytes = self.take(4, field)?.first_chunk().ok_or_else(|| self.ends(4, field))?;
        Ok(u32::from_le_bytes(*bytes))
    }

    #[inline]
    fn u64(&mut self, field: &str) -> Result<u64, Error> {
        let bytes = self.take(8, field)?.first_chunk().ok_or_else(|| self.ends(8, field))?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn kind(&mut self, field: &str) -> Result<Kind, Error> {
        let (at, id) = (self.at, self.u32(field)?);
        Kind::from_id(id).ok_or_else(|| {
            let field = clip(field);
            Error::malformed(self.file, &field, format!("`{field}` has the unknown value type {id}")).at(at)
        })
    }

    /// A count of things that take at least `min` bytes each.
    fn count(&self, what: &str, n: u64, min: usize, max: usize) -> Result<usize, Error> {
        match usize::try_from(n) {
            Ok(n) if n <= self.left() / min && n <= max => Ok(n),
            Ok(n) if n <= self.left() / min => Err(too_many(self.file, what, n as u64, max)),
            _ => {
                let left = self.left();
                let what_is = format!("says that it has {n} {} but only {left} bytes follow", clip(what));
                Err(Error::malformed(self.file, what, what_is).at(self.at))
            }
        }
    }

    /// A string's bytes, not checked for UTF-8.
    #[inline]
    fn raw(&mut self, field: &str) -> Result<&'a [u8], Error> {
        let at = self.at;
        let n = self.u64(field)?;
        let left = self.left();
        usize::try_from(n).ok().filter(|&n| n <= left).map(|n| self.take(n, field)).unwrap_or_else(|| {
            let what = format!("`{}` is a string of {n} bytes but only {left} follow", clip(field));
            Err(Error::malformed(self.file, field, what).at(at))
        })
    }

    fn str(&mut self, field: &str) -> Result<&'a str, Error> {
        let at = self.at;
        std::str::from_utf8(self.raw(field)?).map_err(|e| {
            let (field, place) = (clip(field), at + 8 + e.valid_up_to());
            Error::malformed(self.file, &field, format!("`{field}` is not UTF-8")).at(place)
        })
    }

    fn name(&mut self, field: &str) -> Result<&'a str, Error> {
        let at = self.at;
        let name = self.str(field)?;
        if name.len() >= MAX_NAME {
            let what = format!("a {field} is {} bytes long, more than {MAX_NAME}", name.len());
            return Err(Error::malformed(self.file, field, what).at(at));
        }
        Ok(name)
    }

    /// Steps over an array; with `keep`, remembers where items of varying size begin.
    fn array(&mut self, field: &str, depth: usize, keep: bool) -> Result<Items, Error> {
        let start = self.at;
        let (kind, n) = (self.kind(field)?, self.u64(field)?);
        let min = match kind {
            Kind::Str => MIN_STR,
            Kind::Array => MIN_ARRAY,
            _ => kind.size(),
        };
        let (at, left) = (self.at, self.left());
        let count = usize::try_from(n).ok().filter(|&n| n <= left / min).ok_or_else(|| {
            let what = format!("`{}` is an array of {n} items but only {left} bytes follow", clip(field));
            Error::malformed(self.file, field, what).at(at)
        })?;
        let mut starts = Vec::new();
        if !matches!(kind, Kind::Str | Kind::Array) {
            self.take(count * min, field)?; // no overflow: the product is at most `left`
            return Ok(Items { kind, count, at, starts: starts.into() });
        }
        if depth == 0 {
            let what = format!("`{}` holds arrays in arrays more than {MAX_DEPTH} deep", clip(field));
            return Err(Error::malformed(self.file, field, what).at(start));
        }
        if keep {
            starts.reserve_exact(count);
        }
        for _ in 0..count {
            if keep {
                let start = u32::try_from(self.at - at).map_err(|_| {
                    let what = format!("`{}` is an array of more than 4 GiB", clip(field));
                    Error::unsupported(self.file, field, what, "this is no vocabulary")
                })?;
                starts.push(start);
            }
            if kind == Kind::Str {
                self.raw(field)?;
            } else {
                self.array(field, depth - 1, false)?;
            }
        }
        Ok(Items { kind, count, at, starts: starts.into() })
    }
}
