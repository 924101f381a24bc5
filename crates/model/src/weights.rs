//! From the graph's weight names to a file's tensors, with the load-time fix-ups that dialects need.
//!
//! Weights have GGUF's names. A [`Name`] row says what a tensor is called in a Hugging Face folder and what must be
//! done to it; a graph never sees the difference.

use crate::{ModelError, fp8};
use alula_format::TensorInfo;
use alula_format::gguf::Gguf;
use alula_format::safetensors::SafeTensors;
use alula_graph::WeightSource;
use alula_tensor::{DType, Storage, Tensor};
use std::collections::HashMap;

/// What is done to a tensor when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Nothing.
    None,
    /// Matrices are stored `[in, out]` (GPT-2's Conv1D).
    Transpose,
    /// Norm weights are stored less 1 (Gemma).
    PlusOne,
    /// Of a fused matrix the halves stand the other way round (GTE).
    Halves,
}

/// One row: a tensor's GGUF name and its name in a Hugging Face folder, without `.weight` or `.bias`, which not all have
/// there. `{}` is the layer, then the expert.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub &'static str, pub &'static str, pub Fix);

/// The tensors of a file or folder.
pub(crate) enum Store {
    Gguf(Gguf),
    Safe(SafeTensors),
}

impl Store {
    fn info(&self, name: &str) -> Option<&TensorInfo> {
        match self {
            Store::Gguf(g) => g.info(name),
            Store::Safe(s) => s.info(name),
        }
    }
    fn tensor(&self, name: &str) -> Result<Tensor, alula_format::Error> {
        match self {
            Store::Gguf(g) => g.tensor(name),
            Store::Safe(s) => s.tensor(name),
        }
    }
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

/// A graph weight: rows of a tensor of the file.
struct Recipe {
    tensor: String,
    fix: Fix,
    rows: Rows,
    shape: Vec<usize>,
}

/// A model's weights.
pub(crate) struct Weights {
    pub(crate) file: String,
    pub(crate) store: Store,
    pub(crate) names: &'static [&'static [Name]],
    /// Rows and columns of a block of FP8.
    pub(crate) block: (usize, usize),
    recipes: HashMap<String, Recipe>,
}

impl Weights {
    pub(crate) fn new(file: String, store: Store, names: &'static [&'static [Name]]) -> Weights {
        Weights { file, store, names, block: fp8::BLOCK, recipes: HashMap::new() }
    }

    /// The file's name for a tensor, and its fix-up, if the file has it.
    fn locate(&self, name: &str) -> Option<(String, Fix)> {
        if let Store::Gguf(g) = &self.store {
            return g.info(name).map(|_| (name.to_owned(), Fix::None));
        }
        let (stem, suffix) = name.rsplit_once('.')?;
        let (pattern, layer) = match stem.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
            Some((layer, rest)) => (format!("blk.{{}}.{rest}"), layer),
            None => (stem.to_owned(), ""),
        };
        // Experts have numbers too.
        let (pattern, expert) = match pattern.rsplit_once('.') {
            Some((stem, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => (format!("{stem}.{{}}"), n),
            _ => (pattern.clone(), ""),
        };
        // Base models are saved without the head model's prefix; multimodal ones add theirs.
        let rows = self.names.iter().copied().flatten().filter(|n| n.0 == pattern);
        // The first BERT files have TensorFlow's names of a norm's weights; some tensors have no suffix at all.
        let old = if suffix == "weight" { ".gamma" } else { ".beta" };
        let suffixes = [format!(".{suffix}"), old.to_owned(), String::new()];
        rows.flat_map(|row| suffixes.iter().map(move |suffix| (row, suffix))).find_map(|(row, suffix)| {
            let full = format!("{}{suffix}", row.1.replacen("{}", layer, 1).replacen("{}", expert, 1));
            let bare = full.split_once('.').map_or("", |(_, rest)| rest).to_owned();
            let nested = [format!("language_model.{full}"), format!("model.language_model.{bare}")];
            let other = format!("roberta.{bare}"); // whose tensors are otherwise called as BERT's
            let name = [full, bare].into_iter().chain(nested).chain([other]).find(|n| self.store.info(n).is_some())?;
            Some((name, row.2))
        })
    }

    /// Shape of a tensor by its GGUF name, after the fix-up.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (tensor, fix) = self.locate(name)?;
        let mut shape = self.store.info(&tensor)?.shape().to_vec();
        if fix == Fix::Transpose && shape.len() == 2 {
            shape.reverse();
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
        let (Some((tensor, fix)), Some(have)) = (self.locate(name), self.shape(name)) else {
            return Err(self.missing(name));
        };
        let key = match rows {
            Rows::All => name.to_owned(),
            Rows::From(first) => format!("{name}[{first}..{}]", first + shape[0]),
            Rows::Each { first, len, of } => format!("{name}[{first}..{} of {of}]", first + len),
            Rows::Transposed(first) => format!("{name}[{first}..{}]ᵀ", first + shape[shape.len() - 1]),
        };
        // Sizes of 1 say nothing.
        let real = |shape: &[usize]| shape.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        let all: usize = have.iter().product();
        let (n, k) = match *shape {
            [n] => (n, 1),
            [n, k] => (n, k),
            _ => (0, 0),
        };
        let fits = match rows {
            Rows::All => real(&have) == real(shape),
            Rows::From(first) => {
                have.last() == Some(&k).filter(|_| shape.len() > 1).or(have.last()) && (first + n) * k <= all
            }
            Rows::Each { first, len, of } => {
                have.last() == Some(&k) && first + len <= of && n.is_multiple_of(len) && n / len * of * k == all
            }
            Rows::Transposed(first) => have.last() == Some(&n) && (first + k) * n <= all,
        };
        if !fits {
            let part = if rows == Rows::All { String::new() } else { format!(" (`{key}`)") };
            let why = format!("has the shape {have:?}, but the configuration asks for {shape:?}{part}");
            return Err(ModelError::Tensor { file: self.file.clone(), tensor, why });
        }
        self.recipes.insert(key.clone(), Recipe { tensor, fix, rows, shape: shape.to_vec() });
        Ok(key)
    }
}

impl Weights {
    /// The type that a graph weight is read as; `Err` names one that is not read.
    pub(crate) fn dtype(&self, name: &str) -> Result<DType, String> {
        let recipe = self.recipes.get(name).ok_or("no such weight")?;
        let info = self.store.info(&recipe.tensor).ok_or("no such tensor")?;
        match info.dtype() {
            _ if info.type_name() == fp8::TYPE => Ok(DType::F32),
            None => Err(info.type_name().to_owned()),
            // Quantised blocks cannot be transposed.
            Some(t) if recipe.fix == Fix::PlusOne || t.format().codes.is_some() && recipe.transposed() => {
                Ok(DType::F32)
            }
            Some(t) => Ok(t),
        }
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let recipe = self.recipes.get(name).ok_or("no such weight")?;
        let t = match &self.store {
            Store::Safe(s) if s.info(&recipe.tensor).is_some_and(|i| i.type_name() == fp8::TYPE) => {
                fp8::matrix(s, &recipe.tensor, self.block).map_err(|why| format!("`{}` {why}", recipe.tensor))?
            }
            store => store.tensor(&recipe.tensor).map_err(|e| e.to_string())?,
        };
        let t = match recipe.fix {
            Fix::Transpose if t.shape().len() == 2 => transpose(&t).map_err(|e| e.to_string())?,
            Fix::PlusOne => {
                let values: Vec<f32> = t.to_f32().iter().map(|w| 1.0 + w).collect();
                Tensor::from_f32(t.shape().to_vec(), &values).map_err(|e| e.to_string())?
            }
            _ => t,
        };
        recipe.rows(t).map_err(|e| e.to_string())
    }
}

impl Recipe {
    fn transposed(&self) -> bool {
        self.fix == Fix::Transpose || matches!(self.rows, Rows::Transposed(_))
    }

    /// The rows that are wanted, in the shape that is wanted.
    fn rows(&self, t: Tensor) -> Result<Tensor, alula_tensor::ShapeError> {
        let (n, k) = match *self.shape {
            [n, k] => (n, k),
            _ => (self.shape[0], 1),
        };
        let flat = |t: Tensor, cols: usize| {
            let rows = t.elements() / cols.max(1);
            if t.shape() == [rows, cols] { Ok(t) } else { t.reshape(vec![rows, cols]) }
        };
        match self.rows {
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
                let parts = t.bytes().chunks_exact(of * row).flat_map(|part| &part[first * row..(first + len) * row]);
                let bytes: Vec<u8> = parts.copied().collect();
                let range = 0..bytes.len();
                Tensor::new(t.dtype(), self.shape.clone(), Storage::from(bytes), range)
            }
            Rows::Transposed(first) => transpose(&flat(t, n)?.slice_rows(first..first + k)?),
        }
    }
}

/// The transpose of a float matrix.
fn transpose(t: &Tensor) -> Result<Tensor, alula_tensor::ShapeError> {
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
    let mut out = vec![0u8; bytes.len()];
    for (r, row) in bytes.chunks_exact(cols.max(1) * size).enumerate() {
        for (c, e) in row.chunks_exact(size).enumerate() {
            out[(c * rows + r) * size..][..size].copy_from_slice(e);
        }
    }
    let range = 0..out.len();
    Tensor::new(dtype, vec![cols, rows], Storage::from(out), range)
}
