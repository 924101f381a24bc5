//! Values to text: Python's `str` and `repr`, and `json.dumps`.

use crate::meter::{Meter, Res, fail};
use crate::value::{Value, View, sort};
use std::fmt::Write;
use std::sync::Arc;

/// White space as Python's `str.isspace` sees it.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `repr` of a float, which is also its `str`: the shortest digits that read back as the same number.
pub(crate) fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".into();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.into();
    }
    let shortest = format!("{f:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// Python's `str`.
pub(crate) fn str(value: &Value, meter: &Meter) -> Res<Arc<str>> {
    Ok(match value {
        Value::Str(s) | Value::Markup(s) => s.clone(),
        _ => {
            let mut out = String::new();
            write_str(&mut out, value, meter)?;
            out.into()
        }
    })
}

/// Appends Python's `str`.
pub(crate) fn write_str(out: &mut String, value: &Value, meter: &Meter) -> Res<()> {
    match value {
        Value::Str(s) | Value::Markup(s) => {
            meter.alloc(s.len())?;
            out.push_str(s);
            Ok(())
        }
        Value::Undefined(_) => Ok(()),
        _ => write_repr(out, value, meter),
    }
}

/// Python's `repr`.
pub(crate) fn repr(value: &Value, meter: &Meter) -> Res<String> {
    let mut out = String::new();
    write_repr(&mut out, value, meter)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, meter: &Meter) -> Res<()> {
    meter.alloc(8)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Int(i) => drop(write!(out, "{i}")),
        Value::Float(f) => out.push_str(&float(*f)),
        Value::Str(s) => write_quoted(out, s, meter)?,
        Value::Markup(s) => {
            out.push_str("Markup(");
            write_quoted(out, s, meter)?;
            out.push(')');
        }
        Value::List(seq) => write_items(out, ["[", "]"], seq.items.iter(), meter)?,
        Value::Tuple(seq) if seq.items.len() == 1 => write_items(out, ["(", ",)"], seq.items.iter(), meter)?,
        Value::Tuple(seq) => write_items(out, ["(", ")"], seq.items.iter(), meter)?,
        Value::Dict(dict) => {
            out.push('{');
            for (i, (key, value)) in dict.pairs().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, key, meter)?;
                out.push_str(": ");
                write_repr(out, value, meter)?;
            }
            out.push('}');
        }
        Value::Range(range) => {
            let [start, stop, step] = **range;
            let _ = write!(out, "range({start}, {stop}");
            let _ = if step == 1 { write!(out, ")") } else { write!(out, ", {step})") };
        }
        Value::View(view, dict) => {
            out.push_str(value.type_name());
            match view {
                View::Keys => write_items(out, ["([", "])"], dict.pairs().map(|(k, _)| k), meter)?,
                View::Values => write_items(out, ["([", "])"], dict.pairs().map(|(_, v)| v), meter)?,
                View::Items => write_items(out, ["([", "])"], value.items(meter)?.iter(), meter)?,
            }
        }
        Value::Foreign(of) => match (of.get_attr("index"), of.get_attr("length")) {
            (Ok(index), Ok(length)) if !index.is_undefined() => drop(write!(out, "<LoopContext {index}/{length}>")),
            _ => out.push_str("<function>"),
        },
        _ => {
            let _ = write!(out, "<{}>", value.type_name());
        }
    }
    Ok(())
}

fn write_items<'v>(
    out: &mut String,
    [open, close]: [&str; 2],
    items: impl Iterator<Item = &'v Value>,
    meter: &Meter,
) -> Res<()> {
    out.push_str(open);
    for (i, item) in items.enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(out, item, meter)?;
    }
    out.push_str(close);
    Ok(())
}

/// Python's `repr` of a string.
fn write_quoted(out: &mut String, text: &str, meter: &Meter) -> Res<()> {
    meter.alloc(text.len() + 2)?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == quote => out.extend(['\\', c]),
            _ if is_printable(c) => out.push(c),
            _ => drop(match c as u32 {
                code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                code @ 0..=0xffff => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    Ok(())
}

/// Python's `str.isprintable` of a character; the standard library's escapes follow the same Unicode categories.
fn is_printable(c: char) -> bool {
    // Behind another character, so that marks which extend it are not escaped.
    c.is_ascii_graphic()
        || c == ' '
        || (!c.is_ascii() && ['a', c].iter().collect::<String>().escape_debug().count() == 2)
}

/// markupsafe's `escape`.
pub(crate) fn escape(text: &str, meter: &Meter) -> Res<String> {
    meter.alloc(text.len() * 5)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// How `json.dumps` writes.
pub(crate) struct Json {
    pub(crate) ascii: bool,
    /// What each level is indented by; None for everything on one line.
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
}

impl Json {
    /// Appends the value as JSON, at a level of nesting.
    pub(crate) fn write(&self, out: &mut String, value: &Value, level: usize, meter: &Meter) -> Res<()> {
        meter.alloc(8)?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Value::Int(i) => drop(write!(out, "{i}")),
            Value::Float(f) => out.push_str(&json_float(*f)),
            Value::Str(s) | Value::Markup(s) => self.string(out, s, meter)?,
            Value::List(seq) | Value::Tuple(seq) => {
                if seq.items.is_empty() {
                    out.push_str("[]");
                    return Ok(());
                }
                out.push('[');
                for (i, item) in seq.items.iter().enumerate() {
                    self.new_line(out, i > 0, level + 1, meter)?;
                    self.write(out, item, level + 1, meter)?;
                }
                self.close(out, ']', level, meter)?;
            }
            Value::Dict(dict) => {
                if dict.len() == 0 {
                    out.push_str("{}");
                    return Ok(());
                }
                out.push('{');
                let mut pairs: Vec<_> = dict.pairs().cloned().collect();
                if self.sort_keys {
                    pairs = sort(pairs, false, meter)?;
                }
                for (i, (key, value)) in pairs.iter().enumerate() {
                    self.new_line(out, i > 0, level + 1, meter)?;
                    match key {
                        Value::Str(s) | Value::Markup(s) => self.string(out, s, meter)?,
                        Value::None => out.push_str("\"null\""),
                        Value::Bool(b) => out.push_str(if *b { "\"true\"" } else { "\"false\"" }),
                        Value::Int(i) => drop(write!(out, "\"{i}\"")),
                        Value::Float(f) => drop(write!(out, "\"{}\"", json_float(*f))),
                        _ => {
                            return fail(format!(
                                "keys must be str, int, float, bool or None, not {}",
                                key.type_name()
                            ));
                        }
                    }
                    out.push_str(&self.key_separator);
                    self.write(out, value, level + 1, meter)?;
                }
                self.close(out, '}', level, meter)?;
            }
            _ => return fail(format!("Object of type {} is not JSON serializable", value.type_name())),
        }
        Ok(())
    }

    fn new_line(&self, out: &mut String, comma: bool, level: usize, meter: &Meter) -> Res<()> {
        if comma {
            out.push_str(&self.item_separator);
        }
        if let Some(indent) = &self.indent {
            meter.alloc(indent.len() * level)?;
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), level));
        }
        Ok(())
    }

    fn close(&self, out: &mut String, bracket: char, level: usize, meter: &Meter) -> Res<()> {
        self.new_line(out, false, level, meter)?;
        out.push(bracket);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str, meter: &Meter) -> Res<()> {
        meter.alloc(text.len() + 2)?;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\0'..='\x1f' => drop(write!(out, "\\u{:04x}", c as u32)),
                _ if self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}

fn json_float(f: f64) -> String {
    if f.is_finite() {
        float(f)
    } else if f.is_nan() {
        "NaN".into()
    } else {
        if f > 0.0 { "Infinity" } else { "-Infinity" }.into()
    }
}
