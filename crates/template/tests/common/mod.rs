//! What the tests share: a case in JSON, rendered, and compared.

use alula_template::{Civil, Error, Input, Template};
use serde_json::{Map, Value};

/// The clock of `tools/goldens_template.py`.
pub(crate) const NOW: Civil = Civil { year: 2026, month: 2, day: 3, hour: 4, minute: 5, second: 6 };

/// What came of a rendering.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Text(String),
    Refused(String),
    Error(String),
}

impl Outcome {
    #[allow(dead_code)]
    /// Equal texts, equal refusals, or an error on both sides.
    pub(crate) fn agrees(&self, other: &Outcome) -> bool {
        match (self, other) {
            (Outcome::Error(_), Outcome::Error(_)) => true,
            _ => self == other,
        }
    }

    /// Where the two part.
    #[allow(dead_code)]
    pub(crate) fn difference(&self, want: &Outcome) -> String {
        let (Outcome::Text(got), Outcome::Text(want)) = (self, want) else {
            return format!("got  {}\nwant {}", clip(&format!("{self:?}"), 0), clip(&format!("{want:?}"), 0));
        };
        let same = got.bytes().zip(want.bytes()).take_while(|(a, b)| a == b).count();
        format!("got  …{:?}\nwant …{:?}", clip(got, same), clip(want, same))
    }
}

#[allow(dead_code)]
fn clip(text: &str, around: usize) -> String {
    let bytes = text.as_bytes();
    let (from, to) = (around.saturating_sub(60), (around + 240).min(bytes.len()));
    String::from_utf8_lossy(bytes.get(from..to).unwrap_or_default()).into_owned()
}

/// Renders a case.
pub(crate) fn outcome(template: &Result<Template, Error>, case: &Value) -> Outcome {
    let template = match template {
        Ok(template) => template,
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let extra = case.get("extra").and_then(Value::as_object).cloned().unwrap_or_default();
    let empty = Value::Array(Vec::new());
    let result = template.render(&Input {
        messages: case.get("messages").unwrap_or(&empty),
        tools: case.get("tools"),
        documents: case.get("documents"),
        add_generation_prompt: case.get("add_generation_prompt").and_then(Value::as_bool).unwrap_or(false),
        bos_token: case.get("bos_token").and_then(Value::as_str).unwrap_or("<s>"),
        eos_token: case.get("eos_token").and_then(Value::as_str).unwrap_or("</s>"),
        extra: &extra as &Map<String, Value>,
        now: NOW,
    });
    match result {
        Ok(text) => Outcome::Text(text),
        Err(Error::Refused(message)) => Outcome::Refused(message),
        Err(error) => Outcome::Error(error.to_string()),
    }
}
