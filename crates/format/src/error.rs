//! What is wrong with a file, where, and what to do about it.

use std::fmt::Display;
use std::io;

/// A file that cannot be used. Prints as one sentence: file, what is wrong and where; what to do.
#[derive(thiserror::Error, Debug)]
#[error(transparent)]
pub struct Error(Box<Report>);

#[derive(thiserror::Error, Debug)]
#[error("{file}: {what}{}; {fix}", offset.map_or_else(String::new, |at| format!(" (at byte {at})")))]
struct Report {
    kind: ErrorKind,
    file: String,
    field: String,
    offset: Option<u64>,
    what: String,
    fix: String,
    source: Option<io::Error>,
}

/// The sorts of trouble, for programs; people read the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The operating system refused.
    Io,
    /// The file breaks its format's rules.
    Malformed,
    /// A field, tensor or file is not there.
    Missing,
    /// A field has another type than the reader needs.
    Type,
    /// Valid, but nothing that Alula can use.
    Unsupported,
}

pub(crate) const DOWNLOAD: &str = "the file is damaged or incomplete, download it again";

impl Error {
    fn new(kind: ErrorKind, file: &str, field: &str, what: impl Display, fix: impl Display) -> Error {
        let (file, field, what, fix) = (file.to_owned(), clip(field), what.to_string(), fix.to_string());
        Error(Box::new(Report { kind, file, field, offset: None, what, fix, source: None }))
    }

    pub(crate) fn malformed(file: &str, field: &str, what: impl Display) -> Error {
        Error::new(ErrorKind::Malformed, file, field, what, DOWNLOAD)
    }

    pub(crate) fn missing(file: &str, field: &str, what: impl Display, fix: impl Display) -> Error {
        Error::new(ErrorKind::Missing, file, field, what, fix)
    }

    pub(crate) fn wrong_type(file: &str, field: &str, what: impl Display, fix: impl Display) -> Error {
        Error::new(ErrorKind::Type, file, field, what, fix)
    }

    pub(crate) fn unsupported(file: &str, field: &str, what: impl Display, fix: impl Display) -> Error {
        Error::new(ErrorKind::Unsupported, file, field, what, fix)
    }

    pub(crate) fn io(file: &str, doing: &str, source: io::Error) -> Error {
        let fix = match source.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "check its permissions",
            io::ErrorKind::StorageFull => "make room on the disk",
            _ => "check the path and the disk",
        };
        let mut error = Error::new(ErrorKind::Io, file, "", format_args!("cannot be {doing}: {source}"), fix);
        error.0.source = Some(source);
        error
    }

    pub(crate) fn at(mut self, offset: usize) -> Error {
        self.0.offset = Some(offset as u64);
        self
    }

    pub(crate) fn fix(mut self, fix: impl Display) -> Error {
        self.0.fix = fix.to_string();
        self
    }

    /// The sort of trouble.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The metadata key, tensor or part of the file that is wrong; empty if it is the file itself.
    pub fn field(&self) -> &str {
        &self.0.field
    }

    /// Where in the file, if it is a binary place.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

/// A name out of a file, fit for a message: at most 96 characters.
pub(crate) fn clip(name: &str) -> String {
    clip_to(name, 96)
}

/// Text out of a file, fit for a message: at most `longest` characters, nothing that moves a terminal's cursor.
pub fn clip_to(text: &str, longest: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == longest => {
                out.push('…');
                break;
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
