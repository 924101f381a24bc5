//! Calls whose arguments stand between tags, as text: `<function=…><parameter=…>…</parameter></function>`.

use serde_json::Value;

/// Reads what stands behind `<function=`.
#[derive(Debug, Default)]
pub(crate) struct Tagged {
    at: At,
    /// The schema of the arguments.
    schema: Value,
    key: String,
    count: usize,
    /// How much of a value has no end in it.
    seen: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum At {
    #[default]
    Name,
    Between,
    Key,
    Value,
}

/// What came of reading on.
#[derive(Debug, PartialEq)]
pub(crate) enum Read {
    /// More text is needed.
    Wait,
    /// So many bytes were read; the name of the tool is this.
    Name(usize, String),
    /// So many bytes were read, which say this of the arguments.
    Arguments(usize, String),
    /// So many bytes were read, and the call is complete but for this.
    Done(usize, String),
    /// No call from here on; its arguments end with this.
    Bad(String),
}

const PARAMETER: &str = "<parameter=";
const END: &str = "</function>";
const CLOSE: &str = "</parameter>";

/// The longest name.
const NAME: usize = 256;

impl Tagged {
    /// The schema that arguments are read by.
    pub(crate) fn set_schema(&mut self, schema: Value) {
        self.schema = schema;
    }

    /// Reads on; `end`: no more text comes.
    pub(crate) fn read(&mut self, text: &str, end: bool) -> Read {
        match self.at {
            At::Name | At::Key => {
                let Some(length) = text.find('>') else {
                    let bad = end || text.len() > NAME || text.contains(['\n', '<']);
                    return if bad { Read::Bad(self.closing()) } else { Read::Wait };
                };
                let name = text[..length].trim().trim_matches('"').to_string();
                if name.is_empty() || length > NAME || text[..length].contains(['\n', '<']) {
                    return Read::Bad(self.closing());
                }
                if self.at == At::Name {
                    self.at = At::Between;
                    return Read::Name(length + 1, name);
                }
                (self.key, self.at) = (name, At::Value);
                Read::Arguments(length + 1, String::new())
            }
            At::Between => {
                let rest = text.trim_start();
                let skipped = text.len() - rest.len();
                if rest.starts_with(PARAMETER) {
                    self.at = At::Key;
                    return Read::Arguments(skipped + PARAMETER.len(), String::new());
                }
                if rest.starts_with(END) {
                    return Read::Done(skipped + END.len(), self.closing());
                }
                if rest.is_empty() && skipped > 0 {
                    return Read::Arguments(skipped, String::new());
                }
                // What the text ended in is open.
                match (PARAMETER.starts_with(rest) || END.starts_with(rest), end) {
                    (true, false) => Read::Wait,
                    (true, true) if rest.is_empty() => Read::Bad(String::new()),
                    _ => Read::Bad(self.closing()),
                }
            }
            At::Value => match text.get(self.seen..).and_then(|new| new.find(CLOSE)).map(|at| at + self.seen) {
                Some(length) => {
                    self.seen = 0;
                    let value = self.value(&text[..length]);
                    self.at = At::Between;
                    Read::Arguments(length + CLOSE.len(), value)
                }
                None if end => {
                    let value = self.value(text);
                    Read::Arguments(text.len(), value.strip_suffix('"').map(String::from).unwrap_or(value))
                }
                None => {
                    self.seen = text.floor_char_boundary(text.len().saturating_sub(CLOSE.len()));
                    Read::Wait
                }
            },
        }
    }

    fn closing(&self) -> String {
        match (self.at, self.count) {
            (At::Name, _) => String::new(),
            (_, 0) => "{}".into(),
            _ => "}".into(),
        }
    }

    /// A parameter as JSON.
    fn value(&mut self, text: &str) -> String {
        let text = text.strip_prefix('\n').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        let schema = self.schema.pointer("/properties").and_then(|properties| properties.get(&self.key));
        let value = typed(text, schema.unwrap_or(&Value::Null));
        self.count += 1;
        let before = if self.count == 1 { "{" } else { ", " };
        format!("{before}{}: {value}", Value::from(self.key.as_str()))
    }
}

/// Text that a schema says is a string, or JSON, or else a string.
fn typed(text: &str, schema: &Value) -> Value {
    if is_text(schema) {
        return text.into();
    }
    let word = match text.trim() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    serde_json::from_str(word).unwrap_or_else(|_| text.into())
}

/// Whether a schema allows strings alone.
pub(crate) fn is_text(schema: &Value) -> bool {
    let all = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string));
    match schema.get("type") {
        Some(Value::String(name)) => name == "string",
        Some(_) => false,
        None => schema.get("const").is_some_and(Value::is_string) || schema.get("enum").is_some_and(all),
    }
}
