//! JSON files of bounded size, with errors that say where.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::Error;

/// Largest configuration file read; published ones stay under 2 MB.
const MAX_BYTES: u64 = 16 << 20;

/// Most values in one; each can cost three hundred bytes in memory.
const MAX_VALUES: usize = 1 << 17;

/// Reads a whole file of at most `max` bytes; `None` if there is no such file.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, Error> {
    let name = path.display().to_string();
    let io = |e| Error::io(&name, "read", e);
    let len = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => return Err(Error::unsupported(&name, "", "is not a plain file", "put the model's own file there")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let too_large =
        || Error::unsupported(&name, "", format_args!("is larger than {max} bytes"), "this is not a file of that kind");
    if len > max {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).map_err(|_| too_large())?);
    File::open(path).map_err(io)?.take(max + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max { Err(too_large()) } else { Ok(Some(bytes)) }
}

/// Reads a JSON file that holds one object; `None` if there is no such file.
pub(crate) fn object(path: &Path) -> Result<Option<Value>, Error> {
    let Some(bytes) = read(path, MAX_BYTES)? else { return Ok(None) };
    parse_object(&bytes, &path.display().to_string()).map(Some)
}

/// Reads a JSON file; `None` if there is no such file.
pub(crate) fn value(path: &Path) -> Result<Option<Value>, Error> {
    let Some(bytes) = read(path, MAX_BYTES)? else { return Ok(None) };
    parse(&bytes, &path.display().to_string()).map(Some)
}

/// Parses a JSON object, as [`parse`] does.
pub(crate) fn parse_object(bytes: &[u8], file: &str) -> Result<Value, Error> {
    let value = parse(bytes, file)?;
    if value.is_object() { Ok(value) } else { Err(Error::malformed(file, "", "holds no JSON object")) }
}

/// Parses JSON. Python's bare `Infinity`, `-Infinity` and `NaN` become `{"__float__": "Infinity"}` and so
/// on, which is how newer writers spell them.
fn parse(bytes: &[u8], file: &str) -> Result<Value, Error> {
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    if values > MAX_VALUES {
        return Err(Error::unsupported(
            file,
            "",
            format_args!("holds more than {MAX_VALUES} values"),
            "this is no model configuration",
        ));
    }
    let bytes = strict(bytes);
    serde_json::from_slice(&bytes).map_err(|e| syntax(file, &bytes, 0, &e))
}

/// An error of the JSON parser, with its place in the file; `start` is where `bytes` begin there.
pub(crate) fn syntax(file: &str, bytes: &[u8], start: usize, e: &serde_json::Error) -> Error {
    let line = bytes.split_inclusive(|&b| b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let message = e.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    let what = format!("is not valid JSON: {}", crate::error::clip(what));
    Error::malformed(file, "", what).at(start + line + e.column().saturating_sub(1))
}

/// `bytes` with Python's extra number tokens replaced outside of strings; borrowed where there are none.
fn strict(bytes: &[u8]) -> Cow<'_, [u8]> {
    const TOKENS: [(&[u8], &[u8]); 3] = [
        (b"-Infinity", br#"{"__float__":"-Infinity"}"#),
        (b"Infinity", br#"{"__float__":"Infinity"}"#),
        (b"NaN", br#"{"__float__":"NaN"}"#),
    ];
    let mut out = Vec::new();
    let (mut copied, mut i, mut in_string) = (0, 0, false);
    while let Some(&byte) = bytes.get(i) {
        match byte {
            b'\\' if in_string => i += 1,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                let rest = &bytes[i..];
                if let Some((token, strict)) = TOKENS.iter().find(|(token, _)| rest.starts_with(token)) {
                    out.extend_from_slice(&bytes[copied..i]);
                    out.extend_from_slice(strict);
                    i += token.len();
                    copied = i;
                    continue;
                }
            }
            _ => {}
        }
        i += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(bytes);
    }
    out.extend_from_slice(&bytes[copied..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_floats_are_spelt_out() {
        let text = br#"{"a": [Infinity, -Infinity,NaN], "b": "NaN \" -Infinity", "c": -1}"#;
        let v = parse_object(text, "c.json").expect("parses");
        assert_eq!(v["a"][1]["__float__"], "-Infinity");
        assert_eq!(v["a"][2]["__float__"], "NaN");
        assert_eq!((&v["b"], &v["c"]), (&Value::from("NaN \" -Infinity"), &Value::from(-1)));
    }

    #[test]
    fn syntax_errors_say_where() {
        let e = parse_object(b"{\n \"a\": ?\n}", "c.json").expect_err("bad");
        assert_eq!(e.offset(), Some(8));
        assert_eq!(
            e.to_string(),
            format!("c.json: is not valid JSON: expected value (at byte 8); {}", crate::error::DOWNLOAD)
        );
        assert!(parse_object(b"[1]", "c.json").is_err());
        assert!(parse_object(&vec![b'['; 1 << 20], "c.json").is_err());
    }
}
