//! Prompts: texts, or token ids.

use super::fields::whole_number;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Texts, or token ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// An element of the array.
        enum Element {
            Text(String),
            Token(u32),
            Tokens(Vec<u32>),
        }
        struct E;
        impl<'de> Visitor<'de> for E {
            type Value = Element;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }
            fn visit_str<X: Error>(self, text: &str) -> Result<Element, X> {
                Ok(Element::Text(text.to_owned()))
            }
            fn visit_u64<X: Error>(self, id: u64) -> Result<Element, X> {
                let id = u32::try_from(id).map_err(|_| X::custom(format!("{id} is no token id")))?;
                Ok(Element::Token(id))
            }
            fn visit_i64<X: Error>(self, id: i64) -> Result<Element, X> {
                Err(X::custom(format!("{id} is no token id")))
            }
            fn visit_f64<X: Error>(self, id: f64) -> Result<Element, X> {
                whole_number(id).map(Element::Token).ok_or_else(|| X::custom(format!("{id} is no token id")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Tokens(ids))
            }
        }
        impl<'de> Deserialize<'de> for Element {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(E)
            }
        }
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, an array of token ids, or an array of such arrays")
            }
            fn visit_str<X: Error>(self, text: &str) -> Result<Prompt, X> {
                Ok(Prompt::Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let mixed = || A::Error::custom("an array of one kind: strings, token ids, or arrays of token ids");
                let (mut texts, mut flat, mut nested) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(element) = seq.next_element()? {
                    match element {
                        Element::Text(text) => texts.push(text),
                        Element::Token(id) => flat.push(id),
                        Element::Tokens(ids) => nested.push(ids),
                    }
                }
                match (texts.is_empty(), flat.is_empty(), nested.is_empty()) {
                    (false, true, true) => Ok(Prompt::Texts(texts)),
                    (true, false, true) => Ok(Prompt::Tokens(vec![flat])),
                    (true, true, false) => Ok(Prompt::Tokens(nested)),
                    (true, true, true) => Err(A::Error::custom("an empty array; give at least one prompt")),
                    _ => Err(mixed()),
                }
            }
        }
        d.deserialize_any(V)
    }
}
