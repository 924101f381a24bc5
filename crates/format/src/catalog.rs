//! The tensors of one model, over one or more mapped files.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use alula_tensor::{FORMATS, Format, Storage, Tensor};

use crate::error::{DOWNLOAD, Error, clip};

/// The most tensors that a model may have; the largest published ones have about 140,000.
pub(crate) const MAX_TENSORS: usize = 1 << 18;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub(crate) name: Box<str>,
    pub(crate) dtype: Option<alula_tensor::DType>,
    pub(crate) type_name: Cow<'static, str>,
    pub(crate) shape: Box<[usize]>,
    pub(crate) part: u32,
    pub(crate) range: Option<Range<usize>>,
}

impl TensorInfo {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The element type, if Alula can compute with it.
    pub fn dtype(&self) -> Option<alula_tensor::DType> {
        self.dtype
    }

    /// The element type as the file's format calls it, also where Alula has no use for it.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The product of the dimensions.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where in its file the tensor lies; `None` if its type is of unknown size.
    pub fn range(&self) -> Option<Range<usize>> {
        self.range.clone()
    }

    /// The file it is in, counted from 0 over the parts of a split model.
    pub fn part(&self) -> usize {
        self.part as usize
    }
}

/// A mapped file and the name it has in messages.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) storage: Storage,
}

impl Part {
    /// Maps a plain file.
    pub(crate) fn map(path: &Path) -> Result<Part, Error> {
        let name = path.display().to_string();
        let io = |e| Error::io(&name, "opened", e);
        let kind = std::fs::metadata(path).map_err(io)?.file_type();
        if !kind.is_file() {
            let what = if kind.is_dir() { "is a folder, not a file" } else { "is not a plain file" };
            return Err(Error::unsupported(&name, "", what, "give the path of a model file"));
        }
        let storage = Storage::map(path).map_err(io)?;
        Ok(Part { name, storage })
    }
}

/// Tensors by name over the files that hold them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) parts: Vec<Part>,
    pub(crate) infos: Vec<TensorInfo>,
    sorted: Vec<u32>,
    /// The element types that this kind of file can hold, for messages.
    works: Vec<&'static str>,
}

impl Catalog {
    /// Checks what one tensor's description cannot show: that no name comes twice and no bytes belong to two tensors.
    /// `holds` tells which formats this kind of file can have.
    pub(crate) fn new(
        parts: Vec<Part>,
        infos: Vec<TensorInfo>,
        holds: impl Fn(&Format) -> bool,
    ) -> Result<Catalog, Error> {
        let works = FORMATS.iter().filter(|f| holds(f)).map(|f| f.name).collect();
        let mut catalog = Catalog { parts, infos, sorted: Vec::new(), works };
        let infos = &catalog.infos;
        catalog.sorted = sorted_by(infos, |i| i.name()).map_err(|twice| {
            let name = clip(twice.name());
            let what = format_args!("tensor `{name}` comes twice");
            Error::malformed(catalog.file(twice), twice.name(), what).fix("convert the model again")
        })?;
        let mut placed: Vec<u32> = (0..infos.len() as u32).collect();
        placed.retain(|&i| infos[i as usize].range.as_ref().is_some_and(|r| !r.is_empty()));
        let place = |i: u32| infos[i as usize].range.as_ref().map(|r| (infos[i as usize].part, r.start, r.end));
        placed.sort_unstable_by_key(|&i| place(i));
        for pair in placed.windows(2) {
            if let (Some((part, _, end)), Some((next_part, start, _))) = (place(pair[0]), place(pair[1]))
                && part == next_part
                && start < end
            {
                let [first, second] = [pair[0], pair[1]].map(|i| &infos[i as usize]);
                let (a, b) = (clip(&first.name), clip(&second.name));
                let what = format_args!("tensors `{a}` and `{b}` share bytes");
                return Err(Error::malformed(catalog.file(second), &second.name, what).at(start));
            }
        }
        Ok(catalog)
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        find(&self.infos, &self.sorted, name, |i| i.name())
    }

    /// The name of the file that holds `info`.
    fn file(&self, info: &TensorInfo) -> &str {
        self.parts.get(info.part()).map_or("", |p| &p.name)
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let first = self.parts.first().map_or("", |p| &p.name);
        let info = self.info(name).ok_or_else(|| {
            let what = format!("has no tensor `{}`", clip(name));
            Error::missing(first, name, what, "the file is not the whole model, or not the architecture it says it is")
        })?;
        let file = self.file(info);
        let (Some(dtype), Some(range), Some(part)) = (info.dtype, info.range(), self.parts.get(info.part())) else {
            let what = format!("tensor `{}` is of type {}, which Alula does not read", clip(name), info.type_name);
            return Err(Error::unsupported(file, name, what, format!("these work: {}", self.works.join(", "))));
        };
        Tensor::new(dtype, info.shape.to_vec(), part.storage.clone(), range)
            .map_err(|e| Error::malformed(file, name, format!("tensor `{}`: {e}", clip(name))))
    }

    pub(crate) fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
        let info = self.info(name)?;
        self.parts.get(info.part())?.storage.get(info.range()?)
    }

    /// Every file, and its bytes before the first tensor.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&Storage, &[u8])> {
        self.parts.iter().enumerate().map(|(no, part)| {
            let ranges = self.infos.iter().filter(|i| i.part() == no).filter_map(|i| i.range.as_ref());
            let end = ranges.map(|r| r.start).min().unwrap_or(part.storage.len());
            (&part.storage, &part.storage[..end])
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.storage.len() as u64).sum()
    }
}

/// Checks a tensor's place in its file and gives it.
pub(crate) fn place(file: &Part, name: &str, start: Option<usize>, bytes: usize) -> Result<Range<usize>, Error> {
    let (len, name_clipped) = (file.storage.len(), clip(name));
    let end = start.and_then(|s| Some((s, s.checked_add(bytes)?)));
    match end {
        Some((start, end)) if end <= len => Ok(start..end),
        Some((_, end)) => Err(Error::malformed(
            &file.name,
            name,
            format_args!("tensor `{name_clipped}` ends at byte {end} but the file has {len} bytes"),
        )
        .fix("the file is truncated, download it again")),
        None => Err(Error::malformed(&file.name, name, format_args!("tensor `{name_clipped}` is of impossible size"))
            .fix(DOWNLOAD)),
    }
}

/// The indices of `items` in the order of their keys, or an item whose key another has too.
pub(crate) fn sorted_by<T>(items: &[T], key: impl Fn(&T) -> &str) -> Result<Vec<u32>, &T> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    let key = |i: u32| key(&items[i as usize]);
    order.sort_unstable_by(|&a, &b| key(a).cmp(key(b)).then(a.cmp(&b)));
    match order.windows(2).find(|w| key(w[0]) == key(w[1])) {
        Some(pair) => Err(&items[pair[1] as usize]),
        None => Ok(order),
    }
}

/// The item of this key, through the order that [`sorted_by`] gave.
pub(crate) fn find<'a, T>(items: &'a [T], order: &[u32], key: &str, of: impl Fn(&T) -> &str) -> Option<&'a T> {
    let at = order.binary_search_by(|&i| of(&items[i as usize]).cmp(key)).ok()?;
    items.get(*order.get(at)? as usize)
}
