//! What a response is asked for with.

use super::items::InputItem;
use super::items::Status;
use super::object::{ReasoningEcho, ResponseObject, Truncation};
use crate::app::App;
use crate::dialogue::{Form, ToolChoice};
use crate::error::ApiError;
use crate::generate::Job;
use crate::models::Found;
use crate::openai::fields::{Choose, Never, OneOrMany, notes, refuse, retention, verbosity, whole_option, within};
use crate::openai::now;
use crate::openai::tools::{FunctionDef, ToolDef, Word, allow, tools};
use alula_engine::Request;
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// What brings log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

/// What to answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateResponse {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// A text, or items.
    pub input: Option<OneOrMany<InputItem>>,
    /// What the model is told before all; not kept for the next response.
    pub instructions: Option<String>,
    /// The response to continue.
    pub previous_response_id: Option<String>,
    /// Whether to keep the response; by default where the server keeps any.
    pub store: Option<bool>,
    /// Only false: answers are written for a reader.
    pub background: Option<bool>,
    /// Send the answer as it is written.
    pub stream: Option<bool>,
    /// What to send with it.
    pub stream_options: Option<ResponseStreamOptions>,
    /// Functions that the model may call.
    pub tools: Option<Vec<ResponseTool>>,
    /// Which calls are wanted; by default as the model likes.
    pub tool_choice: Option<ResponseChoice>,
    /// Whether there may be several calls; by default there may.
    pub parallel_tool_calls: Option<bool>,
    /// What the answer must look like.
    pub text: Option<TextConfig>,
    /// How much the model thinks.
    pub reasoning: Option<ReasoningConfig>,
    /// Tokens of the answer at most; by default what the context holds.
    #[serde(default, deserialize_with = "whole_option")]
    pub max_output_tokens: Option<usize>,
    /// 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// The likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// Report so many of the likeliest tokens, with `include`.
    #[serde(default, deserialize_with = "whole_option")]
    pub top_logprobs: Option<usize>,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: Option<f32>,
    /// Subtracted from them for each time.
    pub frequency_penalty: Option<f32>,
    /// So many likeliest tokens; 0 or -1 keeps all.
    #[serde(default, deserialize_with = "whole_option")]
    pub top_k: Option<i64>,
    /// Tokens of at least this part of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Same seed, same answer.
    #[serde(default, deserialize_with = "whole_option")]
    pub seed: Option<i64>,
    /// Only `message.output_text.logprobs`, and `reasoning.encrypted_content`, of which there is none.
    pub include: Option<Vec<String>>,
    /// What happens when the input is too long; by default an error.
    pub truncation: Option<Truncation>,
    /// The client's notes.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Variables for the model's chat template, such as `enable_thinking`.
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Only null: calls are the client's matter.
    #[serde(default, deserialize_with = "whole_option")]
    pub max_tool_calls: Option<usize>,
    /// Who asks; not used.
    pub user: Option<String>,
    /// Who asks; not used.
    pub safety_identifier: Option<String>,
    /// Which requests begin alike; found out without it.
    pub prompt_cache_key: Option<String>,
    /// Only `in_memory`: what is computed is kept as long as there is room.
    pub prompt_cache_retention: Option<String>,
    /// Only `auto` and `default`: there is one tier.
    pub service_tier: Option<String>,
    #[schema(ignore)]
    conversation: Option<Never>,
    #[schema(ignore)]
    prompt: Option<Never>,
    #[schema(ignore)]
    context_management: Option<Never>,
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseStreamOptions {
    /// Only false: events are not padded.
    pub include_obfuscation: Option<bool>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is called by.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must match the schema.
    pub strict: Option<bool>,
}

/// `none`, `auto`, `required`, a function, or those that are allowed.
#[derive(Clone, Debug, ToSchema)]
#[serde(untagged)]
pub enum ResponseChoice {
    /// A word.
    Word(Word),
    /// A function.
    Function(ResponseFunction),
    /// Some functions.
    Allowed(AllowedTools),
}

/// Only some of the functions may be called.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedTools {
    /// `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `auto` or `required`.
    pub mode: Word,
    /// The functions.
    pub tools: Vec<ResponseFunction>,
}

/// A call of one function is wanted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseFunction {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub name: String,
}

impl<'de> Deserialize<'de> for ResponseChoice {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Either {
            #[serde(rename = "type")]
            kind: String,
            name: Option<String>,
            mode: Option<Word>,
            tools: Option<Vec<ResponseFunction>>,
        }
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = ResponseChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `auto`, `required` or {\"type\": \"function\", \"name\": …}")
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<ResponseChoice, E> {
                Word::deserialize(serde::de::value::StrDeserializer::new(word)).map(ResponseChoice::Word)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ResponseChoice, A::Error> {
                let chosen = Either::deserialize(MapAccessDeserializer::new(map))?;
                match (chosen.name, chosen.mode, chosen.tools) {
                    (Some(name), None, None) => {
                        Ok(ResponseChoice::Function(ResponseFunction { kind: chosen.kind, name }))
                    }
                    (None, Some(mode), Some(tools)) => {
                        Ok(ResponseChoice::Allowed(AllowedTools { kind: chosen.kind, mode, tools }))
                    }
                    (None, mode, tools) if mode.is_some() || tools.is_some() => {
                        Err(A::Error::missing_field(if mode.is_none() { "mode" } else { "tools" }))
                    }
                    (None, ..) => Err(A::Error::missing_field("name")),
                    _ => Err(A::Error::custom("give `name`, or `mode` and `tools`")),
                }
            }
        }
        d.deserialize_any(V)
    }
}

/// What the answer must look like.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Its form.
    pub format: Option<TextFormat>,
    /// How long the answer is, where the model's template has a word for it; `medium` anywhere.
    pub verbosity: Option<String>,
}

/// The form of an answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What a schema is called; the model is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for; the model is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Option<Object>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Whether words that are no keywords are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// How much the model thinks.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasoningConfig {
    /// In the words of the model's template.
    pub effort: Option<String>,
    /// Refused: nobody summarizes.
    pub summary: Option<String>,
    /// Refused: nobody summarizes.
    pub generate_summary: Option<String>,
}

/// A request that holds together, apart from its input.
pub struct Asked {
    /// The engine's request, without its prompt.
    pub job: Job,
    /// Functions that the model may call.
    pub tools: Vec<alula_dialog::Tool>,
    /// Which calls are wanted.
    pub choice: ToolChoice,
    /// What the answer must look like.
    pub form: Form,
    /// Variables for the template.
    pub extra: Map<String, Value>,
    /// The response before anything is written.
    pub response: ResponseObject,
}

impl CreateResponse {
    /// Refuses what is accepted by name only.
    fn check(&self) -> Result<(), ApiError> {
        let only = |name: &str, what: &str| ApiError::field(name, format!("`{name}` {what}"));
        let reasoning = self.reasoning.as_ref();
        if self.background == Some(true) {
            return Err(only("background", "is not supported: an answer is written for a reader; leave it out"));
        }
        if self.service_tier.as_deref().is_some_and(|t| !matches!(t, "auto" | "default")) {
            return Err(only("service_tier", "must be `auto` or `default`: there is one tier"));
        }
        if self.max_tool_calls.is_some() {
            return Err(only("max_tool_calls", "is about tools of the server, which has none; leave it out"));
        }
        if reasoning.is_some_and(|r| r.summary.is_some()) {
            return Err(only("reasoning.summary", "is not supported: reasoning is given as it is; leave it out"));
        }
        if reasoning.is_some_and(|r| r.generate_summary.is_some()) {
            return Err(only(
                "reasoning.generate_summary",
                "is not supported: reasoning is given as it is; leave it out",
            ));
        }
        if self.stream_options.is_some_and(|o| o.include_obfuscation == Some(true)) {
            return Err(only("stream_options.include_obfuscation", "is not supported: events are not padded"));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(only("stream_options", "needs `stream` to be true"));
        }
        let known = [LOGPROBS, "reasoning.encrypted_content"];
        for (i, name) in self.include.iter().flatten().enumerate() {
            if !known.contains(&name.as_str()) {
                let name = alula_format::clip_to(name, 60);
                return Err(only(&format!("include[{i}]"), &format!("is `{name}`; there is only `{LOGPROBS}`")));
            }
        }
        retention(self.prompt_cache_retention.as_deref())?;
        refuse(&[
            ("conversation", &self.conversation, "keep the conversation with `previous_response_id`"),
            ("prompt", &self.prompt, "no templates are kept here; send `instructions` and `input`"),
            ("context_management", &self.context_management, "see `truncation`"),
        ])?;
        notes(self.metadata.as_ref())
    }

    /// Everything but the input. `store` is whether the server keeps responses.
    ///
    /// # Errors
    /// A field is wrong, or asks for what cannot be had.
    pub fn asked(&mut self, app: &App, found: &Found, id: String, store: bool) -> Result<Asked, ApiError> {
        self.check()?;
        let logprobs = self.include.iter().flatten().any(|name| name == LOGPROBS);
        let top = within("top_logprobs", self.top_logprobs.unwrap_or(0), 0..=20)?;
        let choose = Choose {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            logprobs: (logprobs || top > 0).then_some(top),
            ..Choose::default()
        };
        let most = self.max_output_tokens.map(|n| within("max_output_tokens", n, 1..=usize::MAX)).transpose()?;
        let request = Request { max_tokens: most, sampling: choose.sampling()?, ..Request::default() };
        let job = Job { request, choices: 1, timeout: app.config.request_timeout, constraint: None };
        let mut extra = self.chat_template_kwargs.take().unwrap_or_default();
        let source = found.model.writer(&found.name)?.speech.source();
        let effort = self.reasoning.take().and_then(|r| r.effort);
        if let Some(effort) = &effort {
            if !source.contains("reasoning_effort") {
                let what = "`reasoning.effort`: this model's template has no word for it; leave it out, or see \
                            `chat_template_kwargs`";
                return Err(ApiError::field("reasoning.effort", what));
            }
            extra.insert("reasoning_effort".to_owned(), effort.clone().into());
        }
        let list = self.tools.take().unwrap_or_default();
        let echo = list.iter().map(|t| {
            json!({
                "type": t.kind, "name": t.name, "description": t.description, "parameters": t.parameters,
                "strict": t.strict == Some(true),
            })
        });
        let echo = echo.collect();
        let list = list.into_iter().enumerate().map(|(i, t)| {
            let path = format!("tools[{i}].name");
            // A tool of another type is refused for that, not for a name that it need not have.
            let name = match t.name {
                None if t.kind == "function" => {
                    return Err(ApiError::field(&path, format!("the field `{path}` is missing")).code("missing_field"));
                }
                name => name.unwrap_or_default(),
            };
            let ResponseTool { kind, description, parameters, strict, .. } = t;
            Ok(ToolDef { kind, function: FunctionDef { name, description, parameters, strict } })
        });
        let mut tools = tools(list.collect::<Result<_, ApiError>>()?).map_err(flat)?;
        let (choice, choice_echo) = match self.tool_choice.take() {
            None | Some(ResponseChoice::Word(Word::Auto)) => (ToolChoice::Auto, json!("auto")),
            Some(ResponseChoice::Word(Word::None)) => (ToolChoice::None, json!("none")),
            Some(ResponseChoice::Word(Word::Required)) => (ToolChoice::Required, json!("required")),
            Some(ResponseChoice::Function(f)) if f.kind == "function" => {
                let echo = json!({"type": "function", "name": f.name});
                (ToolChoice::Named(f.name), echo)
            }
            Some(ResponseChoice::Allowed(allowed)) if allowed.kind == "allowed_tools" => {
                let names: Vec<String> = allowed.tools.iter().map(|f| f.name.clone()).collect();
                (allow(&mut tools, allowed.mode, &names, "tool_choice")?, json!(allowed))
            }
            Some(ResponseChoice::Allowed(_)) => {
                return Err(ApiError::field("tool_choice.type", "`tool_choice.type` must be `allowed_tools`"));
            }
            Some(ResponseChoice::Function(_)) => {
                return Err(ApiError::field("tool_choice.type", "`tool_choice.type` must be `function`"));
            }
        };
        let TextConfig { format, verbosity: words } = self.text.take().unwrap_or_default();
        let mut text = json!({"format": format.as_ref().map_or(json!({"type": "text"}), |f| json!(f))});
        if let Some(word) = words {
            text["verbosity"] = word.as_str().into();
            verbosity("text.verbosity", word, source, &mut extra)?;
        }
        let response = ResponseObject {
            id,
            object: "response".to_owned(),
            created_at: now(),
            completed_at: None,
            status: Status::InProgress,
            incomplete_details: None,
            model: found.name.clone(),
            previous_response_id: self.previous_response_id.clone(),
            instructions: self.instructions.clone(),
            output: Vec::new(),
            error: None,
            tools: echo,
            tool_choice: choice_echo,
            truncation: self.truncation.unwrap_or_default(),
            truncated_items: Vec::new(),
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            text,
            top_p: self.top_p.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            top_logprobs: top,
            temperature: self.temperature.unwrap_or(1.0),
            reasoning: ReasoningEcho { effort, summary: None },
            user: self.user.take(),
            usage: None,
            max_output_tokens: most,
            max_tool_calls: None,
            store,
            background: false,
            service_tier: "default".to_owned(),
            metadata: self.metadata.take().unwrap_or_default(),
            safety_identifier: self.safety_identifier.take(),
            prompt_cache_key: self.prompt_cache_key.take(),
        };
        Ok(Asked { job, tools, choice, form: format.map_or(Ok(Form::Text), TextFormat::form)?, extra, response })
    }
}

/// Paths of tools as they are here: without `function`.
fn flat(e: ApiError) -> ApiError {
    let plain = |text: String| text.replace("].function.", "].");
    ApiError { param: e.param.map(plain), message: plain(e.message), ..e }
}

impl TextFormat {
    fn form(self) -> Result<Form, ApiError> {
        let path = |field: &str| format!("text.format.{field}");
        let schema = self.kind == "json_schema";
        for (field, there) in [("schema", self.schema.is_some()), ("strict", self.strict.is_some())] {
            if there && !schema {
                let path = path(field);
                return Err(ApiError::field(&path, format!("`{path}` belongs to the type `json_schema`")));
            }
        }
        match self.kind.as_str() {
            "text" => Ok(Form::Text),
            "json_object" => Ok(Form::Object),
            "json_schema" => {
                let path = path("schema");
                let missing = ApiError::field(&path, format!("`{path}` is missing")).code("missing_field");
                Ok(Form::Schema { schema: self.schema.ok_or(missing)?, strict: self.strict == Some(true) })
            }
            other => {
                let (path, kind) = (path("type"), alula_format::clip_to(other, 40));
                let what = format!("`{path}` is `{kind}`; give text, json_object or json_schema");
                Err(ApiError::field(path, what))
            }
        }
    }
}
