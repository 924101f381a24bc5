//! A response, and the events by which it comes into being.

use super::items::{Content, Item, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A response: what was asked for and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Its name.
    pub id: String,
    /// `response`.
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970, when it is whole.
    pub completed_at: Option<u64>,
    /// How far it came.
    pub status: Status,
    /// Why it is not whole.
    pub incomplete_details: Option<Incomplete>,
    /// The model.
    pub model: String,
    /// The response that it continues.
    pub previous_response_id: Option<String>,
    /// What the model was told before all.
    pub instructions: Option<String>,
    /// What the model wrote.
    pub output: Vec<Item>,
    /// Why it broke off.
    pub error: Option<Failure>,
    /// Functions that the model could call.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// Which calls were wanted.
    #[schema(value_type = super::request::ResponseChoice)]
    pub tool_choice: Value,
    /// What happens when the input is too long.
    pub truncation: Truncation,
    /// Input items that were left out for that, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated_items: Vec<String>,
    /// Whether there may be several calls.
    pub parallel_tool_calls: bool,
    /// What the answer must look like.
    #[schema(value_type = Object)]
    pub text: Value,
    /// The likeliest tokens that together have this probability.
    pub top_p: f32,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: f32,
    /// Subtracted from them for each time.
    pub frequency_penalty: f32,
    /// Likeliest tokens that are reported.
    pub top_logprobs: usize,
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// How much the model thinks.
    pub reasoning: ReasoningEcho,
    /// Who asked.
    pub user: Option<String>,
    /// What it took.
    pub usage: Option<ResponseUsage>,
    /// Tokens of the answer at most.
    pub max_output_tokens: Option<usize>,
    /// Null: calls are the client's matter.
    pub max_tool_calls: Option<usize>,
    /// Whether it is kept.
    pub store: bool,
    /// Whether it is written without a reader.
    pub background: bool,
    /// `default`.
    pub service_tier: String,
    /// The client's notes.
    pub metadata: BTreeMap<String, String>,
    /// Who asked.
    pub safety_identifier: Option<String>,
    /// Which requests begin alike.
    pub prompt_cache_key: Option<String>,
}

/// How much the model thinks.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReasoningEcho {
    /// In the words of the model's template.
    pub effort: Option<String>,
    /// Null: nobody summarizes.
    pub summary: Option<String>,
}

/// What happens when the input is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// An error with both numbers.
    #[default]
    Disabled,
    /// The oldest items are left out, and named.
    Auto,
}

/// Why a response is not whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Incomplete {
    /// `max_output_tokens`.
    pub reason: String,
}

/// Why a response broke off.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What a response took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: usize,
    /// More on them.
    pub input_tokens_details: InputDetails,
    /// Tokens of the answer.
    pub output_tokens: usize,
    /// More on them.
    pub output_tokens_details: OutputDetails,
    /// All of them.
    pub total_tokens: usize,
}

/// More on a prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct InputDetails {
    /// Of them, those that were computed for an earlier request.
    pub cached_tokens: usize,
    /// Of them, those that later requests can use: what was computed.
    pub cache_write_tokens: usize,
}

/// More on an answer's tokens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutputDetails {
    /// Of them, those of reasoning.
    pub reasoning_tokens: usize,
}

/// What happens to a response.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseEvent {
    /// Its place among the events, from 0.
    pub sequence_number: u64,
    /// What happens.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happens to a response.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum EventBody {
    /// It has begun.
    #[serde(rename = "response.created")]
    Created {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// It is being written.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// It is whole.
    #[serde(rename = "response.completed")]
    Completed {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// It is as long as it may be.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// It broke off.
    #[serde(rename = "response.failed")]
    Failed {
        /// As it is.
        response: Box<ResponseObject>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Its place.
        output_index: usize,
        /// As it is.
        item: Item,
    },
    /// An item is whole.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Its place.
        output_index: usize,
        /// As it is.
        item: Item,
    },
    /// A part begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// As it is.
        part: Content,
    },
    /// A part is whole.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// As it is.
        part: Content,
    },
    /// More text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// What is new.
        delta: String,
        /// Of the tokens that brought it, if asked for.
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<Value>,
    },
    /// The text is whole.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// All of it.
        text: String,
        /// Of its tokens, if asked for.
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<Value>,
    },
    /// More reasoning.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// What is new.
        delta: String,
    },
    /// The reasoning is whole.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place in it.
        content_index: usize,
        /// All of it.
        text: String,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// What is new.
        delta: String,
    },
    /// A call's arguments are whole.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// The item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The function.
        name: String,
        /// All of them.
        arguments: String,
    },
}

impl EventBody {
    /// The response of an event that is the last one.
    pub fn ends(&mut self) -> Option<&mut ResponseObject> {
        match self {
            EventBody::Completed { response } | EventBody::Incomplete { response } => Some(response),
            _ => None,
        }
    }

    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            EventBody::Created { .. } => "response.created",
            EventBody::InProgress { .. } => "response.in_progress",
            EventBody::Completed { .. } => "response.completed",
            EventBody::Incomplete { .. } => "response.incomplete",
            EventBody::Failed { .. } => "response.failed",
            EventBody::ItemAdded { .. } => "response.output_item.added",
            EventBody::ItemDone { .. } => "response.output_item.done",
            EventBody::PartAdded { .. } => "response.content_part.added",
            EventBody::PartDone { .. } => "response.content_part.done",
            EventBody::TextDelta { .. } => "response.output_text.delta",
            EventBody::TextDone { .. } => "response.output_text.done",
            EventBody::ReasoningDelta { .. } => "response.reasoning_text.delta",
            EventBody::ReasoningDone { .. } => "response.reasoning_text.done",
            EventBody::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            EventBody::ArgumentsDone { .. } => "response.function_call_arguments.done",
        }
    }
}
