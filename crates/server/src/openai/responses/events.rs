//! From pieces of an answer to a response's events, and to the response itself.

use super::items::{Content, Item, Status};
use super::object::{
    EventBody, Failure, Incomplete, InputDetails, OutputDetails, ResponseEvent, ResponseObject, ResponseUsage,
};
use crate::dialogue::{Delta, Finish, Part};
use crate::error::ApiError;
use crate::openai::chat::token_logprob;
use crate::openai::messages::Role;
use crate::openai::now;
use alula_engine::Usage;
use alula_tokenizer::Tokenizer;
use serde_json::Value;
use std::sync::Arc;

/// Writes a response down as it comes. At most one item is open, the last one of the output.
pub struct Scribe {
    /// As it is.
    pub response: ResponseObject,
    next: u64,
    open: bool,
    /// Log-probabilities of tokens whose text has not come yet.
    pending: Vec<Value>,
    tokenizer: Arc<Tokenizer>,
}

impl Scribe {
    /// Of a response that has just begun.
    pub fn new(response: ResponseObject, tokenizer: Arc<Tokenizer>) -> Scribe {
        Scribe { response, next: 0, open: false, pending: Vec::new(), tokenizer }
    }

    /// Whether the response has its end.
    pub fn ended(&self) -> bool {
        !matches!(self.response.status, Status::Queued | Status::InProgress)
    }

    fn number(&mut self, bodies: Vec<EventBody>) -> Vec<ResponseEvent> {
        let number = |body| {
            let event = ResponseEvent { sequence_number: self.next, body };
            self.next += 1;
            event
        };
        bodies.into_iter().map(number).collect()
    }

    /// The first events.
    pub fn begin(&mut self) -> Vec<ResponseEvent> {
        self.response.status = Status::InProgress;
        let response = || Box::new(self.response.clone());
        let bodies = vec![EventBody::Created { response: response() }, EventBody::InProgress { response: response() }];
        self.number(bodies)
    }

    /// What a piece of the answer brings.
    pub fn write(&mut self, delta: Delta) -> Vec<ResponseEvent> {
        let mut out = Vec::new();
        if let Some((token, Some(l))) = &delta.token {
            self.pending.push(serde_json::to_value(token_logprob(&self.tokenizer, *token, l)).unwrap_or_default());
        }
        for part in delta.parts {
            self.part(part, &mut out);
        }
        if let Some((finish, usage, reasoning)) = delta.end {
            self.end(finish, &usage, reasoning, &mut out);
        }
        self.number(out)
    }

    /// It breaks off.
    pub fn fail(&mut self, e: &ApiError) -> Vec<ResponseEvent> {
        let mut out = Vec::new();
        self.close(Status::Incomplete, &mut out);
        self.response.status = Status::Failed;
        let code = e.code.unwrap_or("server_error").to_owned();
        self.response.error = Some(Failure { code, message: e.message.clone() });
        out.push(EventBody::Failed { response: Box::new(self.response.clone()) });
        self.number(out)
    }

    /// It cannot be kept, so its last event is another one.
    pub fn retract(&mut self, e: &ApiError) -> Vec<ResponseEvent> {
        self.next = self.next.saturating_sub(1);
        self.response.completed_at = None;
        self.fail(e)
    }

    /// Somebody stopped it.
    pub fn cancel(&mut self) -> Vec<ResponseEvent> {
        let mut out = Vec::new();
        self.close(Status::Incomplete, &mut out);
        self.response.status = Status::Cancelled;
        out.push(EventBody::Incomplete { response: Box::new(self.response.clone()) });
        self.number(out)
    }

    fn end(&mut self, finish: Finish, usage: &Usage, reasoning: usize, out: &mut Vec<EventBody>) {
        let whole = finish != Finish::Length;
        let spoken = self.response.output.iter().any(|i| !matches!(i, Item::Reasoning { .. }));
        if !spoken && whole {
            // An answer of no words is an answer.
            self.part(Part::Content(String::new()), out);
        }
        self.close(if whole { Status::Completed } else { Status::Incomplete }, out);
        let r = &mut self.response;
        r.usage = Some(ResponseUsage {
            input_tokens: usage.prompt,
            input_tokens_details: InputDetails {
                cached_tokens: usage.cached,
                cache_write_tokens: usage.prompt.saturating_sub(usage.cached),
            },
            output_tokens: usage.generated,
            output_tokens_details: OutputDetails { reasoning_tokens: reasoning },
            total_tokens: usage.prompt + usage.generated,
        });
        if whole {
            (r.status, r.completed_at) = (Status::Completed, Some(now()));
        } else {
            r.status = Status::Incomplete;
            r.incomplete_details = Some(Incomplete { reason: "max_output_tokens".to_owned() });
        }
        let response = Box::new(r.clone());
        out.push(if whole { EventBody::Completed { response } } else { EventBody::Incomplete { response } });
    }

    fn part(&mut self, part: Part, out: &mut Vec<EventBody>) {
        let fits = |item: Option<&Item>| {
            matches!(
                (&part, item),
                (Part::Content(_), Some(Item::Message { .. }))
                    | (Part::Reasoning(_), Some(Item::Reasoning { .. }))
                    | (Part::Arguments { .. }, Some(Item::FunctionCall { .. }))
            )
        };
        if !(self.open && fits(self.response.output.last())) {
            self.close(Status::Completed, out);
            self.open(&part, out);
        }
        let output_index = self.response.output.len().saturating_sub(1);
        let logprobs = std::mem::take(&mut self.pending);
        let Some(item) = self.response.output.last_mut() else { return };
        let item_id = item.id().to_owned();
        match (part, item) {
            (Part::Content(delta), Item::Message { content, .. }) => {
                if let Some(Content::OutputText { text, logprobs: all, .. }) = content.first_mut() {
                    text.push_str(&delta);
                    all.extend(logprobs.iter().cloned());
                }
                out.push(EventBody::TextDelta { item_id, output_index, content_index: 0, delta, logprobs });
            }
            (Part::Reasoning(delta), Item::Reasoning { content, .. }) => {
                if let Some(Content::ReasoningText { text }) = content.first_mut() {
                    text.push_str(&delta);
                }
                out.push(EventBody::ReasoningDelta { item_id, output_index, content_index: 0, delta });
            }
            (Part::Arguments { text: delta, .. }, Item::FunctionCall { arguments, .. }) => {
                arguments.push_str(&delta);
                out.push(EventBody::ArgumentsDelta { item_id, output_index, delta });
            }
            _ => {}
        }
    }

    /// Opens the item that a part belongs to.
    fn open(&mut self, part: &Part, out: &mut Vec<EventBody>) {
        let output_index = self.response.output.len();
        let stem = self.response.id.strip_prefix("resp_").unwrap_or(&self.response.id);
        let (name, status) = (|prefix: &str| format!("{prefix}_{stem}_{output_index}"), Status::InProgress);
        let (item, content) = match part {
            Part::Content(_) => {
                let (id, role) = (name("msg"), Role::Assistant);
                let item = Item::Message { id, status, role, phase: None, content: Vec::new() };
                (item, Some(Content::output(String::new(), Vec::new())))
            }
            Part::Reasoning(_) => {
                let item = Item::Reasoning { id: name("rs"), status, summary: Vec::new(), content: Vec::new() };
                (item, Some(Content::ReasoningText { text: String::new() }))
            }
            Part::Call { id, name: function, .. } => {
                let (call_id, function) = (id.clone(), function.clone());
                let item =
                    Item::FunctionCall { id: name("fc"), status, call_id, name: function, arguments: String::new() };
                (item, None)
            }
            Part::Arguments { .. } => return,
        };
        out.push(EventBody::ItemAdded { output_index, item: item.clone() });
        let item_id = item.id().to_owned();
        self.response.output.push(item);
        self.open = true;
        let Some(part) = content else { return };
        out.push(EventBody::PartAdded { item_id, output_index, content_index: 0, part: part.clone() });
        if let Some(Item::Message { content, .. } | Item::Reasoning { content, .. }) = self.response.output.last_mut() {
            content.push(part);
        }
    }

    /// Closes the item that is open.
    fn close(&mut self, how: Status, out: &mut Vec<EventBody>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let output_index = self.response.output.len().saturating_sub(1);
        let Some(item) = self.response.output.last_mut() else { return };
        let item_id = item.id().to_owned();
        match item {
            Item::Message { status, content, .. } | Item::Reasoning { status, content, .. } => {
                *status = how;
                if let Some(part) = content.first().cloned() {
                    let (item_id, content_index) = (item_id.clone(), 0);
                    out.push(match part.clone() {
                        Content::OutputText { text, logprobs, .. } => {
                            let item_id = item_id.clone();
                            EventBody::TextDone { item_id, output_index, content_index, text, logprobs }
                        }
                        Content::ReasoningText { text } | Content::InputText { text } => {
                            let item_id = item_id.clone();
                            EventBody::ReasoningDone { item_id, output_index, content_index, text }
                        }
                    });
                    out.push(EventBody::PartDone { item_id, output_index, content_index, part });
                }
            }
            Item::FunctionCall { status, name, arguments, .. } => {
                *status = how;
                let (name, arguments) = (name.clone(), arguments.clone());
                out.push(EventBody::ArgumentsDone { item_id, output_index, name, arguments });
            }
            Item::FunctionCallOutput { .. } => {}
        }
        out.push(EventBody::ItemDone { output_index, item: item.clone() });
    }
}
