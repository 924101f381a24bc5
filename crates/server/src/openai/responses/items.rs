//! Items: what goes into a response and what comes out of it.

use crate::error::ApiError;
use crate::openai::fields::OneOrMany;
use crate::openai::messages::{FunctionCall, Message, Part, Role, ToolCall};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Items of a request at most.
const MOST_ITEMS: usize = 4096;

/// An item as clients send it: which fields belong to it is its type's matter.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputItem {
    /// `message` (the default), `function_call`, `function_call_output`, `reasoning` or `item_reference`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name, if the server gave it one; for a reference, that of the item meant.
    pub id: Option<String>,
    /// How far it came.
    pub status: Option<Status>,
    /// Of a message: who speaks.
    pub role: Option<Role>,
    /// Of a message or of reasoning.
    pub content: Option<OneOrMany<InputPart>>,
    /// Of an assistant's message: whether it is the answer or on the way to it.
    pub phase: Option<Phase>,
    /// Of a call and its output: what ties them together.
    pub call_id: Option<String>,
    /// Of a call: the function.
    pub name: Option<String>,
    /// Of a call: a JSON object as text.
    pub arguments: Option<String>,
    /// Of a call's output.
    pub output: Option<OneOrMany<InputPart>>,
    /// Of reasoning; there are none, so it must be empty.
    pub summary: Option<Vec<InputPart>>,
    /// Of reasoning; it is never encrypted here, so it must be null.
    pub encrypted_content: Option<String>,
}

/// A part of an item's content.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputPart {
    /// `input_text`, `output_text`, `text`, `reasoning_text` or `refusal`; models read text only.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// Why the assistant did not answer.
    pub refusal: Option<String>,
    /// As they were sent; not read.
    #[schema(value_type = Option<Vec<Object>>)]
    pub annotations: Option<Vec<Value>>,
    /// As they were sent; not read.
    #[schema(value_type = Option<Vec<Object>>)]
    pub logprobs: Option<Vec<Value>>,
    /// Refused: models read text.
    pub image_url: Option<String>,
    /// Refused: models read text.
    pub detail: Option<String>,
    /// Refused: models read text.
    pub file_id: Option<String>,
    /// Refused: models read text.
    pub file_data: Option<String>,
    /// Refused: models read text.
    pub file_url: Option<String>,
    /// Refused: models read text.
    pub filename: Option<String>,
}

/// How far something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its turn.
    Queued,
    /// Is being written.
    InProgress,
    /// Is whole.
    Completed,
    /// Ends before its end.
    Incomplete,
    /// Broke off.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

/// What a message of the assistant is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// On the way to the answer.
    Commentary,
    /// The answer.
    FinalAnswer,
}

/// An item as the server writes and keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Somebody said something.
    Message {
        /// Its name.
        id: String,
        /// How far it came.
        status: Status,
        /// Who spoke.
        role: Role,
        /// What it is, if the client said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phase: Option<Phase>,
        /// What was said.
        content: Vec<Content>,
    },
    /// The model calls a function.
    FunctionCall {
        /// Its name.
        id: String,
        /// How far it came.
        status: Status,
        /// What ties it to its output.
        call_id: String,
        /// The function.
        name: String,
        /// A JSON object as text.
        arguments: String,
    },
    /// What a function returned.
    FunctionCallOutput {
        /// Its name.
        id: String,
        /// How far it came.
        status: Status,
        /// What ties it to its call.
        call_id: String,
        /// The text.
        output: String,
    },
    /// What the model wrote for itself.
    Reasoning {
        /// Its name.
        id: String,
        /// How far it came.
        status: Status,
        /// Empty: nobody summarizes.
        #[schema(value_type = Vec<Object>)]
        summary: Vec<Value>,
        /// The text.
        content: Vec<Content>,
    },
}

/// A part of an item's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// A text that was sent.
    InputText {
        /// The text.
        text: String,
    },
    /// A text that the model wrote.
    OutputText {
        /// The text.
        text: String,
        /// Empty: models cite nothing.
        #[schema(value_type = Vec<Object>)]
        annotations: Vec<Value>,
        /// Of its tokens, if asked for.
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<Value>,
    },
    /// A text that the model wrote for itself.
    ReasoningText {
        /// The text.
        text: String,
    },
}

impl Content {
    /// A text that the model wrote.
    pub fn output(text: String, logprobs: Vec<Value>) -> Content {
        Content::OutputText { text, annotations: Vec::new(), logprobs }
    }

    fn text(&self) -> &str {
        match self {
            Content::InputText { text } | Content::OutputText { text, .. } | Content::ReasoningText { text } => text,
        }
    }
}

impl Item {
    /// Its name.
    pub fn id(&self) -> &str {
        match self {
            Item::Message { id, .. }
            | Item::FunctionCall { id, .. }
            | Item::FunctionCallOutput { id, .. }
            | Item::Reasoning { id, .. } => id,
        }
    }

    /// Whether it tells the model how to behave.
    pub fn instructs(&self) -> bool {
        matches!(self, Item::Message { role: Role::System | Role::Developer, .. })
    }
}

/// What an input item is: an item, or the name of one.
pub enum Input {
    /// An item.
    Item(Item),
    /// The name of one that is kept.
    Reference(String),
}

/// The items of a request. `name` makes the names of those that have none, from a prefix and their place.
///
/// # Errors
/// One is of an unknown type, or has fields that do not belong to it, or lacks some.
pub fn read(input: OneOrMany<InputItem>, name: &dyn Fn(&str, usize) -> String) -> Result<Vec<Input>, ApiError> {
    let list = match input {
        OneOrMany::One(text) => {
            let content = vec![Content::InputText { text }];
            let (id, status) = (name("msg", 0), Status::Completed);
            return Ok(vec![Input::Item(Item::Message { id, status, role: Role::User, phase: None, content })]);
        }
        OneOrMany::Many(list) => list,
    };
    if list.len() > MOST_ITEMS {
        return Err(ApiError::field("input", format!("`input` has {} items; give at most {MOST_ITEMS}", list.len())));
    }
    list.into_iter().enumerate().map(|(at, item)| one(at, item, name)).collect()
}

fn one(at: usize, item: InputItem, name: &dyn Fn(&str, usize) -> String) -> Result<Input, ApiError> {
    let wrong = |field: &str, what: &str| {
        let path = format!("input[{at}].{field}");
        let message = format!("`{path}` {what}");
        ApiError::field(path, message)
    };
    let kind = item.kind.as_deref().unwrap_or("message");
    let fields: &[&str] = match kind {
        "message" => &["role", "content", "phase"],
        "function_call" => &["call_id", "name", "arguments"],
        "function_call_output" => &["call_id", "output"],
        "reasoning" => &["content", "summary", "encrypted_content"],
        "item_reference" => &[],
        other => {
            let kind = alula_format::clip_to(other, 40);
            let what =
                format!("is `{kind}`; give message, function_call, function_call_output, reasoning or item_reference");
            return Err(wrong("type", &what));
        }
    };
    let given = [
        ("role", item.role.is_some()),
        ("content", item.content.is_some()),
        ("phase", item.phase.is_some()),
        ("call_id", item.call_id.is_some()),
        ("name", item.name.is_some()),
        ("arguments", item.arguments.is_some()),
        ("output", item.output.is_some()),
        ("summary", item.summary.is_some()),
        ("encrypted_content", item.encrypted_content.is_some()),
    ];
    if let Some((field, _)) = given.iter().find(|(field, there)| *there && !fields.contains(field)) {
        return Err(wrong(field, &format!("does not belong to items of the type `{kind}`")));
    }
    let missing = |field: &str| wrong(field, "is missing").code("missing_field");
    let prefix = match kind {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        _ => "rs",
    };
    let id = item.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| name(prefix, at));
    let status = item.status.unwrap_or(Status::Completed);
    Ok(Input::Item(match kind {
        "message" => {
            let role = item.role.ok_or_else(|| missing("role"))?;
            if role == Role::Tool {
                return Err(wrong(
                    "role",
                    "is `tool`; give a tool's output as an item of the type function_call_output",
                ));
            }
            if item.phase.is_some() && role != Role::Assistant {
                return Err(wrong("phase", "belongs to messages of the assistant"));
            }
            let path = format!("input[{at}].content");
            let spoken = role == Role::Assistant;
            let wrap = |text| match spoken {
                true => Content::output(text, Vec::new()),
                false => Content::InputText { text },
            };
            let content = texts(&path, item.content.ok_or_else(|| missing("content"))?)?;
            Item::Message { id, status, role, phase: item.phase, content: content.into_iter().map(wrap).collect() }
        }
        "function_call" => {
            let arguments = item.arguments.ok_or_else(|| missing("arguments"))?;
            if let Err(e) = serde_json::from_str::<Value>(&arguments) {
                return Err(wrong("arguments", &format!("is not valid JSON: {e}")));
            }
            let call_id = item.call_id.ok_or_else(|| missing("call_id"))?;
            Item::FunctionCall { id, status, call_id, name: item.name.ok_or_else(|| missing("name"))?, arguments }
        }
        "function_call_output" => {
            let output = texts(&format!("input[{at}].output"), item.output.ok_or_else(|| missing("output"))?)?;
            let call_id = item.call_id.ok_or_else(|| missing("call_id"))?;
            Item::FunctionCallOutput { id, status, call_id, output: output.join("\n") }
        }
        "reasoning" => {
            if item.encrypted_content.is_some() {
                return Err(wrong("encrypted_content", "cannot be read: it is not from here; leave the item out"));
            }
            if item.summary.is_some_and(|s| !s.is_empty()) {
                return Err(wrong("summary", "is not empty, but models read reasoning and no summaries of it"));
            }
            let content = item.content.map_or(Ok(Vec::new()), |c| texts(&format!("input[{at}].content"), c))?;
            let content = content.into_iter().map(|text| Content::ReasoningText { text }).collect();
            Item::Reasoning { id, status, summary: Vec::new(), content }
        }
        _ => return item.id.map(Input::Reference).ok_or_else(|| missing("id")),
    }))
}

/// The texts of a content.
fn texts(path: &str, content: OneOrMany<InputPart>) -> Result<Vec<String>, ApiError> {
    let parts = match content {
        OneOrMany::One(text) => return Ok(vec![text]),
        OneOrMany::Many(parts) => parts,
    };
    let text = |(i, part): (usize, InputPart)| {
        let path = format!("{path}[{i}]");
        let refuse = |what: String| ApiError::field(&path, format!("`{path}` {what}"));
        let media = [&part.image_url, &part.detail, &part.file_id, &part.file_data, &part.file_url, &part.filename];
        match (part.kind.as_str(), part.text, part.refusal) {
            ("input_image" | "input_file" | "input_audio", ..) => {
                Err(refuse(format!("is of type `{}`, but the model reads text only", part.kind)))
            }
            _ if media.iter().any(|m| m.is_some()) => Err(refuse("has a file, but the model reads text only".into())),
            ("input_text" | "output_text" | "text" | "reasoning_text", Some(text), None) => Ok(text),
            ("refusal", None, Some(text)) => Ok(text),
            ("input_text" | "output_text" | "text" | "reasoning_text", None, _) => Err(refuse("has no `text`".into())),
            (kind, ..) => Err(refuse(format!("has the type `{}`; give text", alula_format::clip_to(kind, 40)))),
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}

/// Items as the messages of a conversation: what the assistant thought, said and called in a row is one message.
///
/// # Errors
/// An output answers no call.
pub fn messages(items: &[Item], instructions: Option<&str>) -> Result<Vec<Message>, ApiError> {
    let of = |role, text: String| Message { content: Some(OneOrMany::One(text)), ..empty(role) };
    let mut out: Vec<Message> = instructions.map(|text| of(Role::System, text.to_owned())).into_iter().collect();
    let mut calls: Vec<&str> = Vec::new();
    for item in items {
        match item {
            Item::Message { role: Role::Assistant, content, .. } => {
                let text = join(content);
                let message = assistant(&mut out, |m| m.content.is_none() && m.tool_calls.is_none());
                message.content = Some(OneOrMany::One(text));
            }
            Item::Message { role, content, .. } => out.push(of(*role, join(content))),
            Item::Reasoning { content, .. } => {
                let text = join(content);
                if !text.is_empty() {
                    out.push(Message { reasoning_content: Some(text), ..empty(Role::Assistant) });
                }
            }
            Item::FunctionCall { call_id, name, arguments, .. } => {
                calls.push(call_id);
                let function = FunctionCall { name: name.clone(), arguments: arguments.clone() };
                let call = ToolCall { id: call_id.clone(), kind: "function".to_owned(), function };
                assistant(&mut out, |_| true).tool_calls.get_or_insert_default().push(call);
            }
            Item::FunctionCallOutput { call_id, output, .. } => {
                if !calls.contains(&call_id.as_str()) {
                    let id = alula_format::clip_to(call_id, 100);
                    let what = format!("`input`: no call before it has the call_id `{id}` that an output answers");
                    return Err(ApiError::field("input", what).code("call_not_found"));
                }
                out.push(Message { tool_call_id: Some(call_id.clone()), ..of(Role::Tool, output.clone()) });
            }
        }
    }
    Ok(out)
}

/// The assistant's message that goes on, or a new one.
fn assistant(out: &mut Vec<Message>, goes_on: impl Fn(&Message) -> bool) -> &mut Message {
    let at = match out.last() {
        Some(last) if last.role == Role::Assistant && goes_on(last) => out.len() - 1,
        _ => {
            out.push(empty(Role::Assistant));
            out.len() - 1
        }
    };
    &mut out[at]
}

fn empty(role: Role) -> Message {
    Message {
        role,
        content: None::<OneOrMany<Part>>,
        name: None,
        tool_calls: None,
        tool_call_id: None,
        reasoning_content: None,
        refusal: None,
    }
}

fn join(content: &[Content]) -> String {
    content.iter().map(Content::text).collect::<Vec<_>>().join("\n")
}
