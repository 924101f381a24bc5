//! Messages of content blocks, as clients send them and as chat templates read them.

use super::CacheControl;
use crate::error::ApiError;
use crate::openai::fields::OneOrMany;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use utoipa::ToSchema;

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Message)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub content: OneOrMany<Block>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = anthropic::Role)]
pub enum Role {
    /// A person, or the tools.
    User,
    /// The model.
    Assistant,
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = anthropic::Block)]
pub enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// Beginnings that were computed before are found out without it.
        cache_control: Option<CacheControl>,
        /// Only none.
        #[schema(value_type = Option<Vec<Object>>)]
        citations: Option<[(); 0]>,
    },
    /// What the model wrote for itself.
    Thinking {
        /// The text.
        thinking: String,
        /// Not looked at.
        signature: Option<String>,
    },
    /// A call.
    ToolUse {
        /// Its name among calls.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
        /// Beginnings that were computed before are found out without it.
        cache_control: Option<CacheControl>,
    },
    /// What a tool says.
    ToolResult {
        /// The call that it answers.
        tool_use_id: String,
        /// What it says.
        content: Option<OneOrMany<TextBlock>>,
        /// Whether the call failed; the model is told so.
        is_error: Option<bool>,
        /// Beginnings that were computed before are found out without it.
        cache_control: Option<CacheControl>,
    },
}

/// A text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::TextBlock)]
pub struct TextBlock {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: TextKind,
    /// The text.
    pub text: String,
    /// Beginnings that were computed before are found out without it.
    pub cache_control: Option<CacheControl>,
    /// Only none.
    #[schema(value_type = Option<Vec<Object>>)]
    pub citations: Option<[(); 0]>,
}

/// The kind of a text.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = anthropic::TextKind)]
pub enum TextKind {
    /// Text.
    Text,
}

/// Texts as one, a line each.
fn text(content: OneOrMany<TextBlock>) -> String {
    match content {
        OneOrMany::One(text) => text,
        OneOrMany::Many(blocks) => blocks.into_iter().map(|b| b.text).collect::<Vec<_>>().join("\n"),
    }
}

/// Messages as templates read them.
///
/// # Errors
/// There is none, a block is not its speaker's, or the last word is the assistant's.
pub(super) fn for_template(system: Option<OneOrMany<TextBlock>>, messages: Vec<Message>) -> Result<Value, ApiError> {
    let mut out = Out::default();
    if let Some(system) = system {
        out.messages.push(json!({"role": "system", "content": text(system)}));
    }
    match messages.last() {
        None => return Err(ApiError::field("messages", "`messages` is empty: give at least one")),
        Some(last) if last.role == Role::Assistant => {
            let what = "`messages`: the last one is the assistant's, and a begun answer cannot be continued; end with \
                        the user's";
            return Err(ApiError::field("messages", what));
        }
        Some(_) => {}
    }
    for (at, message) in messages.into_iter().enumerate() {
        let blocks = message
            .content
            .list(|text| Block::Text { text, cache_control: None, citations: None })
            .into_iter()
            .enumerate();
        match message.role {
            Role::User => out.user(at, blocks)?,
            Role::Assistant => out.assistant(at, blocks)?,
        }
    }
    Ok(Value::Array(out.messages))
}

#[derive(Default)]
struct Out {
    messages: Vec<Value>,
    /// Calls by name, with their tools.
    calls: HashMap<String, String>,
}

/// A block that another speaker may send.
fn misplaced(at: usize, i: usize, kind: &str, whose: &str) -> ApiError {
    let path = format!("messages[{at}].content[{i}]");
    let what = format!("`{path}` is of type `{kind}`, which belongs to messages of the {whose}");
    ApiError::field(path, what)
}

impl Out {
    fn user(&mut self, at: usize, blocks: impl Iterator<Item = (usize, Block)>) -> Result<(), ApiError> {
        let (mut texts, before) = (Vec::new(), self.messages.len());
        for (i, block) in blocks {
            match block {
                Block::Text { text, .. } => texts.push(text),
                Block::ToolResult { tool_use_id, content, is_error, .. } => {
                    self.say(&mut texts);
                    let mut content = content.map(text).unwrap_or_default();
                    if is_error == Some(true) {
                        content = format!("Error: {content}");
                    }
                    let mut message = json!({"role": "tool", "tool_call_id": tool_use_id, "content": content});
                    if let Some(name) = self.calls.get(&tool_use_id) {
                        message["name"] = name.as_str().into();
                    }
                    self.messages.push(message);
                }
                Block::Thinking { .. } => return Err(misplaced(at, i, "thinking", "assistant")),
                Block::ToolUse { .. } => return Err(misplaced(at, i, "tool_use", "assistant")),
            }
        }
        if self.messages.len() == before && texts.is_empty() {
            let path = format!("messages[{at}].content");
            return Err(ApiError::field(&path, format!("`{path}` is empty: give at least one block")));
        }
        self.say(&mut texts);
        Ok(())
    }

    /// What the user said, as one turn with what he said just before.
    fn say(&mut self, texts: &mut Vec<String>) {
        if texts.is_empty() {
            return;
        }
        let text = std::mem::take(texts).join("\n");
        match self.messages.last_mut().filter(|m| m["role"] == "user").map(|m| &mut m["content"]) {
            Some(Value::String(content)) => {
                content.push('\n');
                content.push_str(&text);
            }
            _ => self.messages.push(json!({"role": "user", "content": text})),
        }
    }

    fn assistant(&mut self, at: usize, blocks: impl Iterator<Item = (usize, Block)>) -> Result<(), ApiError> {
        let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for (i, block) in blocks {
            match block {
                Block::Text { text, .. } => content.push_str(&text),
                Block::Thinking { thinking, .. } => reasoning.push_str(&thinking),
                Block::ToolUse { id, name, input, .. } => {
                    calls.push(json!({"id": id, "type": "function", "function": {"name": name, "arguments": input}}));
                    self.calls.insert(id, name);
                }
                Block::ToolResult { .. } => return Err(misplaced(at, i, "tool_result", "user")),
            }
        }
        let mut message = json!({"role": "assistant", "content": content});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = Value::Array(calls);
        }
        self.messages.push(message);
        Ok(())
    }
}
