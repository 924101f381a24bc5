//! Which part of a schema is to blame, when the library only says what is wrong.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::{lower, options};
use crate::Error;
use crate::error::escape;

/// How long to look for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The error for a schema of which the library says `what`: at the deepest schema that fails alone, and at the keyword
/// without which it would not. `fails` compiles a schema and says what is wrong with it.
pub(crate) fn locate(root: &Value, strict: bool, what: String, fails: impl Fn(Value) -> Option<String>) -> Error {
    let start = Instant::now();
    let broken = |root: &Value, path: &str| -> Option<String> {
        (start.elapsed() < PATIENCE).then(|| lower(root, path, strict).ok())?.and_then(|schema| fails(options(schema)))
    };
    let (mut path, mut what) = (String::from("#"), what);
    while let Some(schema) = root.pointer(&path[1..]) {
        match children(schema).find_map(|step| {
            let path = format!("{path}/{step}");
            // Allowing nothing is no mistake of its own.
            if root.pointer(&path[1..]) == Some(&Value::Bool(false)) {
                return None;
            }
            broken(root, &path).map(|what| (path, what))
        }) {
            Some(found) => (path, what) = found,
            None => break,
        }
    }
    let mut keyword = String::new();
    if let Some(map) = root.pointer(&path[1..]).and_then(Value::as_object) {
        for word in map.keys().filter(|word| !matches!(word.as_str(), "$defs" | "definitions" | "type")) {
            let mut without = root.clone();
            if let Some(Value::Object(map)) = without.pointer_mut(&path[1..]) {
                map.remove(word);
            }
            if start.elapsed() < PATIENCE && broken(&without, &path).is_none() {
                keyword.clone_from(word);
                break;
            }
        }
    }
    Error::schema(&path, &keyword, what)
}

/// The steps from a schema to those in it.
fn children(schema: &Value) -> impl Iterator<Item = String> {
    let mut steps = Vec::new();
    for (word, value) in schema.as_object().unwrap_or(&Map::new()) {
        match (word.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(map)) => {
                steps.extend(map.keys().map(|name| format!("{word}/{}", escape(name))));
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(list)) => {
                steps.extend((0..list.len()).map(|i| format!("{word}/{i}")));
            }
            ("items" | "additionalItems" | "additionalProperties", _) => steps.push(word.clone()),
            _ => {}
        }
    }
    steps.into_iter()
}
