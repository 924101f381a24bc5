//! What a model wrote, as it comes: content, reasoning, tool calls.
//!
//! Models write tool calls as text, each family in a form of its own, which its chat template shows. [`Format::of`] finds
//! the form in the template; a [`Parser`] takes the text in any pieces and gives [`Piece`]s. What they are together does
//! not depend on where the text was cut, and what is no call is content: nothing is lost but white space around calls
//! and reasoning, and the marks themselves.
//!
//! [`Format::grammar`] writes the same form as a grammar, so that a model can be held to it.
#![forbid(unsafe_code)]

mod format;
mod grammar;
mod json;
mod object;
mod parser;
mod tagged;

pub use format::{Family, Format};
pub use grammar::{Ask, Choice, Error};
pub use parser::Parser;

use serde_json::Value;

/// A tool that the model may call, as OpenAI's `tools[].function` has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// What it is called by.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The JSON schema of its arguments: an object's, or `null` if it has none. For [`Format::grammar`] it must be one
    /// that `%json` enforces.
    pub parameters: Value,
    /// Must the arguments be valid even where calls are voluntary?
    pub strict: bool,
}

/// A piece of what a model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text for the reader.
    Content(String),
    /// Text for itself.
    Reasoning(String),
    /// A call begins. Its arguments follow before anything else does.
    Call {
        /// Its number in this text, from 0.
        index: usize,
        /// How the model calls it, if it does so before the arguments.
        id: Option<String>,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments; together they are the JSON of an object, if the text did not end before.
    Arguments {
        /// The call's number.
        index: usize,
        /// JSON.
        text: String,
    },
}
