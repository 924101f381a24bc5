//! From the graph's weight names to a file's tensors, with the load-time fix-ups that dialects need.
//!
//! Weights have GGUF's names. A [`Name`] row says what a tensor is called in a Hugging Face folder and what must be
//! done to it; a graph never sees the difference.

use crate::ModelError;
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
    /// Matrices are stored `[in, out]` (GPT-2's Conv1D).
    Transpose,
    /// Norm weights are stored less 1 (Gemma).
    PlusOne,
    /// Stored as the logarithm of what is subtracted (Mamba's A).
    NegExp,
}

/// One row: a tensor's GGUF name and its name in a Hugging Face folder, both without `.weight` or `.bias`, or both
/// whole. `{}` is the layer.
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

/// A graph weight.
enum Recipe {
    Part(Part),
    Ones(Vec<usize>),
}

/// A tensor of the file, or rows of it.
struct Part {
    tensor: String,
    fix: Fix,
    rows: Option<Range<usize>>,
    shape: Vec<usize>,
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
    recipes: HashMap<String, Recipe>,
}

impl Weights {
    pub(crate) fn new(file: String, store: Store, names: &'static [&'static [Name]]) -> Weights {
        Weights { file, store, names, recipes: HashMap::new() }
    }

    /// The file's name for a tensor, and its fix-up, if the file has it.
    fn locate(&self, name: &str) -> Option<(String, Fix)> {
        if self.names.is_empty() {
            // They are GGUF's own. Some norms of Falcon-H1 lack the ending.
            let names = [Some(name), name.strip_suffix(".weight")];
            let found = names.into_iter().flatten().find(|n| self.store.info(n).is_some());
            return found.map(|n| (n.to_owned(), Fix::None));
        }
        let (pattern, layer) = match name.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
            Some((layer, rest)) => (format!("blk.{{}}.{rest}"), layer),
            None => (name.to_owned(), ""),
        };
        let (stem, _) = pattern.rsplit_once('.')?;
        // Base models are saved without the head model's prefix; multimodal ones add theirs.
        self.names.iter().copied().flatten().filter(|n| n.0 == pattern || n.0 == stem).find_map(|row| {
            let full = format!("{}{}", row.1.replace("{}", layer), &pattern[row.0.len()..]);
            let bare = full.split_once('.').map_or("", |(_, rest)| rest).to_owned();
            let nested = [format!("language_model.{full}"), format!("model.language_model.{bare}")];
            let name = [full, bare].into_iter().chain(nested).find(|n| self.store.info(n).is_some())?;
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

    /// Declares a graph weight: `shape`, from row `first` on of the tensor `name`. Returns its name in the graph.
    pub(crate) fn declare(&mut self, name: &str, shape: &[usize], first: Option<usize>) -> Result<String, ModelError> {
        let (key, part) = self.part(name, shape, first)?;
        self.recipes.insert(key.clone(), Recipe::Part(part));
        Ok(key)
    }

    /// Declares a weight of ones.
    pub(crate) fn ones(&mut self, shape: &[usize]) -> String {
        let key = format!("ones{shape:?}");
        self.recipes.insert(key.clone(), Recipe::Ones(shape.to_vec()));
        key
    }

    fn part(&self, name: &str, shape: &[usize], first: Option<usize>) -> Result<(String, Part), ModelError> {
        let (Some((tensor, fix)), Some(mut have)) = (self.locate(name), self.shape(name)) else {
            return Err(self.missing(name));
        };
        let rows = first.map(|f| f..f + shape[0]);
        let key = match &rows {
            Some(r) => format!("{name}[{}..{}]", r.start, r.end),
            None => name.to_owned(),
        };
        if let (Some(r), Some(n)) = (&rows, have.first_mut())
            && r.end <= *n
        {
            *n = shape[0];
        }
        if !same_numbers(&have, shape) {
            let why = format!("has the shape {have:?}, but the configuration asks for {shape:?}");
            return Err(ModelError::Tensor { file: self.file.clone(), tensor, why });
        }
        Ok((key, Part { tensor, fix, rows, shape: shape.to_vec() }))
    }

    /// Whether the parts of a fused tensor, of `rows` rows together, are all of it.
    pub(crate) fn whole(&self, name: &str, rows: usize) -> Result<(), ModelError> {
        match (self.locate(name), self.shape(name)) {
            (Some((tensor, _)), Some(have)) if have.first() != Some(&rows) => {
                let why = format!("has the shape {have:?}, but the configuration asks for {rows} rows");
                Err(ModelError::Tensor { file: self.file.clone(), tensor, why })
            }
            _ => Ok(()),
        }
    }

    fn read(&self, part: &Part) -> Result<Tensor, String> {
        let t = self.store.tensor(&part.tensor).map_err(|e| e.to_string())?;
        let each = |f: fn(f32) -> f32| {
            let values: Vec<f32> = t.to_f32().into_iter().map(f).collect();
            Tensor::from_f32(t.shape().to_vec(), &values)
        };
        let t = match part.fix {
            Fix::Transpose if t.shape().len() == 2 => transpose(&t),
            Fix::PlusOne => each(|w| 1.0 + w),
            Fix::NegExp => each(|w| -(libm::exp(f64::from(w)) as f32)),
            _ => Ok(t),
        };
        let t = match &part.rows {
            Some(r) => t.and_then(|t| {
                let column = if t.shape().len() == 1 { t.reshape(vec![t.elements(), 1])? } else { t };
                column.slice_rows(r.clone())
            }),
            None => t,
        };
        t.and_then(|t| t.reshape(part.shape.clone())).map_err(|e| e.to_string())
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        match self.recipes.get(name).ok_or("no such weight")? {
            Recipe::Part(part) => self.read(part),
            Recipe::Ones(shape) => {
                Tensor::from_f32(shape.clone(), &vec![1.0; shape.iter().product()]).map_err(|e| e.to_string())
            }
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
