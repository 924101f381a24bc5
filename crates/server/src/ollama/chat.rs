//! `/api/chat`.

use super::answer::{self, Head, Line};
use super::options::{Options, fit, form, think};
use super::{KeepAlive, find};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::dialogue::{self, Talk, ToolChoice};
use crate::error::ApiError;
use crate::models::Found;
use crate::openai::tools::{ToolDef, tools};
use crate::turns::naming;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// A conversation to continue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::ChatRequest)]
pub struct ChatRequest {
    /// The model; `:latest` may follow its name.
    pub model: String,
    /// The conversation. Without one the model is loaded, or goes if `keep_alive` is 0.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ToolDef>>,
    /// What the answer must look like: `json` or a JSON schema.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
    /// Whether the model thinks: true, false, or how much where its template has a word for it.
    #[schema(value_type = Option<Object>)]
    pub think: Option<Value>,
    /// How tokens are chosen and how many.
    pub options: Option<Options>,
    /// A line for each piece; by default true.
    pub stream: Option<bool>,
    /// How long the model stays loaded after this, unless another request names it.
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
}

/// A message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::Message)]
pub struct Message {
    /// Who speaks.
    pub role: Speaker,
    /// What was said.
    #[serde(default)]
    pub content: String,
    /// What the assistant wrote for itself.
    pub thinking: Option<String>,
    /// Functions that the assistant called.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The tool that speaks.
    pub tool_name: Option<String>,
    /// The call that a tool's message answers; by default the first that has no answer.
    pub tool_call_id: Option<String>,
    /// Only none: models read text.
    #[schema(value_type = Option<Vec<String>>)]
    pub images: Option<Vec<Value>>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ollama::Speaker)]
pub enum Speaker {
    /// What the model is told before all.
    System,
    /// A person.
    User,
    /// The model.
    Assistant,
    /// A function that the model called.
    Tool,
}

/// A call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::ToolCall)]
pub struct ToolCall {
    /// Its name among calls.
    pub id: Option<String>,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: Option<ToolKind>,
    /// The call.
    pub function: Function,
}

/// Kinds of tools.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ollama::ToolKind)]
pub enum ToolKind {
    /// A function.
    Function,
}

/// Which function and with what.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::Function)]
pub struct Function {
    /// Its number in the answer; calls are in order anyway.
    pub index: Option<usize>,
    /// The function.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub arguments: Map<String, Value>,
}

/// Messages as templates read them.
fn for_template(messages: Vec<Message>) -> Result<Value, ApiError> {
    let mut out = Vec::with_capacity(messages.len());
    // Calls without an answer: name among calls, function.
    let mut open: VecDeque<(String, String)> = VecDeque::new();
    let mut number = 0;
    for (at, m) in messages.into_iter().enumerate() {
        let path = |field: &str| format!("messages[{at}].{field}");
        let refuse = |field: &str, what: &str| {
            let path = path(field);
            Err(ApiError::field(&path, format!("`{path}` {what}")))
        };
        if m.images.is_some_and(|i| !i.is_empty()) {
            return refuse("images", "is given, but the model reads text only");
        }
        let calls = m.tool_calls.unwrap_or_default();
        if m.role != Speaker::Assistant && !calls.is_empty() {
            return refuse("tool_calls", "belongs to messages of the assistant");
        }
        if m.role != Speaker::Assistant && m.thinking.is_some() {
            return refuse("thinking", "belongs to messages of the assistant");
        }
        if m.role != Speaker::Tool && (m.tool_name.is_some() || m.tool_call_id.is_some()) {
            return refuse("tool_name", "and `tool_call_id` belong to messages of tools");
        }
        out.push(match m.role {
            Speaker::System => json!({"role": "system", "content": m.content}),
            Speaker::User => json!({"role": "user", "content": m.content}),
            Speaker::Assistant => {
                let mut message = json!({"role": "assistant", "content": m.content});
                if let Some(thinking) = m.thinking {
                    message["reasoning_content"] = thinking.into();
                }
                let calls: Vec<Value> = calls
                    .into_iter()
                    .map(|call| {
                        number += 1;
                        // Nine letters and digits, as Mistral's templates want them.
                        let id = call.id.unwrap_or_else(|| format!("call{number:05}"));
                        open.push_back((id.clone(), call.function.name.clone()));
                        let function = json!({"name": call.function.name, "arguments": call.function.arguments});
                        json!({"id": id, "type": "function", "function": function})
                    })
                    .collect();
                if !calls.is_empty() {
                    message["tool_calls"] = Value::Array(calls);
                }
                message
            }
            Speaker::Tool => {
                let mine = |(id, name): &(String, String)| match (&m.tool_call_id, &m.tool_name) {
                    (Some(wanted), _) => wanted == id,
                    (None, Some(wanted)) => wanted == name,
                    (None, None) => true,
                };
                let call = open.iter().position(mine).and_then(|i| open.remove(i));
                let (id, name) = call.unzip();
                let mut message = json!({"role": "tool", "content": m.content});
                if let Some(id) = m.tool_call_id.or(id) {
                    message["tool_call_id"] = id.into();
                }
                if let Some(name) = m.tool_name.or(name) {
                    message["name"] = name.into();
                }
                message
            }
        });
    }
    Ok(Value::Array(out))
}

impl ChatRequest {
    fn talk(&mut self, found: &Found) -> Result<Talk, ApiError> {
        let mut extra = Map::new();
        think(self.think.as_ref(), found.model.writer(&found.name)?, &mut extra)?;
        Ok(Talk {
            messages: for_template(std::mem::take(&mut self.messages))?,
            tools: tools(self.tools.take().unwrap_or_default())?,
            choice: ToolChoice::Auto,
            parallel: true,
            form: form(self.format.take())?,
            form_field: "format",
            extra,
        })
    }
}

/// Answers a conversation.
///
/// # Errors
/// The request is wrong, the model is not there, or too much is waiting.
#[utoipa::path(
    post,
    path = "/api/chat",
    tag = "Ollama",
    request_body = ChatRequest,
    responses((status = 200, description = "The answer; lines of it unless `stream` is false", content(
        (Line = "application/json"),
        (Line = "application/x-ndjson"),
    )))
)]
pub async fn chat(State(app): State<Arc<App>>, caller: Caller, body: Json<ChatRequest>) -> Result<Response, ApiError> {
    let began = Instant::now();
    let Json { value: mut request, ignored } = body;
    let (found, keep) = find(&app, &request.model, request.keep_alive).await?;
    let head = Head { model: request.model.clone(), chat: true, began, load: began.elapsed() };
    let writer = found.model.writer(&found.name)?;
    if request.messages.is_empty() {
        return Ok(answer::nothing(&head, request.keep_alive.is_some_and(KeepAlive::ends)));
    }
    let options = request.options.take().unwrap_or_default();
    let mut job = options.job(&app)?;
    let context = options.context(writer)?;
    let talk = request.talk(&found)?;
    if let Some(context) = context {
        fit(&mut job, context, dialogue::prompt(&found, talk.clone()).await?.len())?;
    }
    let deltas = dialogue::start(&caller, &found, job, talk).await?;
    let response = match request.stream.unwrap_or(true) {
        true => answer::lines(head, deltas, keep),
        false => answer::whole(&head, deltas).await?,
    };
    Ok(naming(&ignored, response))
}
