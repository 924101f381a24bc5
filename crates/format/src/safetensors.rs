//! Safetensors: one file or shards with an index, and a writer for results.
//!
//! Source: the format section of the safetensors README. Eight bytes of header length, a JSON header, the data.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use alula_tensor::{DType, Storage, Tensor};
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::catalog::{Catalog, MAX_TENSORS, Part, place};
use crate::error::{Error, clip};
use crate::{TensorInfo, json};

/// Longest header and index that are read, the reference implementation's limit.
const MAX_HEADER: u64 = 100_000_000;
const MAX_DIMS: usize = 8;

/// Name, bits of an element, and the type for those that Alula computes with.
const TYPES: &[(&str, usize, Option<DType>)] = &[
    ("F32", 32, Some(DType::F32)),
    ("F16", 16, Some(DType::F16)),
    ("BF16", 16, Some(DType::BF16)),
    ("F64", 64, None),
    ("I64", 64, None),
    ("U64", 64, None),
    ("C64", 64, None),
    ("I32", 32, None),
    ("U32", 32, None),
    ("I16", 16, None),
    ("U16", 16, None),
    ("I8", 8, None),
    ("U8", 8, None),
    ("BOOL", 8, None),
    ("F8_E4M3", 8, None),
    ("F8_E5M2", 8, None),
    ("F8_E8M0", 8, None),
    ("F4", 4, None),
];

/// The tensors of one model, mapped.
#[derive(Clone, Debug)]
pub struct SafeTensors {
    catalog: Catalog,
}

impl SafeTensors {
    /// Opens a `.safetensors` file, or all the shards that a `.safetensors.index.json` lists.
    ///
    /// # Errors
    /// If a file cannot be mapped or breaks the format, or a tensor of the index is nowhere.
    pub fn open(path: impl AsRef<Path>) -> Result<SafeTensors, Error> {
        let path = path.as_ref();
        if path.extension().is_some_and(|e| e == "json") {
            return SafeTensors::open_index(path);
        }
        SafeTensors::of(vec![Part::map(path)?])
    }

    /// Reads a file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// If the bytes break the format.
    pub fn from_bytes(bytes: impl Into<Storage>, name: &str) -> Result<SafeTensors, Error> {
        SafeTensors::of(vec![Part { name: name.to_owned(), storage: bytes.into() }])
    }

    fn open_index(path: &Path) -> Result<SafeTensors, Error> {
        let file = path.display().to_string();
        let Some(bytes) = json::read(path, MAX_HEADER)? else {
            return Err(Error::io(&file, "opened", std::io::ErrorKind::NotFound.into()));
        };
        let weight_map = index(&bytes, &file)?;
        let mut parts = Vec::with_capacity(weight_map.files.len());
        for name in &weight_map.files {
            parts.push(Part::map(&path.with_file_name(&**name)).map_err(|e| {
                let what = format!("names the shard `{}`: {e}", clip(name));
                Error::missing(&file, name, what, "download every shard into one folder")
            })?);
        }
        let model = SafeTensors::of(parts)?;
        for (name, shard) in &weight_map.tensors {
            if model.info(name).is_none_or(|i| i.part != *shard) {
                let (name, shard) = (clip(name), weight_map.files.get(*shard as usize).map_or("", |f| f));
                let what = format!("lists tensor `{name}` in `{}`, which has no such tensor", clip(shard));
                return Err(Error::missing(&file, &name, what, "download index and shards of the same model"));
            }
        }
        Ok(model)
    }

    fn of(parts: Vec<Part>) -> Result<SafeTensors, Error> {
        let mut infos = Vec::new();
        for (no, part) in parts.iter().enumerate() {
            read(part, no as u32, &mut infos)?;
        }
        Ok(SafeTensors { catalog: Catalog::new(parts, infos, |f| f.codes.is_none())? })
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
    /// If there is none, or its type is not F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.catalog.tensor(name)
    }

    /// The bytes of the tensor of this name, of whatever type; `None` if there is none, or its type is of unknown size.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.catalog.tensor_bytes(name)
    }
}

/// The names of the shards that a `.safetensors.index.json` with these bytes lists, each once.
///
/// # Errors
/// If it is no such index, or names a file that would not lie beside it.
pub fn shards(bytes: &[u8], file: &str) -> Result<Vec<String>, Error> {
    Ok(index(bytes, file)?.files.into_iter().map(String::from).collect())
}

fn index(bytes: &[u8], file: &str) -> Result<WeightMap, Error> {
    let Index { weight_map } = serde_json::from_slice(bytes).map_err(|e| json::syntax(file, bytes, 0, &e))?;
    for name in &weight_map.files {
        // A plain name only: an index must not reach files outside of its folder.
        let plain =
            Path::new(&**name).file_name().is_some_and(|n| n == &**name) && !name.contains(['/', '\\', '\0', ':']);
        if !plain {
            let what = format!("names the shard `{}`, which is not a plain file name", clip(name));
            let e = Error::malformed(file, name, what);
            return Err(e.fix("every shard must lie beside the index, this one is not to be trusted"));
        }
    }
    Ok(weight_map)
}

/// Adds the tensors of one file to `infos`.
fn read(part: &Part, no: u32, infos: &mut Vec<TensorInfo>) -> Result<(), Error> {
    let file = part.name.as_str();
    let bad = |what: String| Error::malformed(file, "header", what);
    let (len, rest) = part.storage.split_first_chunk().ok_or_else(|| bad("has no header length".into()).at(0))?;
    let len = u64::from_le_bytes(*len);
    if len > rest.len() as u64 {
        let e = bad(format!("says that its header has {len} bytes but only {} follow", rest.len())).at(0);
        return Err(e.fix("the file is truncated or no safetensors file, download it again"));
    }
    if len > MAX_HEADER {
        return Err(Error::unsupported(
            file,
            "header",
            format_args!("has a header of {len} bytes"),
            format_args!("at most {MAX_HEADER} are read"),
        )
        .at(0));
    }
    let data = 8 + len as usize;
    let header = rest.get(..len as usize).unwrap_or_default();
    let Header(entries) = serde_json::from_slice(header).map_err(|e| json::syntax(file, header, 8, &e))?;
    if infos.len() + entries.len() > MAX_TENSORS {
        let what = format!("brings the tensors to more than {MAX_TENSORS}");
        return Err(Error::unsupported(file, "header", what, "this is no model"));
    }
    infos.reserve_exact(entries.len());
    for (name, Entry { dtype, shape, data_offsets: (start, end) }) in entries {
        let wrong = |what: String| Error::malformed(file, &name, format!("tensor `{}` {what}", clip(&name)));
        let row = TYPES.iter().find(|row| row.0 == &*dtype);
        let elements = shape.0.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bytes =
            usize::try_from(end).ok().zip(usize::try_from(start).ok()).and_then(|(end, start)| end.checked_sub(start));
        let (Some(elements), Some(bytes)) = (elements, bytes) else {
            return Err(wrong(format!("has the impossible shape {:?} at {start}..{end}", shape.0)));
        };
        if let Some((_, bits, _)) = row
            && elements.checked_mul(*bits) != bytes.checked_mul(8)
        {
            return Err(wrong(format!("has shape {:?} of {dtype} but {bytes} bytes", shape.0)));
        }
        let start = usize::try_from(start).ok().and_then(|start| start.checked_add(data));
        let range = Some(place(part, &name, start, bytes)?);
        let (dtype, type_name) = match row {
            Some((name, _, dtype)) => (*dtype, (*name).into()),
            None => (None, clip(&dtype).into()),
        };
        infos.push(TensorInfo { dtype, type_name, shape: shape.0.into(), part: no, range, name });
    }
    Ok(())
}

/// The tensors of a header, in its order.
struct Header(Vec<(Box<str>, Entry)>);

#[derive(Deserialize)]
struct Entry {
    dtype: Box<str>,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`MAX_DIMS`] dimensions, so that a hostile list cannot grow.
struct Shape(Vec<usize>);

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Tensor names with the number of their file, and the files in the order of their first mention.
struct WeightMap {
    tensors: Vec<(Box<str>, u32)>,
    files: Vec<Box<str>>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<Box<str>>()? {
                    if &*name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if entries.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Header(entries))
            }
        }
        d.deserialize_map(V)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_DIMS} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MAX_DIMS {
                        return Err(de::Error::invalid_length(MAX_DIMS + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        d.deserialize_seq(V)
    }
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = WeightMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let (mut tensors, mut files) = (Vec::new(), Vec::<Box<str>>::new());
                let mut numbers = std::collections::HashMap::<Box<str>, u32>::new();
                while let Some((name, file)) = map.next_entry::<Box<str>, Box<str>>()? {
                    if tensors.len() == MAX_TENSORS {
                        return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
                    }
                    let number = *numbers.entry(file).or_insert_with_key(|file| {
                        files.push(file.clone());
                        files.len() as u32 - 1
                    });
                    tensors.push((name, number));
                }
                Ok(WeightMap { tensors, files })
            }
        }
        d.deserialize_map(V)
    }
}

/// Writes F32 tensors, `(name, shape, values)` each, atomically: the file appears whole or not at all.
///
/// # Errors
/// If a number of values is not the product of its shape, or the disk refuses.
pub fn write(path: impl AsRef<Path>, tensors: &[(&str, &[usize], &[f32])]) -> Result<(), Error> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for &(tensor, shape, values) in tensors {
        if shape.iter().product::<usize>() != values.len() {
            let what = format!("tensor `{tensor}` has {} values for shape {shape:?}", values.len());
            return Err(Error::wrong_type(&name, tensor, what, "give as many values as the shape holds"));
        }
        let start = end;
        end += values.len() * 4;
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(tensor.to_owned(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len())); // data aligned to 8

    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(hidden);
    let fill = || {
        let mut out = BufWriter::new(File::create(&temporary)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for value in tensors.iter().flat_map(|t| t.2) {
            out.write_all(&value.to_le_bytes())?;
        }
        out.into_inner()?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    fill().map_err(|e| {
        let _ = std::fs::remove_file(&temporary); // it may not exist
        Error::io(&name, "written", e)
    })
}
