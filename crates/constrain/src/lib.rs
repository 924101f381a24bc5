//! Output held to a grammar: which tokens may come next so that the whole text will match.
//!
//! A [`Grammar`] says what the text must be: a value of a JSON schema, a match of a regular expression, a sentence of a
//! context-free grammar, one of some strings. A [`Vocabulary`] knows the bytes of a model's tokens and makes a
//! [`Constraint`] of a grammar; a [`State`] follows one text through it. The parser is llguidance's: an Earley parser
//! over lexemes that are derivatives of regular expressions, walked down a trie of the vocabulary.
//!
//! What cannot be enforced is refused, with the place in the schema. llguidance on its own accepts some schemas that it
//! does not enforce; so a schema is first written out again in the few keywords that are (`schema`), with references
//! resolved, patterns read as ECMA-262 says, and formats as patterns.
//!
//! Grammars come from strangers: their size, depth and repetitions are limited, and so is the work of compiling and of
//! each mask.
#![forbid(unsafe_code)]

mod error;
mod grammar;
mod schema;
mod state;
mod vocabulary;

pub use error::Error;
pub use grammar::Grammar;
pub use state::{Constraint, State};
pub use vocabulary::Vocabulary;
