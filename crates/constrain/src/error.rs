//! What can go wrong.

/// A grammar that cannot be used, or a text that left it. Prints as one sentence.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A part of a JSON schema that cannot be enforced, or is none.
    #[error("{path}: {what}")]
    Schema {
        /// Where, as a JSON pointer that ends with the keyword: `#/properties/a/pattern`.
        path: String,
        /// What is wrong there, and what to do.
        what: String,
    },
    /// A regular expression that is none, or has parts that no finite automaton can have.
    #[error("regex: {0}")]
    Regex(String),
    /// A grammar in Lark's notation with a mistake.
    #[error("grammar: {0}")]
    Lark(String),
    /// A choice of no strings, or of too many.
    #[error("choice: {0}")]
    Choice(String),
    /// A grammar over the limits on size or work.
    #[error("{0}; make the grammar smaller")]
    TooComplex(String),
    /// A vocabulary that grammars cannot be walked with.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// A token that the mask before it did not allow.
    #[error("token {0} is not allowed here by the grammar")]
    Token(u32),
    /// No token of the vocabulary continues the text, and it is not complete.
    #[error("no token of this vocabulary continues the text as the grammar demands")]
    Stuck,
}

impl Error {
    /// What the parser says when it cannot go on: that no token is left, or that it had too much to do.
    pub(crate) fn of_state(error: &impl std::fmt::Display) -> Self {
        let what = brief(error);
        if what.contains("NoExtension") { Error::Stuck } else { Error::TooComplex(what) }
    }

    pub(crate) fn schema(path: &str, keyword: &str, what: impl Into<String>) -> Self {
        let slash = if keyword.is_empty() { "" } else { "/" };
        Error::Schema { path: format!("{path}{slash}{}", escape(keyword)), what: what.into() }
    }
}

/// A name as a step of a JSON pointer (RFC 6901).
pub(crate) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The first line of what the parser's library says, without its traces, and at most 300 characters of it.
pub(crate) fn brief(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown error");
    let mut short: String = line.chars().take(300).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}
