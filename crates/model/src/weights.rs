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
    /// Of a fused matrix the halves stand the other way round (GTE).
    Halves,
}

/// One row: a tensor's GGUF name and its name in a Hugging Face folder, without `.weight` or `.bias`. `{}` is the
/// layer.
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

/// A graph weight: rows of a tensor of the file.
struct Recipe {
    tensor: String,
    fix: Fix,
    rows: Option<Range<usize>>,
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
        if let Store::Gguf(g) = &self.store {
            return g.info(name).map(|_| (name.to_owned(), Fix::None));
        }
        let (stem, suffix) = name.rsplit_once('.')?;
        let (pattern, layer) = match stem.strip_prefix("blk.").and_then(|r| r.split_once('.')) {
            Some((layer, rest)) => (format!("blk.{{}}.{rest}"), layer),
            None => (stem.to_owned(), ""),
        };
        // Base models are saved without the head model's prefix; multimodal ones add theirs.
        let rows = self.names.iter().copied().flatten().filter(|n| n.0 == pattern);
        // The first BERT files have TensorFlow's names of a norm's weights.
        let suffixes = [suffix, if suffix == "weight" { "gamma" } else { "beta" }];
        rows.flat_map(|row| suffixes.map(|suffix| (row, suffix))).find_map(|(row, suffix)| {
            let full = format!("{}.{suffix}", row.1.replace("{}", layer));
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

    /// Declares a graph weight: `shape`, from row `first` on of the tensor `name`. Returns its name in the graph.
    pub(crate) fn declare(&mut self, name: &str, shape: &[usize], first: Option<usize>) -> Result<String, ModelError> {
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
        if have != shape {
            let why = format!("has the shape {have:?}, but the configuration asks for {shape:?}");
            return Err(ModelError::Tensor { file: self.file.clone(), tensor, why });
        }
        self.recipes.insert(key.clone(), Recipe { tensor, fix, rows });
        Ok(key)
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let recipe = self.recipes.get(name).ok_or("no such weight")?;
        let t = self.store.tensor(&recipe.tensor).map_err(|e| e.to_string())?;
        let t = match recipe.fix {
            Fix::Transpose if t.shape().len() == 2 => transpose(&t).map_err(|e| e.to_string())?,
            Fix::PlusOne => {
                let values: Vec<f32> = t.to_f32().iter().map(|w| 1.0 + w).collect();
                Tensor::from_f32(t.shape().to_vec(), &values).map_err(|e| e.to_string())?
            }
            _ => t,
        };
        let half = if recipe.fix == Fix::Halves { t.shape().first().map_or(0, |n| n / 2) } else { 0 };
        let rows = recipe.rows.clone().map(|r| match r.start < half {
            true => r.start + half..r.end + half,
            false => r.start - half..r.end - half,
        });
        match &rows {
            Some(r) if t.shape().len() == 1 => {
                let column = t.reshape(vec![t.elements(), 1]).and_then(|t| t.slice_rows(r.clone()));
                column.and_then(|t| t.reshape(vec![r.len()])).map_err(|e| e.to_string())
            }
            Some(r) => t.slice_rows(r.clone()).map_err(|e| e.to_string()),
            None => Ok(t),
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
