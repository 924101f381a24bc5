//! Messages, as clients send them and as chat templates read them.

use super::fields::OneOrMany;
use crate::error::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What the model is told before all.
    System,
    /// The same, in OpenAI's newer word.
    Developer,
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A function that the model called.
    Tool,
}

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    #[serde(default)]
    pub content: Option<OneOrMany<Part>>,
    /// Who, if several have the role.
    #[serde(default)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool's message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// Why the assistant did not answer.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// `text`; other kinds are refused.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
    /// Why the assistant did not answer.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Refused: models read text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub image_url: Option<Value>,
    /// Refused: models read text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input_audio: Option<Value>,
    /// Refused: models read text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub file: Option<Value>,
}

/// A call of a function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Its name among calls.
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// The call.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".to_owned()
}

/// Which function and with what.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionCall {
    /// The function.
    pub name: String,
    /// Its arguments, a JSON object as text.
    pub arguments: String,
}

/// Messages as templates read them.
///
/// # Errors
/// There is none, or one that the model cannot read.
pub fn for_template(messages: Vec<Message>, developer: bool) -> Result<Value, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty: give at least one"));
    }
    let all = messages.into_iter().enumerate().map(|(at, m)| one(at, m, developer));
    Ok(Value::Array(all.collect::<Result<_, _>>()?))
}

/// `developer` says that the template knows that role.
fn one(at: usize, m: Message, developer: bool) -> Result<Value, ApiError> {
    let path = |field: &str| format!("messages[{at}].{field}");
    let needed = |field: &str, what: &str| ApiError::field(path(field), format!("`{}` {what}", path(field)));
    let role = match m.role {
        Role::System => "system",
        Role::Developer if developer => "developer",
        Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut out = Map::new();
    out.insert("role".into(), role.into());
    let content = m.content.map(|c| text(at, c)).transpose()?;
    let calls = m.tool_calls.filter(|calls| !calls.is_empty());
    if m.role != Role::Assistant {
        for (given, field) in [
            (calls.is_some(), "tool_calls"),
            (m.reasoning_content.is_some(), "reasoning_content"),
            (m.refusal.is_some(), "refusal"),
        ] {
            if given {
                return Err(needed(field, "belongs to messages of the assistant"));
            }
        }
    }
    match (content, m.refusal) {
        (Some(text), _) => out.insert("content".into(), text.into()),
        (None, Some(refusal)) => out.insert("content".into(), refusal.into()),
        (None, None) if m.role == Role::Assistant && (calls.is_some() || m.reasoning_content.is_some()) => {
            out.insert("content".into(), "".into())
        }
        (None, None) => return Err(needed("content", "is missing")),
    };
    if let Some(name) = m.name {
        out.insert("name".into(), name.into());
    }
    if let Some(reasoning) = m.reasoning_content {
        out.insert("reasoning_content".into(), reasoning.into());
    }
    match (m.role, m.tool_call_id) {
        (Role::Tool, None) => return Err(needed("tool_call_id", "is missing: name the call that this answers")),
        (Role::Tool, Some(id)) => _ = out.insert("tool_call_id".into(), id.into()),
        (_, Some(_)) => return Err(needed("tool_call_id", "belongs to messages of tools")),
        (_, None) => {}
    }
    if let Some(calls) = calls {
        let calls = calls.into_iter().enumerate().map(|(i, call)| {
            // Templates write arguments themselves, so they want an object and not its text.
            let arguments: Value = serde_json::from_str(&call.function.arguments).map_err(|e| {
                needed(&format!("tool_calls[{i}].function.arguments"), &format!("is not valid JSON: {e}"))
            })?;
            Ok(json!({
                "id": call.id,
                "type": call.kind,
                "function": {"name": call.function.name, "arguments": arguments},
            }))
        });
        out.insert("tool_calls".into(), Value::Array(calls.collect::<Result<_, ApiError>>()?));
    }
    Ok(Value::Object(out))
}

/// A content's text; parts are lines.
fn text(at: usize, content: OneOrMany<Part>) -> Result<String, ApiError> {
    let parts = match content {
        OneOrMany::One(text) => return Ok(text),
        OneOrMany::Many(parts) => parts,
    };
    let texts = parts.into_iter().enumerate().map(|(i, part)| {
        let path = format!("messages[{at}].content[{i}]");
        let refuse = |what: String| ApiError::field(&path, format!("`{path}` {what}"));
        match (part.kind.as_str(), part.text, part.refusal) {
            ("text", Some(text), None) => Ok(text),
            ("refusal", None, Some(text)) => Ok(text),
            ("text", None, _) => Err(refuse("has no `text`".into())),
            ("image_url" | "input_audio" | "file", ..) => {
                Err(refuse(format!("is of type `{}`, but the model reads text only", part.kind)))
            }
            (kind, ..) => Err(refuse(format!("has the type `{}`; give text", alula_format::clip_to(kind, 40)))),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}
