//! What must hold of a `tokenizer.json` before the library may read it, because the library does not check.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::utils::SysRegex;

use super::charsmap_check;
use crate::error::{Error, clip};

/// The file without its vocabulary.
#[derive(Deserialize)]
pub(super) struct Outline {
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    post_processor: Option<Value>,
    #[serde(default)]
    pub(super) decoder: Option<Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    vocab: Tokens,
    #[serde(default)]
    merges: Merges,
}

/// Of a vocabulary: the bytes of its longest token.
#[derive(Default)]
struct Tokens {
    longest: usize,
}

/// Of the pairs: bytes of the longest two together and of the shortest right half.
struct Merges {
    longest: usize,
    shortest_right: usize,
}

impl Default for Merges {
    fn default() -> Self {
        Merges { longest: 0, shortest_right: usize::MAX }
    }
}

impl Merges {
    fn add(&mut self, left: usize, right: usize) {
        self.longest = self.longest.max(left + right);
        self.shortest_right = self.shortest_right.min(right);
    }
}

/// The length of a string, which is not kept.
struct Len(usize);

impl<'de> Deserialize<'de> for Len {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Len;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, s: &str) -> Result<Len, E> {
                Ok(Len(s.len()))
            }
        }
        d.deserialize_str(V)
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Tokens;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids or scores")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut longest = 0;
                while let Some((Len(n), _)) = map.next_entry::<Len, IgnoredAny>()? {
                    longest = longest.max(n);
                }
                Ok(Tokens { longest })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tokens, A::Error> {
                let mut longest = 0;
                while let Some((Len(n), _)) = seq.next_element::<(Len, IgnoredAny)>()? {
                    longest = longest.max(n);
                }
                Ok(Tokens { longest })
            }
        }
        d.deserialize_any(V)
    }
}

/// `"a b"` or `["a", "b"]`.
struct Pair(usize, usize);

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Pair;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pair of tokens")
            }
            fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Pair, E> {
                match s.split_once(' ') {
                    Some((left, right)) => Ok(Pair(left.len(), right.len())),
                    None if s.starts_with("#version") => Ok(Pair(0, usize::MAX)),
                    None => Err(E::invalid_value(serde::de::Unexpected::Str(s), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair, A::Error> {
                let mut next = || seq.next_element::<Len>();
                match (next()?, next()?, next()?) {
                    (Some(Len(left)), Some(Len(right)), None) => Ok(Pair(left, right)),
                    (left, right, _) => Err(serde::de::Error::invalid_length(
                        usize::from(left.is_some()) + usize::from(right.is_some()),
                        &self,
                    )),
                }
            }
        }
        d.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Merges;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of pairs")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut out = Merges::default();
                while let Some(Pair(left, right)) = seq.next_element()? {
                    if right != usize::MAX {
                        out.add(left, right);
                    }
                }
                Ok(out)
            }
        }
        d.deserialize_seq(V)
    }
}

/// Most values in the parts that are not the vocabulary; each can cost two hundred bytes in memory.
const MAX_VALUES: usize = 1 << 16;

impl Outline {
    /// Reads and checks the file.
    pub(super) fn read(bytes: &[u8], file: &str) -> Result<Outline, Error> {
        let json = |e: serde_json::Error| {
            let text = e.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Error::Json { file: file.into(), line: e.line(), column: e.column(), what: clip(what) }
        };
        let outline: Outline = serde_json::from_slice(bytes).map_err(json)?;
        let bad = |field: &str, what: String| Error::Malformed { file: file.into(), field: field.into(), what };
        let model = &outline.model;
        let prefix = model.continuing_subword_prefix.as_deref().unwrap_or("").len();
        if model.merges.shortest_right < prefix {
            return Err(bad("model.merges", "has a token that is shorter than continuing_subword_prefix".into()));
        }
        if model.merges.longest.saturating_sub(prefix) > model.vocab.longest && model.merges.longest > 0 {
            return Err(bad("model.merges", "has a pair that is longer than every token".into()));
        }
        let parts = [
            ("normalizer", &outline.normalizer),
            ("pre_tokenizer", &outline.pre_tokenizer),
            ("post_processor", &outline.post_processor),
            ("decoder", &outline.decoder),
        ];
        for (field, part) in parts {
            if let Some(part) = part {
                let mut left = MAX_VALUES;
                check(part, &mut left).map_err(|what| bad(field, what))?;
            }
        }
        Ok(outline)
    }
}

/// Checks a component and all in it; the error says what is wrong.
fn check(part: &Value, left: &mut usize) -> Result<(), String> {
    *left = left.checked_sub(1).ok_or_else(|| format!("has more than {MAX_VALUES} parts"))?;
    match part {
        Value::Array(parts) => parts.iter().try_for_each(|p| check(p, left)),
        Value::Object(fields) => {
            fields.values().try_for_each(|p| check(p, left))?;
            // The library goes by the fields as much as by the type.
            if fields.get("length").and_then(Value::as_u64) == Some(0) {
                return Err("has a FixedLength of length 0".into());
            }
            if let Some(pattern) =
                part.pointer("/pattern/Regex").and_then(Value::as_str).filter(|_| fields.contains_key("content"))
            {
                // It loses count of the characters.
                let regex = SysRegex::new(pattern)
                    .map_err(|e| format!("has a pattern that is none: {}", clip(&e.to_string())))?;
                if regex.find_iter("").next().is_some() {
                    return Err("replaces a pattern that matches nothing".into());
                }
            }
            if fields.contains_key("single") {
                template(part)?;
            }
            match fields.get("precompiled_charsmap").and_then(Value::as_str) {
                Some(text) => {
                    charsmap_check::check(text).map_err(|what| format!("has a precompiled_charsmap that {what}"))
                }
                None if part["type"] == "Precompiled" => {
                    Err("has a Precompiled without its precompiled_charsmap".into())
                }
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// A template for one text may name that text and the special tokens that it lists.
fn template(part: &Value) -> Result<(), String> {
    let known = |id: &str| part.get("special_tokens").and_then(|s| s.get(id)).is_some();
    let pieces = part.get("single").and_then(Value::as_array);
    for piece in pieces.into_iter().flatten() {
        if let Some(id) = piece.pointer("/SpecialToken/id").and_then(Value::as_str).filter(|id| !known(id)) {
            return Err(format!("has a template with {:?}, which is not among its special_tokens", clip(id)));
        }
        if piece.pointer("/Sequence/id").is_some_and(|id| id != "A") {
            return Err("has a template for one text that asks for a second".into());
        }
    }
    Ok(())
}
