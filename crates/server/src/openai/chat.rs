//! `/v1/chat/completions`.

use super::fields::{
    Never, StreamOptions, Tells, Usage, notes, refuse, retention, verbosity, whole_option, with_sampling, within,
};
use super::messages::{FunctionCall, Message, Role, ToolCall, for_template};
use super::tools::{Choice, ResponseFormat, ToolDef, tools};
use super::{FINGERPRINT, now};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::dialogue::{self, Delta, Deltas, Finish, Form, Part, Talk, ToolChoice, Whole, said};
use crate::error::ApiError;
use crate::generate::{self, Job, Total};
use crate::models::Found;
use crate::sse;
use crate::turns::naming;
use alula_engine::Logprobs;
use alula_tokenizer::Tokenizer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Answers of a request at most.
pub const MOST_CHOICES: usize = 128;

with_sampling! {
    /// What to answer.
    #[derive(Clone, Debug, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    pub struct ChatRequest {
        /// The model; by default the first one.
        pub model: Option<String>,
        /// The conversation.
        #[schema(min_items = 1)]
        pub messages: Vec<Message>,
        /// Send the answer as it is written.
        pub stream: Option<bool>,
        /// What to send with it.
        pub stream_options: Option<StreamOptions>,
        /// How many answers.
        #[schema(minimum = 1, maximum = 128)]
        #[serde(default, deserialize_with = "whole_option")]
        pub n: Option<usize>,
        /// Tokens of an answer at most; by default what the context holds.
        #[schema(minimum = 1)]
        #[serde(default, deserialize_with = "whole_option")]
        pub max_completion_tokens: Option<usize>,
        /// The same in OpenAI's older word.
        #[schema(minimum = 1)]
        #[serde(default, deserialize_with = "whole_option")]
        pub max_tokens: Option<usize>,
        /// Report log-probabilities.
        pub logprobs: Option<bool>,
        /// Report so many of the likeliest tokens.
        #[schema(minimum = 0, maximum = 20)]
        #[serde(default, deserialize_with = "whole_option")]
        pub top_logprobs: Option<usize>,
        /// Functions that the model may call.
        #[schema(max_items = 128)]
        pub tools: Option<Vec<ToolDef>>,
        /// Which calls are wanted; by default as the model likes.
        pub tool_choice: Option<Choice>,
        /// Whether there may be several calls; by default there may.
        pub parallel_tool_calls: Option<bool>,
        /// What the answer must look like.
        pub response_format: Option<ResponseFormat>,
        /// How much the model thinks, where its template has a word for it.
        pub reasoning_effort: Option<String>,
        /// Variables for the model's chat template, such as `enable_thinking`.
        #[schema(value_type = Option<Object>)]
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// Who asks; not used.
        pub user: Option<String>,
        /// How long the answer is, where the model's template has a word for it; `medium` anywhere.
        pub verbosity: Option<String>,
        /// The client's notes; not used, as answers are not stored.
        pub metadata: Option<BTreeMap<String, String>>,
        /// Who asks; not used.
        pub safety_identifier: Option<String>,
        /// Which requests begin alike; found out without it.
        pub prompt_cache_key: Option<String>,
        /// Only `in_memory`: what is computed is kept as long as there is room.
        pub prompt_cache_retention: Option<String>,
        /// Only `auto` and `default`: there is one tier.
        #[schema(schema_with = crate::openapi::service_tier)]
        pub service_tier: Option<String>,
        /// Only `text`.
        #[schema(schema_with = crate::openapi::modalities)]
        pub modalities: Option<Vec<String>>,
        /// Only false: answers are not stored.
        #[schema(schema_with = crate::openapi::never)]
        pub store: Option<bool>,
        #[schema(ignore)]
        functions: Option<Never>,
        #[schema(ignore)]
        function_call: Option<Never>,
        #[schema(ignore)]
        audio: Option<Never>,
        #[schema(ignore)]
        prediction: Option<Never>,
        #[schema(ignore)]
        web_search_options: Option<Never>,
    }
}

/// An answer, whole.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Usage,
    system_fingerprint: &'static str,
    service_tier: &'static str,
}

/// One of its choices.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    index: usize,
    message: Answer,
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: &'static str,
}

/// What the assistant says.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Answer {
    role: Role,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<ToolCall>>,
}

/// A part of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    system_fingerprint: &'static str,
    service_tier: &'static str,
}

/// What is new in a choice.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    index: usize,
    delta: DeltaBody,
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: Option<&'static str>,
}

/// What is new in a message.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct DeltaBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<CallDelta>>,
}

/// What is new in a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

/// What is new in a call's function.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// Log-probabilities of a choice.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChoiceLogprobs {
    content: Vec<TokenLogprob>,
    refusal: Option<Vec<TokenLogprob>>,
}

/// One token's.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    top_logprobs: Vec<TopLogprob>,
}

/// That of one that might have come.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TopLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

/// JSON has no infinity; OpenAI writes this for what never comes.
const NEVER: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { NEVER }
}

pub(super) fn token_logprob(tokenizer: &Tokenizer, token: u32, l: &Logprobs) -> TokenLogprob {
    let text = |id: u32| {
        let bytes = tokenizer.token_bytes(id);
        (String::from_utf8_lossy(&bytes).into_owned(), Some(bytes))
    };
    let top = l.top.iter().map(|&(id, p)| {
        let (token, bytes) = text(id);
        TopLogprob { token, logprob: finite(p), bytes }
    });
    let (name, bytes) = text(token);
    TokenLogprob { token: name, logprob: finite(l.chosen), bytes, top_logprobs: top.collect() }
}

impl ChatRequest {
    /// Refuses what is accepted by name only.
    fn check(&self) -> Result<(), ApiError> {
        let only = |name: &str, what: &str| ApiError::field(name, format!("`{name}` {what}"));
        if self.store == Some(true) {
            return Err(only("store", "is true, but chat completions are not stored; use /v1/responses"));
        }
        if self.service_tier.as_deref().is_some_and(|t| !matches!(t, "auto" | "default")) {
            return Err(only("service_tier", "must be `auto` or `default`: there is one tier"));
        }
        if self.modalities.as_ref().is_some_and(|m| m.iter().any(|m| m != "text")) {
            return Err(only("modalities", "must be `text`: the model writes text only"));
        }
        if self.top_logprobs.is_some() && self.logprobs != Some(true) {
            return Err(only("top_logprobs", "needs `logprobs` to be true"));
        }
        if self.max_tokens.is_some() && self.max_completion_tokens.is_some() {
            return Err(only("max_tokens", "and `max_completion_tokens` are the same; give one of them"));
        }
        retention(self.prompt_cache_retention.as_deref())?;
        refuse(&[
            ("functions", &self.functions, "use `tools`"),
            ("function_call", &self.function_call, "use `tool_choice`"),
            ("audio", &self.audio, "the model writes text only"),
            ("prediction", &self.prediction, "start the server with --lookup, which guesses from the prompt"),
            ("web_search_options", &self.web_search_options, "the server has no tools of its own"),
        ])?;
        notes(self.metadata.as_ref())
    }

    /// The engine's request, without its prompt, and the number of choices.
    fn job(&self, app: &App) -> Result<Job, ApiError> {
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0..=20)?;
        let most = match (self.max_completion_tokens, self.max_tokens) {
            (Some(n), _) => Some(within("max_completion_tokens", n, 1..=usize::MAX)?),
            (None, Some(n)) => Some(within("max_tokens", n, 1..=usize::MAX)?),
            (None, None) => None,
        };
        let request = self.request(most, (self.logprobs == Some(true)).then_some(top))?;
        let choices = within("n", self.n.unwrap_or(1), 1..=MOST_CHOICES)?;
        Ok(Job { request, choices, timeout: app.config.request_timeout, constraint: None })
    }
}

/// Answers a conversation.
///
/// # Errors
/// The request is wrong, the model is not there, or too much is waiting.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "OpenAI",
    request_body = ChatRequest,
    responses((status = 200, description = "The answer; with `stream`, events of which each holds a part, and `[DONE]`", content(
        (ChatResponse = "application/json"),
        (ChatChunk = "text/event-stream"),
    )))
)]
pub async fn chat(State(app): State<Arc<App>>, caller: Caller, body: Json<ChatRequest>) -> Result<Response, ApiError> {
    let Json { value: mut request, ignored } = body;
    request.check()?;
    let found = app.models.find(request.model.as_deref()).await?;
    let job = request.job(&app)?;
    let talk = request.talk(&found)?;
    let (choices, streams) = (job.choices, request.stream == Some(true));
    let tells = StreamOptions::tells(request.stream_options, streams)?;
    let head = Head { id: generate::name("chatcmpl-")?, created: now(), model: found.name.clone() };
    let (prompt, deltas) = dialogue::counted(&caller, &found, job, talk).await?;
    let tokenizer = Arc::clone(&found.model.tokenizer);
    let response = match streams {
        true => sse::response(chunks(head, deltas, tokenizer, choices, (tells, prompt))),
        false => {
            let asked = request.logprobs == Some(true);
            axum::Json(whole(head, dialogue::whole(deltas, choices).await?, &tokenizer, asked)).into_response()
        }
    };
    Ok(naming(&ignored, response))
}

impl ChatRequest {
    /// The conversation, taken out of the request.
    fn talk(&mut self, found: &Found) -> Result<Talk, ApiError> {
        let source = found.model.writer(&found.name)?.speech.source();
        let mut extra = self.chat_template_kwargs.take().unwrap_or_default();
        if let Some(effort) = self.reasoning_effort.take() {
            if !source.contains("reasoning_effort") {
                let what = "`reasoning_effort`: this model's template has no word for it; leave it out, or see \
                            `chat_template_kwargs`";
                return Err(ApiError::field("reasoning_effort", what));
            }
            extra.insert("reasoning_effort".to_owned(), effort.into());
        }
        if let Some(word) = self.verbosity.take() {
            verbosity("verbosity", word, source, &mut extra)?;
        }
        let mut tools = tools(self.tools.take().unwrap_or_default())?;
        let choice = self.tool_choice.take().map_or(Ok(ToolChoice::Auto), |choice| choice.choice(&mut tools))?;
        Ok(Talk {
            messages: for_template(std::mem::take(&mut self.messages), source.contains("developer"))?,
            tools,
            choice,
            parallel: self.parallel_tool_calls.unwrap_or(true),
            form: self.response_format.take().map_or(Ok(Form::Text), ResponseFormat::form)?,
            form_field: "response_format",
            extra,
        })
    }
}

/// What all parts of an answer have.
#[derive(Clone)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

/// The answer when it is whole.
fn whole(head: Head, answers: Vec<Whole>, tokenizer: &Tokenizer, asked: bool) -> ChatResponse {
    let mut total = Total::default();
    let choice = |(index, answer): (usize, Whole)| {
        let (finish, usage, reasoning) = answer.end.map_or((Finish::Stop, None, 0), |(f, u, r)| (f, Some(u), r));
        if let Some(usage) = usage {
            total.add(&usage);
            total.reasoning += reasoning;
        }
        let logprobs = answer.logprobs.iter().map(|(token, l)| token_logprob(tokenizer, *token, l)).collect();
        let calls = answer.calls.into_iter().map(|(id, name, arguments)| ToolCall {
            id,
            kind: "function".to_owned(),
            function: FunctionCall { name, arguments },
        });
        let calls: Vec<ToolCall> = calls.collect();
        let content = (!answer.content.is_empty() || calls.is_empty()).then_some(answer.content);
        ChatChoice {
            index,
            message: Answer {
                role: Role::Assistant,
                content,
                refusal: None,
                reasoning_content: (!answer.reasoning.is_empty()).then_some(answer.reasoning),
                tool_calls: (!calls.is_empty()).then_some(calls),
            },
            logprobs: asked.then_some(ChoiceLogprobs { content: logprobs, refusal: None }),
            finish_reason: finish.openai(),
        }
    };
    let choices = answers.into_iter().enumerate().map(choice).collect();
    ChatResponse {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices,
        usage: Usage::of(&total),
        system_fingerprint: FINGERPRINT,
        service_tier: "default",
    }
}

/// The answer in parts.
fn chunks(
    head: Head,
    deltas: Deltas,
    tokenizer: Arc<Tokenizer>,
    choices: usize,
    (tells, prompt): (Tells, usize),
) -> impl futures_util::Stream<Item = Result<ChatChunk, ApiError>> + Send + 'static {
    let so_far = move |written| (tells == Tells::Each).then(|| Usage::so_far(prompt, written));
    let chunk = move |choices: Vec<ChunkChoice>, usage: Option<Usage>| ChatChunk {
        id: head.id.clone(),
        object: "chat.completion.chunk",
        created: head.created,
        model: head.model.clone(),
        choices,
        usage: (tells != Tells::Nothing).then_some(usage),
        system_fingerprint: FINGERPRINT,
        service_tier: "default",
    };
    let choice = |index, delta, logprobs, finish_reason| ChunkChoice { index, delta, logprobs, finish_reason };
    let first = DeltaBody {
        role: Some(Role::Assistant),
        content: Some(String::new()),
        refusal: Some(None),
        ..DeltaBody::default()
    };
    let first: Vec<_> =
        (0..choices).map(|index| Ok(chunk(vec![choice(index, first.clone(), None, None)], so_far(0)))).collect();
    let last = chunk.clone();
    let total = Arc::new(std::sync::Mutex::new(Total::default()));
    let (sum, mut written) = (Arc::clone(&total), 0);
    let middle = deltas.map(move |delta| {
        let Delta { choice: index, parts, token, end } = match delta {
            Ok(delta) => delta,
            Err(e) => return vec![Err(e)],
        };
        written += usize::from(token.is_some());
        let so_far = so_far(written);
        let mut logprobs = token.filter(|_| said(&parts)).and_then(|(token, l)| {
            let content = vec![token_logprob(&tokenizer, token, &l?)];
            Some(ChoiceLogprobs { content, refusal: None })
        });
        let mut bodies: Vec<DeltaBody> = parts.into_iter().map(body).collect();
        if bodies.is_empty() && logprobs.is_some() {
            bodies.push(DeltaBody { content: Some(String::new()), ..DeltaBody::default() });
        }
        let mut out: Vec<_> = bodies
            .into_iter()
            .map(|body| Ok(chunk(vec![choice(index, body, logprobs.take(), None)], so_far)))
            .collect();
        if let Some((finish, usage, reasoning)) = end {
            if let Ok(mut total) = sum.lock() {
                total.add(&usage);
                total.reasoning += reasoning;
            }
            out.push(Ok(chunk(vec![choice(index, DeltaBody::default(), None, Some(finish.openai()))], so_far)));
        }
        out
    });
    let usage = futures_util::stream::once(async move {
        let total = total.lock().map_or(Total::default(), |t| *t);
        (tells != Tells::Nothing).then(|| Ok(last(Vec::new(), Some(Usage::of(&total)))))
    });
    let middle = middle.flat_map(futures_util::stream::iter);
    futures_util::stream::iter(first).chain(middle).chain(usage.filter_map(std::future::ready))
}

/// A part as a message's.
fn body(part: Part) -> DeltaBody {
    let call = |call: CallDelta| DeltaBody { tool_calls: Some(vec![call]), ..DeltaBody::default() };
    match part {
        Part::Content(text) => DeltaBody { content: Some(text), ..DeltaBody::default() },
        Part::Reasoning(text) => DeltaBody { reasoning_content: Some(text), ..DeltaBody::default() },
        Part::Call { index, id, name } => call(CallDelta {
            index,
            id: Some(id),
            kind: Some("function"),
            function: FunctionDelta { name: Some(name), arguments: String::new() },
        }),
        Part::Arguments { index, text } => {
            call(CallDelta { index, id: None, kind: None, function: FunctionDelta { name: None, arguments: text } })
        }
    }
}
