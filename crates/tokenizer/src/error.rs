//! What can go wrong.

/// A tokenizer that cannot be used, or a text that it cannot take. Prints as one sentence.
#[derive(thiserror::Error, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A metadata key of a GGUF file is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] alula_format::Error),
    /// The model brings no tokenizer.
    #[error(
        "{file}: has no tokenizer ({field} is {found}); give token ids instead of text, or use a file that has one"
    )]
    None {
        /// The file, as the caller named it.
        file: String,
        /// The key or file that should say it.
        field: String,
        /// What stands there.
        found: String,
    },
    /// A field breaks the rules of its format.
    #[error("{file}: {field} {what}; get the file again or convert the model again")]
    Malformed {
        /// The file, as the caller named it.
        file: String,
        /// The field.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// A `tokenizer.json` is no JSON or not of the form that it must have.
    #[error("{file}: is no valid tokenizer.json (line {line}, column {column}): {what}; get the file again")]
    Json {
        /// The file, as the caller named it.
        file: String,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
    /// A kind of tokenizer, or a part of one, that is not known here.
    #[error("{file}: {field} {what}; known: {known}")]
    Unsupported {
        /// The file, as the caller named it.
        file: String,
        /// The field.
        field: String,
        /// What stands there.
        what: String,
        /// What could.
        known: String,
    },
    /// A text has a character that the vocabulary cannot express, and there is no unknown token.
    #[error("{file}: the vocabulary has no token for {text:?} and no unknown token; leave it out of the text")]
    Unknown {
        /// The file, as the caller named it.
        file: String,
        /// A piece of the text.
        text: String,
    },
    /// A splitting pattern takes too many steps on this text.
    #[error(
        "{file}: the pattern {pattern:?} takes too long on this text; shorten the text or get another tokenizer file"
    )]
    Slow {
        /// The file, as the caller named it.
        file: String,
        /// The pattern.
        pattern: String,
    },
    /// The text is too long for one call.
    #[error("the text has {bytes} bytes, more than {max} at once; split it")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest.
        max: usize,
    },
}

/// A text out of a file, fit for a message.
pub(crate) fn clip(text: &str) -> String {
    let short: String = text
        .chars()
        .take(60)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if short.len() < text.len() && text.chars().nth(60).is_some() { short + "…" } else { short }
}
