//! What a model's files say about it, without its weights.

use crate::Fail;
use crate::models::{BUILTIN, Place};
use alula_engine::local::folder_tokenizer;
use alula_format::TensorInfo;
use alula_format::gguf::{self, Gguf};
use alula_format::hf::Folder;
use alula_format::safetensors::SafeTensors;
use alula_model::zoo::ZOO;
use alula_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// A model's files, opened.
pub(in crate::cmd) enum Header {
    Gguf(Gguf),
    /// The tensors may be missing: a folder with only a tokenizer.
    Folder(Box<Folder>, Option<SafeTensors>),
}

/// The tensors of one type.
pub(in crate::cmd) struct Type {
    pub(in crate::cmd) name: String,
    pub(in crate::cmd) tensors: usize,
    pub(in crate::cmd) elements: u64,
    pub(in crate::cmd) bytes: u64,
}

impl Type {
    /// Whether these are weights: whole numbers are masks and the like.
    fn weights(&self) -> bool {
        !matches!(self.name.as_str(), "BOOL" | "U8" | "U16" | "U32" | "U64" | "I8" | "I16" | "I32" | "I64")
    }
}

impl Header {
    /// Opens them.
    ///
    /// # Errors
    /// They cannot be read.
    pub(in crate::cmd) fn open(place: &Place) -> Result<Header, Fail> {
        Ok(match (place, place.bytes()) {
            (Place::Path(p), _) if p.is_dir() => {
                let folder = Folder::open(p)?;
                let weights = ["model.safetensors", "model.safetensors.index.json"].map(|f| p.join(f));
                let tensors = weights.iter().any(|f| f.exists()).then(|| folder.tensors()).transpose()?;
                if tensors.is_none() {
                    folder.config()?;
                }
                Header::Folder(Box::new(folder), tensors)
            }
            (Place::Path(p), _) => Header::Gguf(Gguf::open(p)?),
            (Place::Builtin, bytes) => Header::Gguf(Gguf::from_bytes(bytes.unwrap_or_default(), BUILTIN)?),
        })
    }

    /// `GGUF v3` or `safetensors`.
    pub(in crate::cmd) fn format(&self) -> String {
        match self {
            Header::Gguf(g) => format!("GGUF v{}", g.version()),
            Header::Folder(..) => "safetensors".to_owned(),
        }
    }

    /// Bytes of the files that hold the tensors, and their number.
    pub(in crate::cmd) fn size(&self) -> (u64, usize) {
        match self {
            Header::Gguf(g) => (g.file_size(), g.parts()),
            Header::Folder(_, s) => s.as_ref().map_or((0, 0), |s| (s.file_size(), s.parts())),
        }
    }

    fn tensors(&self) -> Box<dyn Iterator<Item = &TensorInfo> + '_> {
        match self {
            Header::Gguf(g) => Box::new(g.tensors()),
            Header::Folder(_, s) => Box::new(s.iter().flat_map(|s| s.tensors())),
        }
    }

    /// The tensors by type: weights first, and of those the type with the most elements.
    pub(in crate::cmd) fn types(&self) -> Vec<Type> {
        let mut types: Vec<Type> = Vec::new();
        for t in self.tensors() {
            let known = types.iter().position(|k| k.name == t.type_name());
            let at = known.unwrap_or_else(|| {
                types.push(Type { name: t.type_name().to_owned(), tensors: 0, elements: 0, bytes: 0 });
                types.len() - 1
            });
            if let Some(k) = types.get_mut(at) {
                k.tensors += 1;
                k.elements = k.elements.saturating_add(t.elements() as u64);
                k.bytes = k.bytes.saturating_add(t.range().map_or(0, |r| r.len() as u64));
            }
        }
        types.sort_by_key(|t| (!t.weights(), std::cmp::Reverse(t.elements)));
        types
    }

    /// Elements of all weights.
    pub(in crate::cmd) fn parameters(&self) -> u64 {
        self.types().iter().filter(|t| t.weights()).map(|t| t.elements).fold(0, u64::saturating_add)
    }

    /// What the files call the architecture.
    pub(in crate::cmd) fn architecture(&self) -> Option<&str> {
        match self {
            Header::Gguf(g) => g.metadata.find("general.architecture").ok().flatten(),
            Header::Folder(f, _) => f.config().ok()?.get("model_type")?.as_str(),
        }
    }

    /// Whether that architecture is one that Alula knows.
    pub(in crate::cmd) fn known(&self) -> bool {
        let Some(name) = self.architecture() else { return false };
        ZOO.iter().any(|a| match self {
            Header::Gguf(_) => a.gguf == name,
            Header::Folder(..) => a.hf.contains(&name),
        })
    }

    /// The tokenizer, if there is one.
    pub(in crate::cmd) fn tokenizer(&self) -> Option<Result<Tokenizer, Fail>> {
        match self {
            Header::Gguf(g) => {
                // Files without one say so: `none`, in older ones `no_vocab`.
                let kind: Option<&str> = g.metadata.find("tokenizer.ggml.model").ok().flatten();
                if kind.is_none_or(|k| matches!(k, "none" | "no_vocab")) {
                    return None;
                }
                Some(Tokenizer::from_gguf(&g.metadata, g.metadata.file()).map_err(Into::into))
            }
            Header::Folder(f, _) => {
                f.tokenizer().ok()?;
                Some(folder_tokenizer(f).map_err(Into::into))
            }
        }
    }

    /// The chat template.
    pub(in crate::cmd) fn template(&self) -> Option<&str> {
        match self {
            Header::Gguf(g) => g.metadata.find("tokenizer.chat_template").ok().flatten(),
            Header::Folder(f, _) => f.chat_template(),
        }
    }

    /// Everything that the files say: GGUF's pairs, long arrays only as type and length; or `config.json`.
    pub(in crate::cmd) fn metadata(&self) -> Map<String, Value> {
        match self {
            Header::Gguf(g) => g.metadata.iter().map(|(k, v)| (k.to_owned(), value(v))).collect(),
            Header::Folder(f, _) => f.config().ok().and_then(Value::as_object).cloned().unwrap_or_default(),
        }
    }
}

/// Longest array that is shown whole.
const SHORT: usize = 16;

fn value(v: gguf::Value<'_>) -> Value {
    use gguf::Value as V;
    match v {
        V::Uint(n) => n.into(),
        V::Int(n) => n.into(),
        // The shortest text that means this f32, not that of the f64 next to it.
        V::F32(x) => x.to_string().parse::<f64>().ok().map_or(Value::Null, Value::from),
        V::F64(x) => x.into(),
        V::Bool(b) => b.into(),
        V::Str(s) => s.into(),
        V::Array(a) if a.len() <= SHORT && a.item_type() != "array" => {
            (0..a.len()).map(|i| a.get(i).map_or(Value::Null, value)).collect()
        }
        V::Array(a) => json!({"type": a.item_type(), "length": a.len()}),
    }
}

/// A number with a unit: `2.9 MB`, `260 k`.
pub(in crate::cmd) fn human(n: u64, unit: &str) -> String {
    let scales: [(f64, &str); 5] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    let x = n as f64;
    let (scale, prefix) = scales.into_iter().find(|(s, _)| x >= *s).unwrap_or((1.0, ""));
    // People count parameters in billions.
    let prefix = if unit.is_empty() && prefix == "G" { "B" } else { prefix };
    let x = x / scale;
    let digits = if scale > 1.0 && x < 100.0 { 1 } else { 0 };
    format!("{x:.digits$} {prefix}{unit}").trim_end().to_owned()
}

/// Text out of a file on one line, at most `most` characters, nothing that steers a terminal.
pub(in crate::cmd) fn one_line(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let shown = [(0, "B"), (999, "B"), (1000, "B"), (2_939_264, "B"), (260_032, ""), (1_100_000_000, ""), (7, "")]
            .map(|(n, u)| human(n, u));
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "2.9 MB", "260 k", "1.1 B", "7"]);
        assert_eq!(one_line("a\x1b[1m\nbc", 5), "a [1…");
        assert_eq!(one_line("abc", 3), "abc");
    }
}
