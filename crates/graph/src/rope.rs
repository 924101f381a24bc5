//! Frequencies of rotary embeddings, which may depend on a sequence's length.

use std::borrow::Cow;

/// Frequencies of a rotary embedding (arXiv:2104.09864), scaling already applied.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Inverse frequency of each pair, `[dims / 2]`.
    pub inv_freq: Vec<f32>,
    /// Factor on cosine and sine.
    pub factor: f32,
    /// What becomes of the frequencies when a sequence grows past the original context.
    pub past: Option<Past>,
}

/// Frequencies of long sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// Sequences of more tokens than this are long.
    pub original: usize,
    /// How they differ.
    pub change: Change,
}

/// How the frequencies of long sequences differ.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Other ones (LongRoPE, arXiv:2402.13753).
    Table(Vec<f32>),
    /// The base grows with the sequence (dynamic NTK).
    Ntk {
        /// Base.
        base: f64,
        /// Factor.
        factor: f64,
    },
}

/// base^(2i / dims) for each of the dims / 2 pairs, in single precision as Hugging Face transformers computes it.
pub fn rope_powers(base: f64, dims: usize) -> impl Iterator<Item = f32> {
    (0..dims / 2).map(move |i| libm::pow(base, f64::from((2 * i) as f32 / dims as f32)) as f32)
}

impl RopeTable {
    /// The inverse frequencies of a sequence that has `length` tokens in all.
    pub fn inv_freq(&self, length: usize) -> Cow<'_, [f32]> {
        match &self.past {
            Some(Past { original, change }) if length > *original => match change {
                Change::Table(t) => t.into(),
                Change::Ntk { base, factor } => {
                    let dims = 2.0 * self.inv_freq.len() as f64;
                    let growth = factor * length as f64 / *original as f64 - (factor - 1.0);
                    let base = base * libm::pow(growth, dims / (dims - 2.0));
                    rope_powers(base, 2 * self.inv_freq.len()).map(|p| 1.0 / p).collect()
                }
            },
            _ => (&self.inv_freq).into(),
        }
    }

    /// Two lengths of a sequence with different regimes have different frequencies.
    pub fn regime(&self, length: usize) -> usize {
        match &self.past {
            Some(Past { original, change: Change::Table(_) }) => usize::from(length > *original),
            Some(Past { original, change: Change::Ntk { .. } }) => length.saturating_sub(*original),
            None => 0,
        }
    }
}
