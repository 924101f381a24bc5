//! Conversations as files: `{"model", "system", "messages": [{"role", "content"}], "sampling"}`.

use super::session::Turn;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::Path;

/// Largest file that is read.
const LARGEST: u64 = 64 << 20;

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Saved {
    pub(super) system: Option<String>,
    pub(super) turns: Vec<Turn>,
    pub(super) sampling: Map<String, Value>,
}

/// A file that is no conversation.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    #[error("{file}: {source}; check the path")]
    Io { file: String, source: std::io::Error },
    #[error("{file}: is no plain file of at most {} MB; give one that /save wrote", LARGEST >> 20)]
    Kind { file: String },
    #[error("{file}: is not JSON ({source}); give one that /save wrote")]
    Json { file: String, source: serde_json::Error },
    #[error("{file}: `{field}` {why}; give a file that /save wrote")]
    Field { file: String, field: String, why: String },
    #[error("{file}: exists and is no conversation; give another name")]
    Foreign { file: String },
}

/// Reads a conversation.
pub(super) fn load(path: &Path) -> Result<Saved, SavedError> {
    let file = path.display().to_string();
    let io = |source| SavedError::Io { file: file.clone(), source };
    // Asked before it is opened: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(SavedError::Kind { file });
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(SavedError::Kind { file });
    }
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|source| SavedError::Json { file: file.clone(), source })?;
    read(&value).map_err(|(field, why)| SavedError::Field { file, field, why })
}

fn read(value: &Value) -> Result<Saved, (String, String)> {
    let wrong = |field: &str, why: &str| Err((field.to_owned(), why.to_owned()));
    let mut saved = Saved::default();
    match value.get("system") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => saved.system = Some(text.clone()),
        Some(_) => return wrong("system", "is no text"),
    }
    match value.get("sampling") {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => saved.sampling = map.clone(),
        Some(_) => return wrong("sampling", "is no object"),
    }
    let Some(messages) = value.get("messages").and_then(Value::as_array) else {
        return wrong("messages", "is no list");
    };
    for (i, message) in messages.iter().enumerate() {
        let text = |key: &str| message.get(key).and_then(Value::as_str);
        let (Some(role), Some(content)) = (text("role"), text("content")) else {
            return wrong(&format!("messages[{i}]"), "has no role and content that are texts");
        };
        let open = saved.turns.last_mut().filter(|t| t.answer.is_none());
        match (role, open) {
            ("system", None) if i == 0 => saved.system = Some(content.to_owned()),
            ("user", None) => saved.turns.push(Turn { message: content.to_owned(), answer: None }),
            ("assistant", Some(turn)) => turn.answer = Some(content.to_owned()),
            _ => return wrong(&format!("messages[{i}].role"), "is out of turn; user and assistant must alternate"),
        }
    }
    Ok(saved)
}

/// Writes a conversation. A file that is there is written over only if it holds a conversation.
pub(super) fn save(path: &Path, model: &str, saved: &Saved) -> Result<(), SavedError> {
    let file = path.display().to_string();
    if path.exists() && load(path).is_err() {
        return Err(SavedError::Foreign { file });
    }
    let turn = |t: &Turn| {
        let answer = t.answer.as_ref().map(|a| json!({"role": "assistant", "content": a}));
        std::iter::once(json!({"role": "user", "content": t.message})).chain(answer)
    };
    let messages: Vec<Value> = saved.turns.iter().flat_map(turn).collect();
    let value = json!({"model": model, "system": saved.system, "messages": messages, "sampling": saved.sampling});
    std::fs::write(path, format!("{value:#}\n")).map_err(|source| SavedError::Io { file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conversations_are_read() {
        let turn = |m: &str, a: Option<&str>| Turn { message: m.into(), answer: a.map(Into::into) };
        let good = json!({"system": "s", "messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]});
        let saved = read(&good).unwrap();
        assert_eq!((saved.system.as_deref(), saved.turns), (Some("s"), vec![turn("a", Some("b")), turn("c", None)]));
        for (bad, field) in [
            (json!([]), "messages"),
            (json!({"messages": 1}), "messages"),
            (json!({"messages": [], "system": 1}), "system"),
            (json!({"messages": [], "sampling": 1}), "sampling"),
            (json!({"messages": [1]}), "messages[0]"),
            (json!({"messages": [{"role": "user"}]}), "messages[0]"),
            (json!({"messages": [{"role": "assistant", "content": ""}]}), "messages[0].role"),
            (json!({"messages": [{"role": "tool", "content": ""}]}), "messages[0].role"),
            (
                json!({"messages": [{"role": "user", "content": ""}, {"role": "user", "content": ""}]}),
                "messages[1].role",
            ),
        ] {
            assert_eq!(read(&bad).unwrap_err().0, field, "{bad}");
        }
    }
}
