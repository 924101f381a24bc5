//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685): matrices A and B of low rank for some of a model's matrices, whose product
//! is added to them, `W + scale · B A`.
//!
//! An adapter is a PEFT folder ([`peft`]) or a GGUF file ([`gguf`]). Which form it has and which form the model has are
//! independent: names meet through the architecture's table, and rows that one form has permuted are permuted
//! ([`fit`]). What an adapter asks for and cannot get is an error, so that nothing of it is left out in silence.

mod fit;
mod gguf;
mod peft;

pub(crate) use fit::{Host, apply, merge};

use crate::ModelError;
use crate::weights::{Store, transpose};
use alula_format::clip_to;
use alula_tensor::{DType, Storage, Tensor, f32_to_bf16, f32_to_f16};
use std::collections::BTreeMap;
use std::path::Path;

/// An adapter's file or folder, opened. It is sound in itself; whether it fits a model is found out when they meet.
pub struct Adapter {
    /// What stands for it in messages.
    file: String,
    store: Store,
    /// The architecture that a GGUF file says; none in a folder.
    arch: Option<String>,
    /// By the tensor that each is for: its GGUF name, or the module's name in a folder and `.weight`.
    targets: BTreeMap<String, Target>,
}

/// The matrices for one tensor of the model.
struct Target {
    /// Names of A, `[r, k]`, and B, `[n, r]`.
    a: String,
    b: String,
    rank: usize,
    /// Factor on their product.
    scale: f32,
    /// A's columns are looked up by token. In a GGUF file they are rows.
    table: bool,
}

impl Adapter {
    /// Opens a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) or a GGUF adapter.
    ///
    /// # Errors
    /// It cannot be read, is no LoRA adapter, or asks for what is not done: the message says what.
    pub fn open(path: &Path) -> Result<Adapter, ModelError> {
        let adapter = match std::fs::metadata(path) {
            Ok(m) if m.is_dir() => peft::open(path)?,
            Ok(_) if path.extension().is_some_and(|e| e == "safetensors" || e == "bin") => {
                let why = "is only the matrices; give the folder that also holds adapter_config.json".into();
                return Err(ModelError::Path { path: path.display().to_string(), why });
            }
            Ok(_) => gguf::open(alula_format::gguf::Gguf::open(path)?, &path.display().to_string())?,
            Err(e) => {
                let why = format!("{e}; give a PEFT folder or a GGUF adapter");
                return Err(ModelError::Path { path: path.display().to_string(), why });
            }
        };
        if adapter.targets.is_empty() {
            let why = "has no matrices; it changes nothing".into();
            return Err(ModelError::Path { path: adapter.file, why });
        }
        Ok(adapter)
    }

    /// What stands for it in messages: its path.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its files, and of each the bytes before the first tensor.
    pub fn heads(&self) -> Vec<(&Storage, &[u8])> {
        match &self.store {
            Store::Gguf(g) => g.heads().collect(),
            Store::Safe(s) => s.heads().collect(),
        }
    }

    /// All that decides about what it adds beside the tensors: names and scales.
    pub fn facts(&self) -> String {
        let facts = self.targets.iter().map(|(name, t)| format!("{name} {} {};", t.rank, t.scale.to_bits()));
        facts.collect()
    }

    fn wrong(&self, tensor: &str, why: impl Into<String>) -> ModelError {
        ModelError::Tensor { file: self.file.clone(), tensor: clip_to(tensor, 200), why: why.into() }
    }

    /// A matrix in a type that products of floats take.
    fn matrix(&self, name: &str) -> Result<Tensor, ModelError> {
        let t = self.store.tensor(name)?;
        match t.dtype() {
            DType::F32 | DType::F16 | DType::BF16 => Ok(t),
            _ => Tensor::from_f32(t.shape().to_vec(), &t.to_f32()).map_err(|e| self.wrong(name, e.to_string())),
        }
    }
}

/// Two tensors that become a target when both are there.
#[derive(Default)]
struct Pair {
    a: Option<String>,
    b: Option<String>,
    table: bool,
}

/// Makes targets of pairs; `scale` is that of a target of that name and rank.
fn targets(
    file: &str,
    store: &Store,
    pairs: BTreeMap<String, Pair>,
    scale: impl Fn(&str, usize) -> Result<f32, ModelError>,
) -> Result<BTreeMap<String, Target>, ModelError> {
    let wrong =
        |tensor: &str, why: String| ModelError::Tensor { file: file.to_owned(), tensor: clip_to(tensor, 200), why };
    let mut all = BTreeMap::new();
    for (name, pair) in pairs {
        let (Some(a), Some(b)) = (pair.a, pair.b) else {
            return Err(wrong(&name, "has one of the matrices A and B only; the file is not complete".into()));
        };
        let shape = |tensor: &str| match store.info(tensor).map(|i| i.shape()) {
            Some(&[rows, cols]) if rows > 0 && cols > 0 => Ok([rows, cols]),
            shape => {
                let shape = shape.unwrap_or_default();
                let why = format!(
                    "has the shape {shape:?}; only adapters of matrices can be applied, not of stacks of experts or filters"
                );
                Err(wrong(tensor, why))
            }
        };
        let ([rows, cols], [_, rank]) = (shape(&a)?, shape(&b)?);
        let own = if pair.table && matches!(store, Store::Gguf(_)) { cols } else { rows };
        if own != rank {
            return Err(wrong(&b, format!("is of rank {rank}, but `{}` is of rank {own}", clip_to(&a, 200))));
        }
        let scale = scale(&name, rank)?;
        all.insert(name, Target { a, b, rank, scale, table: pair.table });
    }
    Ok(all)
}

/// What an adapter adds to a graph weight: `scale · b a`.
#[derive(Clone)]
pub(crate) struct Delta {
    /// `[r, k]`; a table has `[k, r]`, to be looked up.
    pub(crate) a: Tensor,
    /// `[n, r]`.
    pub(crate) b: Tensor,
    pub(crate) scale: f32,
    pub(crate) table: bool,
}

/// A weight with what is added to it, of the same type: sums are of single precision, and rounded once.
pub(crate) fn added(deltas: &[Delta], t: &Tensor) -> Result<Tensor, String> {
    let wrong = |e: alula_tensor::ShapeError| e.to_string();
    // Of a table, which has its columns as rows, the product is transposed.
    let factors = deltas.iter().map(|d| match d.table {
        true => Ok((d.a.to_f32(), transpose(&d.b)?.to_f32(), d)),
        false => Ok((d.b.to_f32(), d.a.to_f32(), d)),
    });
    let factors = factors.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let k = t.cols();
    let (mut out, mut row, mut product) = (Vec::with_capacity(t.bytes().len()), vec![0.0; k], vec![0.0; k]);
    for n in 0..t.rows() {
        t.row_f32(n, &mut row);
        for (left, right, delta) in &factors {
            let rank = delta.b.cols();
            product.fill(0.0);
            for (l, right) in left[n * rank..][..rank].iter().zip(right.chunks_exact(k)) {
                product.iter_mut().zip(right).for_each(|(p, r)| *p += l * r);
            }
            row.iter_mut().zip(&product).for_each(|(w, p)| *w += delta.scale * p);
        }
        match t.dtype() {
            DType::F16 => out.extend(row.iter().flat_map(|v| f32_to_f16(*v).to_le_bytes())),
            DType::BF16 => out.extend(row.iter().flat_map(|v| f32_to_bf16(*v).to_le_bytes())),
            _ => out.extend(row.iter().flat_map(|v| v.to_le_bytes())),
        }
    }
    let range = 0..out.len();
    Tensor::new(t.dtype(), t.shape().to_vec(), Storage::from(out), range).map_err(wrong)
}
