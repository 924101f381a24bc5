//! Anthropic's dialect: `/v1/messages` and `/v1/messages/count_tokens` (docs.anthropic.com/en/api/messages).

mod blocks;
mod stream;

pub use blocks::{Block, Message, Role, TextBlock};
pub use stream::StreamEvent;

use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::dialogue::{self, Finish, Form, Talk, ToolChoice, Whole};
use crate::error::ApiError;
use crate::generate::{self, Job};
use crate::models::{Found, Writer};
use crate::openai::fields::{Choose, OneOrMany, stops, within};
use crate::turns::naming;
use alula_engine::Request;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// Tools of a request at most.
const MOST_TOOLS: usize = 128;

/// A conversation to continue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::MessagesRequest)]
pub struct MessagesRequest {
    /// The model.
    pub model: String,
    /// Tokens of the answer at most.
    pub max_tokens: usize,
    /// The conversation. The last message is the user's.
    pub messages: Vec<Message>,
    /// What the model is told before all.
    pub system: Option<OneOrMany<TextBlock>>,
    /// Send the answer as it is written.
    pub stream: Option<bool>,
    /// Texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// The likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// So many likeliest tokens.
    pub top_k: Option<i64>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ToolDef>>,
    /// Which calls are wanted; by default as the model likes.
    pub tool_choice: Option<Choice>,
    /// Whether the model thinks; by default as its template has it.
    pub thinking: Option<Thinking>,
    /// How much effort, and what the answer must look like.
    pub output_config: Option<OutputConfig>,
    /// Who asks; not used.
    pub metadata: Option<Metadata>,
    /// There is one tier.
    pub service_tier: Option<ServiceTier>,
    /// Beginnings that were computed before are found out without it.
    pub cache_control: Option<CacheControl>,
}

/// A conversation whose tokens are counted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::CountRequest)]
pub struct CountRequest {
    /// The model.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// What the model is told before all.
    pub system: Option<OneOrMany<TextBlock>>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ToolDef>>,
    /// Which calls are wanted.
    pub tool_choice: Option<Choice>,
    /// Whether the model thinks.
    pub thinking: Option<Thinking>,
    /// How much effort, and what the answer must look like.
    pub output_config: Option<OutputConfig>,
    /// Beginnings that were computed before are found out without it.
    pub cache_control: Option<CacheControl>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::ToolDef)]
pub struct ToolDef {
    /// `custom`.
    #[serde(rename = "type")]
    pub kind: Option<ToolKind>,
    /// What it is called by.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Object)]
    pub input_schema: Map<String, Value>,
    /// Whether arguments must match the schema.
    pub strict: Option<bool>,
    /// Arguments are sent as they are written either way.
    pub eager_input_streaming: Option<bool>,
    /// Beginnings that were computed before are found out without it.
    pub cache_control: Option<CacheControl>,
}

/// Kinds of tools.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = anthropic::ToolKind)]
pub enum ToolKind {
    /// The client runs it.
    Custom,
}

/// Which calls are wanted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = anthropic::Choice)]
pub enum Choice {
    /// As the model likes.
    Auto {
        /// At most one call.
        disable_parallel_tool_use: Option<bool>,
    },
    /// At least one.
    Any {
        /// At most one call.
        disable_parallel_tool_use: Option<bool>,
    },
    /// One of this tool.
    Tool {
        /// The tool.
        name: String,
        /// At most one call.
        disable_parallel_tool_use: Option<bool>,
    },
    /// None.
    None {},
}

/// Whether the model thinks before it answers.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = anthropic::Thinking)]
pub enum Thinking {
    /// It does, as long as it likes.
    Adaptive {},
    /// It does not.
    Disabled {},
    /// Refused: so many tokens at most is nothing that the model can be held to.
    Enabled {
        /// The tokens.
        budget_tokens: usize,
    },
}

/// How much effort, and what the answer must look like.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::OutputConfig)]
pub struct OutputConfig {
    /// How much the model thinks, where its template has a word for it.
    pub effort: Option<Effort>,
    /// What the answer must look like.
    pub format: Option<OutputFormat>,
}

/// How much the model thinks.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = anthropic::Effort)]
pub enum Effort {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

/// What an answer must look like.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = anthropic::OutputFormat)]
pub enum OutputFormat {
    /// A value of a JSON schema.
    JsonSchema {
        /// The schema.
        #[schema(value_type = Object)]
        schema: Value,
    },
}

/// Who asks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::Metadata)]
pub struct Metadata {
    /// A name; not used.
    pub user_id: Option<String>,
}

/// Tiers.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = anthropic::ServiceTier)]
pub enum ServiceTier {
    /// What there is.
    Auto,
    /// The same.
    StandardOnly,
}

/// Where a beginning ends that is worth keeping. All are kept as long as there is room.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = anthropic::CacheControl)]
pub struct CacheControl {
    /// `ephemeral`.
    #[serde(rename = "type")]
    pub kind: CacheKind,
    /// How long; not used.
    pub ttl: Option<String>,
}

/// How long a beginning is kept.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = anthropic::CacheKind)]
pub enum CacheKind {
    /// For a while.
    Ephemeral,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::MessageResponse)]
pub struct MessageResponse {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: String,
    content: Vec<ContentBlock>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    usage: Usage,
}

/// A part of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = anthropic::ContentBlock)]
pub enum ContentBlock {
    /// What the model wrote for itself. Nothing vouches for it, so its signature is empty.
    Thinking {
        /// The text.
        thinking: String,
        /// Empty.
        signature: &'static str,
    },
    /// Text for the reader.
    Text {
        /// The text.
        text: String,
    },
    /// A call.
    ToolUse {
        /// Its name among calls.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments. What the limit of tokens broke off is text under `INVALID_JSON`.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[schema(as = anthropic::Usage)]
pub struct Usage {
    /// Tokens of the prompt that were computed for this request.
    input_tokens: usize,
    /// Always 0: what is computed is kept without being asked.
    cache_creation_input_tokens: usize,
    /// Tokens of the prompt that were computed for an earlier request.
    cache_read_input_tokens: usize,
    /// Tokens of the answer.
    output_tokens: usize,
    service_tier: &'static str,
}

impl Usage {
    fn new(prompt: usize, cached: usize, generated: usize) -> Usage {
        Usage {
            input_tokens: prompt.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: generated,
            service_tier: "standard",
        }
    }
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::CountResponse)]
pub struct CountResponse {
    input_tokens: usize,
}

/// An error as Anthropic writes it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::ErrorBody)]
pub struct ErrorBody {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorObject,
}

/// What is in it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::ErrorObject)]
pub struct ErrorObject {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
}

impl ErrorBody {
    /// In Anthropic's words.
    pub fn of(e: &ApiError) -> ErrorBody {
        ErrorBody { kind: "error", error: ErrorObject::of(e) }
    }
}

impl ErrorObject {
    fn of(e: &ApiError) -> ErrorObject {
        let kind = match e.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        ErrorObject { kind, message: e.message.clone() }
    }
}

/// What is said and how, for both endpoints.
struct Said {
    messages: Vec<Message>,
    system: Option<OneOrMany<TextBlock>>,
    tools: Option<Vec<ToolDef>>,
    tool_choice: Option<Choice>,
    thinking: Option<Thinking>,
    output_config: Option<OutputConfig>,
}

impl Said {
    fn talk(self, found: &Found) -> Result<Talk, ApiError> {
        let writer = found.model.writer(&found.name)?;
        let mut extra = Map::new();
        if let Some(thinking) = self.thinking {
            thinks(&thinking, writer, &mut extra)?;
        }
        let mut form = Form::Text;
        if let Some(config) = self.output_config {
            if let Some(effort) = config.effort {
                if !writer.speech.source().contains("reasoning_effort") {
                    let what = "`output_config.effort`: this model's template has no word for it; leave it out";
                    return Err(ApiError::field("output_config.effort", what));
                }
                extra.insert("reasoning_effort".to_owned(), serde_json::to_value(effort).unwrap_or_default());
            }
            if let Some(OutputFormat::JsonSchema { schema }) = config.format {
                form = Form::Schema { schema, strict: false };
            }
        }
        let (choice, single) = match self.tool_choice {
            None => (ToolChoice::Auto, None),
            Some(Choice::Auto { disable_parallel_tool_use }) => (ToolChoice::Auto, disable_parallel_tool_use),
            Some(Choice::Any { disable_parallel_tool_use }) => (ToolChoice::Required, disable_parallel_tool_use),
            Some(Choice::Tool { name, disable_parallel_tool_use }) => {
                (ToolChoice::Named(name), disable_parallel_tool_use)
            }
            Some(Choice::None {}) => (ToolChoice::None, None),
        };
        Ok(Talk {
            messages: blocks::for_template(self.system, self.messages)?,
            tools: tools(self.tools.unwrap_or_default())?,
            choice,
            parallel: single != Some(true),
            form,
            form_field: "output_config.format",
            extra,
        })
    }
}

/// Tells the template whether to think.
fn thinks(thinking: &Thinking, writer: &Writer, extra: &mut Map<String, Value>) -> Result<(), ApiError> {
    let refuse = |what: &str| Err(ApiError::field("thinking", format!("`thinking`: {what}")));
    let (switch, can) = (writer.speech.source().contains("enable_thinking"), writer.reasons());
    match thinking {
        Thinking::Enabled { budget_tokens } => {
            return refuse(&format!(
                "a budget of {budget_tokens} tokens cannot be kept; give {{\"type\": \"adaptive\"}} and limit `max_tokens`"
            ));
        }
        Thinking::Adaptive {} if !can => return refuse("this model does not think; leave it out"),
        Thinking::Disabled {} if can && !switch => return refuse("this model always thinks; leave it out"),
        Thinking::Adaptive {} | Thinking::Disabled {} => {}
    }
    if switch {
        extra.insert("enable_thinking".to_owned(), matches!(thinking, Thinking::Adaptive {}).into());
    }
    Ok(())
}

/// Functions as the model is told of them.
fn tools(list: Vec<ToolDef>) -> Result<Vec<alula_dialog::Tool>, ApiError> {
    if list.len() > MOST_TOOLS {
        return Err(ApiError::field("tools", format!("`tools` has {} tools; give at most {MOST_TOOLS}", list.len())));
    }
    let mut tools: Vec<alula_dialog::Tool> = Vec::new();
    for (i, tool) in list.into_iter().enumerate() {
        let path = format!("tools[{i}].name");
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if tool.name.is_empty() || tool.name.len() > 128 || !tool.name.chars().all(good) {
            let what = format!("`{path}` must have 1 to 128 letters, digits, `_`, `-` or `.`");
            return Err(ApiError::field(path, what));
        }
        if tools.iter().any(|t| t.name == tool.name) {
            return Err(ApiError::field(&path, format!("`{path}`: two tools are called `{}`", tool.name)));
        }
        tools.push(alula_dialog::Tool {
            name: tool.name,
            description: tool.description.unwrap_or_default(),
            parameters: Value::Object(tool.input_schema),
            strict: tool.strict == Some(true),
        });
    }
    Ok(tools)
}

/// An error whose fields are called as in this dialect.
fn own(e: ApiError) -> ApiError {
    let rename = |text: String| {
        let text = text.replace(".function.parameters", ".input_schema");
        if text.starts_with("`stop") || text.starts_with("stop") {
            return text.replace("stop", "stop_sequences");
        }
        text
    };
    ApiError { message: rename(e.message), param: e.param.map(rename), ..e }
}

/// Continues a conversation.
///
/// # Errors
/// The request is wrong, the model is not there, or too much is waiting.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "Anthropic",
    request_body = MessagesRequest,
    responses((status = 200, description = "The answer; with `stream`, events", content(
        (MessageResponse = "application/json"),
        (StreamEvent = "text/event-stream"),
    )))
)]
pub async fn messages(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<MessagesRequest>,
) -> Result<Response, ApiError> {
    let Json { value: request, ignored } = body;
    let found = app.models.find(Some(&request.model)).await?;
    let choose =
        Choose { temperature: request.temperature, top_p: request.top_p, top_k: request.top_k, ..Choose::default() };
    let stop = stops(request.stop_sequences.map(OneOrMany::Many)).map_err(own)?;
    let engine = Request {
        max_tokens: Some(within("max_tokens", request.max_tokens, 1..=usize::MAX)?),
        sampling: choose.sampling()?,
        stop: stop.clone(),
        ..Request::default()
    };
    let job = Job { request: engine, choices: 1, timeout: app.config.request_timeout, constraint: None };
    let said = Said {
        messages: request.messages,
        system: request.system,
        tools: request.tools,
        tool_choice: request.tool_choice,
        thinking: request.thinking,
        output_config: request.output_config,
    };
    let talk = said.talk(&found)?;
    let (prompt, deltas) = dialogue::counted(&caller, &found, job, talk).await.map_err(own)?;
    let empty = MessageResponse {
        id: generate::name("msg_")?,
        kind: "message",
        role: "assistant",
        model: found.name.clone(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: Usage::new(prompt, 0, 0),
    };
    let response = match request.stream == Some(true) {
        true => stream::response(empty, stop, deltas),
        false => {
            let answer = dialogue::whole(deltas, 1).await?.pop();
            axum::Json(whole(empty, answer.unwrap_or_default(), &stop)).into_response()
        }
    };
    Ok(naming(&ignored, response))
}

/// The answer when it is whole.
fn whole(empty: MessageResponse, answer: Whole, stop: &[String]) -> MessageResponse {
    let mut content = Vec::new();
    if !answer.reasoning.is_empty() {
        content.push(ContentBlock::Thinking { thinking: answer.reasoning, signature: "" });
    }
    if !answer.content.is_empty() {
        content.push(ContentBlock::Text { text: answer.content });
    }
    content.extend(answer.calls.into_iter().map(|(id, name, arguments)| ContentBlock::ToolUse {
        id,
        name,
        input: dialogue::object(&arguments),
    }));
    let mut out = MessageResponse { content, ..empty };
    if let Some((finish, usage, _)) = answer.end {
        (out.stop_reason, out.stop_sequence) = reason(finish, stop);
        out.usage = Usage::new(usage.prompt, usage.cached, usage.generated);
    }
    out
}

/// Why an answer ended, and the stop sequence that did it.
fn reason(finish: Finish, stop: &[String]) -> (Option<&'static str>, Option<String>) {
    match finish {
        Finish::Stop => (Some("end_turn"), None),
        Finish::StopString(at) => (Some("stop_sequence"), stop.get(at).cloned()),
        Finish::Length => (Some("max_tokens"), None),
        Finish::ToolCalls => (Some("tool_use"), None),
    }
}

/// Counts the tokens of a conversation.
///
/// # Errors
/// The request is wrong, or the model is not there.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "Anthropic",
    request_body = CountRequest,
    responses((status = 200, description = "How many tokens the prompt has", body = CountResponse))
)]
pub async fn count_tokens(
    State(app): State<Arc<App>>,
    body: Json<CountRequest>,
) -> Result<axum::Json<CountResponse>, ApiError> {
    let request = body.value;
    let found = app.models.find(Some(&request.model)).await?;
    let said = Said {
        messages: request.messages,
        system: request.system,
        tools: request.tools,
        tool_choice: request.tool_choice,
        thinking: request.thinking,
        output_config: request.output_config,
    };
    let talk = said.talk(&found)?;
    let input_tokens = dialogue::prompt(&found, talk).await.map_err(own)?.len();
    Ok(axum::Json(CountResponse { input_tokens }))
}
