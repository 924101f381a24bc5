//! From the graph's weight names to a file's tensors, with the load-time fix-ups that dialects need.
//!
//! Weights have GGUF's names. A [`Name`] row says what a tensor is called in a Hugging Face folder and what must be
//! done to it; a graph never sees the difference.

use crate::lora::{self, Delta};
use crate::{ModelError, fp8};
use alula_format::TensorInfo;
use alula_format::gguf::Gguf;
use alula_format::safetensors::SafeTensors;
use alula_graph::WeightSource;
use alula_tensor::{DType, Storage, Tensor};
use std::collections::HashMap;
use std::ops::Range;

/// What is done to a tensor when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Nothing.
    None,
    /// Matrices are stored `[in, out]` (GPT-2's Conv1D), those of stacks too (Llama 4's experts).
    Transpose,
    /// Norm weights are stored less 1 (Gemma).
    PlusOne,
    /// Of a fused matrix the halves stand the other way round (GTE).
    Halves,
    /// Stored as the logarithm of what is subtracted (Mamba's A).
    NegExp,
}

/// One row: a tensor's GGUF name and its name in a Hugging Face folder, both without `.weight` or `.bias`, which not all have
/// there, or both whole. `{}` is the layer, then the expert.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub &'static str, pub &'static str, pub Fix);

/// The tensors of a file or folder.
pub(crate) enum Store {
    Gguf(Gguf),
    Safe(SafeTensors),
}

impl Store {
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Store::Gguf(g) => g.info(name),
            Store::Safe(s) => s.info(name),
        }
    }
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, alula_format::Error> {
        match self {
            Store::Gguf(g) => g.tensor(name),
            Store::Safe(s) => s.tensor(name),
        }
    }
    fn is_mapped(&self) -> bool {
        match self {
            Store::Gguf(g) => g.heads().all(|(file, _)| file.is_mapped()),
            Store::Safe(s) => s.heads().all(|(file, _)| file.is_mapped()),
        }
    }
}

/// The name under which a Hugging Face folder has a tensor of that GGUF name, and its fix-up: the first that `is` there.
pub(crate) fn foreign(tables: &[&[Name]], name: &str, is: impl Fn(&str) -> bool) -> Option<(String, Fix)> {
    let (whole, layer) = match name.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
        Some((layer, rest)) => (format!("blk.{{}}.{rest}"), layer),
        None => (name.to_owned(), ""),
    };
    let (stem, suffix) = whole.rsplit_once('.')?;
    // Experts have numbers too.
    let (stem, expert) = match stem.rsplit_once('.') {
        Some((stem, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => (format!("{stem}.{{}}"), n),
        _ => (stem.to_owned(), ""),
    };
    // The first BERT files have TensorFlow's names of a norm's weights; some tensors have no suffix at all.
    let old = if suffix == "weight" { ".gamma" } else { ".beta" };
    let (suffixes, none) = ([&format!(".{suffix}"), old, ""], [""]);
    let rows = tables.iter().copied().flatten().filter(|n| n.0 == whole || n.0 == stem);
    let all = rows.flat_map(|row| {
        let suffixes: &[&str] = if row.0 == whole { &none } else { &suffixes };
        suffixes.iter().map(move |suffix| (row, suffix))
    });
    // Base models are saved without the head model's prefix; multimodal ones add theirs.
    all.into_iter().find_map(|(row, suffix)| {
        let full = format!("{}{suffix}", row.1.replacen("{}", layer, 1).replacen("{}", expert, 1));
        let bare = full.split_once('.').map_or("", |(_, rest)| rest).to_owned();
        let nested = [format!("language_model.{full}"), format!("model.language_model.{bare}")];
        let other = format!("roberta.{bare}"); // whose tensors are otherwise called as BERT's
        let name = [full, bare].into_iter().chain(nested).chain([other]).find(|n| is(n))?;
        Some((name, row.2))
    })
}

/// Which rows of a matrix, or of all matrices of a stack one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All.
    All,
    /// So many as the weight has, from this one on.
    From(usize),
    /// From row `first` of every `of` rows on, as many as make up the weight.
    Each { first: usize, len: usize, of: usize },
    /// The transpose of so many rows from `first` on.
    Transposed(usize),
}

/// A graph weight.
enum Recipe {
    Part(Part),
    Ones(Vec<usize>),
    /// An adapter's.
    Given(Tensor),
}

/// A tensor of the file, or rows of it.
pub(crate) struct Part {
    /// GGUF's name.
    pub(crate) name: String,
    pub(crate) tensor: String,
    pub(crate) fix: Fix,
    pub(crate) rows: Rows,
    pub(crate) shape: Vec<usize>,
}

/// Whether numbers of one shape, in their order, are those of another: it differs by dimensions of 1, or one of them is a
/// plain list.
fn same_numbers(a: &[usize], b: &[usize]) -> bool {
    let count = |s: &[usize]| s.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let more = |s: &[usize]| s.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
    let (x, y) = (more(a), more(b));
    x == y || (x.len() < 2 || y.len() < 2) && count(a).is_some() && count(a) == count(b)
}

/// A model's weights.
pub(crate) struct Weights {
    pub(crate) file: String,
    pub(crate) store: Store,
    pub(crate) names: &'static [&'static [Name]],
    /// Rows and columns of a block of FP8.
    pub(crate) block: (usize, usize),
    recipes: HashMap<String, Recipe>,
    /// What is added to graph weights when they are read.
    merged: HashMap<String, Vec<Delta>>,
}

impl Weights {
    pub(crate) fn new(file: String, store: Store, names: &'static [&'static [Name]]) -> Weights {
        Weights { file, store, names, block: fp8::BLOCK, recipes: HashMap::new(), merged: HashMap::new() }
    }

    /// Whether the tensors are a GGUF file's.
    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.store, Store::Gguf(_))
    }

    /// The file's name for a tensor, and its fix-up, if the file has it.
    fn locate(&self, name: &str) -> Option<(String, Fix)> {
        if self.names.is_empty() {
            // They are GGUF's own. Some norms of Falcon-H1 lack the ending.
            let names = [Some(name), name.strip_suffix(".weight")];
            let found = names.into_iter().flatten().find(|n| self.store.info(n).is_some());
            return found.map(|n| (n.to_owned(), Fix::None));
        }
        foreign(self.names, name, |n| self.store.info(n).is_some())
    }

    /// Shape of a tensor by its GGUF name, after the fix-up.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (tensor, fix) = self.locate(name)?;
        let mut shape = self.store.info(&tensor)?.shape().to_vec();
        if let (Fix::Transpose, [.., rows, cols]) = (fix, &mut shape[..]) {
            std::mem::swap(rows, cols);
        }
        Some(shape)
    }

    /// Values of a small tensor.
    pub(crate) fn values(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        match self.locate(name) {
            Some((tensor, _)) => Ok(Some(self.store.tensor(&tensor)?.to_f32())),
            None => Ok(None),
        }
    }

    /// The error for a tensor that is not there.
    pub(crate) fn missing(&self, name: &str) -> ModelError {
        let why = "is missing; the file is not complete, or is of another architecture than it says".into();
        ModelError::Tensor { file: self.file.clone(), tensor: name.to_owned(), why }
    }

    /// Declares a graph weight of that shape: rows of the tensor `name`. Returns its name in the graph.
    pub(crate) fn declare(&mut self, name: &str, shape: &[usize], rows: Rows) -> Result<String, ModelError> {
        let (key, part) = self.part(name, shape, rows)?;
        self.recipes.insert(key.clone(), Recipe::Part(part));
        Ok(key)
    }

    /// Declares a weight that is an adapter's.
    pub(crate) fn give(&mut self, name: String, tensor: Tensor) {
        self.recipes.insert(name, Recipe::Given(tensor));
    }

    /// Adds a product to a graph weight when it is read.
    pub(crate) fn merge(&mut self, weight: String, delta: Delta) {
        self.merged.entry(weight).or_default().push(delta);
    }

    /// What a graph weight is of the file, if it is of the file.
    pub(crate) fn recipe(&self, weight: &str) -> Option<&Part> {
        match self.recipes.get(weight)? {
            Recipe::Part(part) => Some(part),
            _ => None,
        }
    }

    /// Declares a weight of ones.
    pub(crate) fn ones(&mut self, shape: &[usize]) -> String {
        let key = format!("ones{shape:?}");
        self.recipes.insert(key.clone(), Recipe::Ones(shape.to_vec()));
        key
    }

    fn part(&self, name: &str, shape: &[usize], rows: Rows) -> Result<(String, Part), ModelError> {
        let (Some((tensor, fix)), Some(have)) = (self.locate(name), self.shape(name)) else {
            return Err(self.missing(name));
        };
        let key = match rows {
            Rows::All => name.to_owned(),
            Rows::From(first) => format!("{name}[{first}..{}]", first.saturating_add(shape[0])),
            Rows::Each { first, len, of } => format!("{name}[{first}..{} of {of}]", first.saturating_add(len)),
            Rows::Transposed(first) => format!("{name}[{first}..{}]ᵀ", first + shape[shape.len() - 1]),
        };
        let all: usize = have.iter().product();
        let (n, k) = match *shape {
            [n] => (n, 1),
            [n, k] => (n, k),
            _ => (0, 0),
        };
        let fits = match rows {
            Rows::All => same_numbers(&have, shape),
            Rows::From(first) => {
                // Transposed matrices of a stack are taken one at a time.
                let each = have.iter().rev().nth(1).filter(|_| fix == Fix::Transpose).copied().unwrap_or(usize::MAX);
                have.last() == Some(&k).filter(|_| shape.len() > 1).or(have.last())
                    && first.saturating_add(n).saturating_mul(k) <= all
                    && each > 0
                    && (first % each).saturating_add(n) <= each
            }
            Rows::Each { first, len, of } => {
                have.last() == Some(&k)
                    && first.saturating_add(len) <= of
                    && n.is_multiple_of(len)
                    && (n / len).saturating_mul(of).saturating_mul(k) == all
            }
            Rows::Transposed(first) => have.last() == Some(&n) && first.saturating_add(k).saturating_mul(n) <= all,
        };
        if !fits {
            let part = if rows == Rows::All { String::new() } else { format!(" (`{key}`)") };
            let why = format!("has the shape {have:?}, but the configuration asks for {shape:?}{part}");
            return Err(ModelError::Tensor { file: self.file.clone(), tensor, why });
        }
        Ok((key, Part { name: name.to_owned(), tensor, fix, rows, shape: shape.to_vec() }))
    }

    /// Whether the parts of a fused tensor, of `rows` rows together, are all of it.
    pub(crate) fn whole(&self, name: &str, rows: usize) -> Result<(), ModelError> {
        match (self.locate(name), self.shape(name)) {
            (Some((tensor, _)), Some(have)) if have.iter().rev().skip(1).product::<usize>() != rows => {
                let why = format!("has the shape {have:?}, but the configuration asks for {rows} rows");
                Err(ModelError::Tensor { file: self.file.clone(), tensor, why })
            }
            _ => Ok(()),
        }
    }

    fn read(&self, part: &Part) -> Result<Tensor, String> {
        let mut rows = part.rows;
        let t = match &self.store {
            Store::Safe(s) if s.info(&part.tensor).is_some_and(|i| i.type_name() == fp8::TYPE) => {
                // Only what is wanted is expanded: the heads of latent attention are parts of one matrix.
                let want = match (&mut rows, &part.shape[..]) {
                    (Rows::From(first), [n, _]) | (Rows::Transposed(first), [_, n]) if part.fix == Fix::None => {
                        let start = std::mem::take(first);
                        Some(start..start + n)
                    }
                    _ => None,
                };
                fp8::matrix(s, &part.tensor, self.block, want).map_err(|why| format!("`{}` {why}", part.tensor))?
            }
            store => store.tensor(&part.tensor).map_err(|e| e.to_string())?,
        };
        let each = |f: fn(f32) -> f32| {
            let values: Vec<f32> = t.to_f32().into_iter().map(f).collect();
            Tensor::from_f32(t.shape().to_vec(), &values)
        };
        let t = match part.fix {
            Fix::Transpose if t.shape().len() == 2 => transpose(&t),
            Fix::Transpose if t.shape().len() == 3 => match rows {
                Rows::From(first) => return part.of_stack(&t, first).map_err(|e| e.to_string()),
                _ => Ok(t),
            },
            Fix::PlusOne => each(|w| 1.0 + w),
            Fix::NegExp => each(|w| -(libm::exp(f64::from(w)) as f32)),
            _ => Ok(t),
        };
        t.and_then(|t| part.take(t, rows)).map_err(|e| e.to_string())
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        match self.recipes.get(name).ok_or("no such weight")? {
            Recipe::Part(part) => match self.merged.get(name) {
                Some(deltas) => lora::added(deltas, &self.read(part)?),
                None => self.read(part),
            },
            Recipe::Given(t) => Ok(t.clone()),
            Recipe::Ones(shape) => {
                Tensor::from_f32(shape.clone(), &vec![1.0; shape.iter().product()]).map_err(|e| e.to_string())
            }
        }
    }

    fn kind(&self, name: &str) -> Result<(DType, bool), String> {
        let part = match self.recipes.get(name).ok_or("no such weight")? {
            Recipe::Part(part) => part,
            Recipe::Ones(_) => return Ok((DType::F32, false)),
            Recipe::Given(t) => return Ok((t.dtype(), t.storage().0.is_mapped())),
        };
        let info = self.store.info(&part.tensor).ok_or("no such tensor")?;
        if info.type_name() == fp8::TYPE {
            return Ok((DType::F32, false));
        }
        let Some(dtype) = info.dtype() else {
            return Err(format!("tensor `{}` is of type {}, which Alula does not read", part.tensor, info.type_name()));
        };
        let computed = matches!(part.fix, Fix::PlusOne | Fix::NegExp);
        // Quantised blocks cannot be transposed.
        let floats = computed || dtype.format().codes.is_some() && part.transposed();
        let as_is = !computed
            && !self.merged.contains_key(name)
            && !part.transposed()
            && !matches!(part.rows, Rows::Each { .. });
        Ok((if floats { DType::F32 } else { dtype }, as_is && self.store.is_mapped()))
    }
}

impl Part {
    fn transposed(&self) -> bool {
        self.fix == Fix::Transpose || matches!(self.rows, Rows::Transposed(_))
    }

    /// Rows from `first` on of matrices that are stored transposed in a stack `[matrices, k, n]`.
    fn of_stack(&self, t: &Tensor, first: usize) -> Result<Tensor, alula_tensor::ShapeError> {
        let (k, n) = (t.shape()[1], t.shape()[2]);
        let all = t.clone().reshape(vec![t.shape()[0] * k, n])?;
        let matrix = all.slice_rows(first / n * k..(first / n + 1) * k)?;
        columns(&matrix, first % n..first % n + self.shape[0])
    }

    /// These rows, in the shape that is wanted.
    pub(crate) fn take(&self, t: Tensor, rows: Rows) -> Result<Tensor, alula_tensor::ShapeError> {
        let (n, k) = match *self.shape {
            [n, k] => (n, k),
            _ => (self.shape[0], 1),
        };
        let flat = |t: Tensor, cols: usize| {
            let rows = t.elements() / cols.max(1);
            if t.shape() == [rows, cols] { Ok(t) } else { t.reshape(vec![rows, cols]) }
        };
        match rows {
            Rows::All if t.shape() == self.shape => Ok(t),
            Rows::All => t.reshape(self.shape.clone()),
            Rows::From(first) => {
                // The halves stand the other way round.
                let half = if self.fix == Fix::Halves { t.shape().first().map_or(0, |n| n / 2) } else { 0 };
                let first = if first < half { first + half } else { first - half };
                flat(t, k)?.slice_rows(first..first + n)?.reshape(self.shape.clone())
            }
            Rows::Each { first, len, of } => {
                let t = flat(t, k)?;
                let row = t.bytes().len() / t.rows().max(1);
                let parts = t
                    .bytes()
                    .chunks_exact(of * row)
                    .flat_map(|part| &part[first * row..(first.saturating_add(len)) * row]);
                let bytes: Vec<u8> = parts.copied().collect();
                let range = 0..bytes.len();
                Tensor::new(t.dtype(), self.shape.clone(), Storage::from(bytes), range)
            }
            Rows::Transposed(first) => transpose(&flat(t, n)?.slice_rows(first..first + k)?),
        }
    }
}

/// The transpose of a float matrix.
pub(crate) fn transpose(t: &Tensor) -> Result<Tensor, alula_tensor::ShapeError> {
    columns(t, 0..t.cols())
}

/// Columns of a float matrix, transposed.
fn columns(t: &Tensor, range: Range<usize>) -> Result<Tensor, alula_tensor::ShapeError> {
    let (rows, cols) = (t.rows(), t.cols());
    let size = match t.dtype() {
        DType::F16 | DType::BF16 => 2,
        _ => 4,
    };
    let (dtype, bytes) = if t.dtype().format().codes.is_none() {
        (t.dtype(), std::borrow::Cow::Borrowed(t.bytes()))
    } else {
        (DType::F32, t.to_f32().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into())
    };
    let mut out = vec![0u8; range.len() * rows * size];
    for (r, row) in bytes.chunks_exact(cols.max(1) * size).enumerate() {
        for (c, e) in row[range.start * size..range.end * size].chunks_exact(size).enumerate() {
            out[(c * rows + r) * size..][..size].copy_from_slice(e);
        }
    }
    let (shape, range) = (vec![range.len(), rows], 0..out.len());
    Tensor::new(dtype, shape, Storage::from(out), range)
}
