//! An answer in events, each block between its start and its stop.

use super::{ContentBlock, ErrorObject, MessageResponse, Usage, reason};
use crate::dialogue::{Delta, Deltas, Part};
use crate::error::ApiError;
use crate::sse;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use utoipa::ToSchema;

/// An event.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = anthropic::StreamEvent)]
pub enum StreamEvent {
    /// The answer begins.
    MessageStart {
        /// With nothing in it.
        message: MessageResponse,
    },
    /// The stream is there.
    Ping {},
    /// A block begins.
    ContentBlockStart {
        /// Its number.
        index: usize,
        /// With nothing in it.
        content_block: ContentBlock,
    },
    /// More of a block.
    ContentBlockDelta {
        /// Its number.
        index: usize,
        /// What is new.
        delta: BlockDelta,
    },
    /// A block is whole.
    ContentBlockStop {
        /// Its number.
        index: usize,
    },
    /// The answer ends.
    MessageDelta {
        /// Why.
        delta: Ending,
        /// What it took.
        usage: Usage,
    },
    /// The last event.
    MessageStop {},
    /// The last event of an answer that broke off.
    Error {
        /// Why.
        error: ErrorObject,
    },
}

/// What is new in a block.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = anthropic::BlockDelta)]
#[expect(clippy::enum_variant_names, reason = "the names of the dialect")]
pub enum BlockDelta {
    /// Text.
    TextDelta {
        /// The text.
        text: String,
    },
    /// What the model wrote for itself.
    ThinkingDelta {
        /// The text.
        thinking: String,
    },
    /// What vouches for a block of thinking.
    SignatureDelta {
        /// Empty: nothing does.
        signature: &'static str,
    },
    /// Arguments of a call.
    InputJsonDelta {
        /// A piece of JSON.
        partial_json: String,
    },
}

/// Why an answer ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = anthropic::Ending)]
pub struct Ending {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

impl StreamEvent {
    fn name(&self) -> &'static str {
        match self {
            StreamEvent::MessageStart { .. } => "message_start",
            StreamEvent::Ping {} => "ping",
            StreamEvent::ContentBlockStart { .. } => "content_block_start",
            StreamEvent::ContentBlockDelta { .. } => "content_block_delta",
            StreamEvent::ContentBlockStop { .. } => "content_block_stop",
            StreamEvent::MessageDelta { .. } => "message_delta",
            StreamEvent::MessageStop {} => "message_stop",
            StreamEvent::Error { .. } => "error",
        }
    }

    fn sse(&self) -> Event {
        // serde_json escapes line ends, so the data is one line.
        Event::default().event(self.name()).data(crate::sse::line(self))
    }
}

/// The kind of block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Call,
}

/// Where an answer is.
#[derive(Default)]
struct Place {
    open: Option<Open>,
    /// Blocks that began.
    blocks: usize,
}

impl Place {
    fn close(&mut self, out: &mut Vec<StreamEvent>) {
        let Some(open) = self.open.take() else { return };
        let index = self.blocks.saturating_sub(1);
        if open == Open::Thinking {
            out.push(StreamEvent::ContentBlockDelta { index, delta: BlockDelta::SignatureDelta { signature: "" } });
        }
        out.push(StreamEvent::ContentBlockStop { index });
    }

    fn begin(&mut self, open: Open, content_block: ContentBlock, out: &mut Vec<StreamEvent>) {
        self.close(out);
        out.push(StreamEvent::ContentBlockStart { index: self.blocks, content_block });
        self.open = Some(open);
        self.blocks += 1;
    }

    fn part(&mut self, part: Part, out: &mut Vec<StreamEvent>) {
        let delta = match part {
            Part::Content(text) => {
                if self.open != Some(Open::Text) {
                    self.begin(Open::Text, ContentBlock::Text { text: String::new() }, out);
                }
                BlockDelta::TextDelta { text }
            }
            Part::Reasoning(thinking) => {
                if self.open != Some(Open::Thinking) {
                    let block = ContentBlock::Thinking { thinking: String::new(), signature: "" };
                    self.begin(Open::Thinking, block, out);
                }
                BlockDelta::ThinkingDelta { thinking }
            }
            Part::Call { id, name, .. } => {
                let input = Value::Object(Map::new());
                return self.begin(Open::Call, ContentBlock::ToolUse { id, name, input }, out);
            }
            // Arguments follow their call.
            Part::Arguments { text, .. } => BlockDelta::InputJsonDelta { partial_json: text },
        };
        out.push(StreamEvent::ContentBlockDelta { index: self.blocks.saturating_sub(1), delta });
    }

    fn events(&mut self, delta: Result<Delta, ApiError>, stop: &[String]) -> Vec<StreamEvent> {
        let mut out = Vec::new();
        match delta {
            Ok(delta) => {
                for part in delta.parts {
                    self.part(part, &mut out);
                }
                if let Some((finish, usage, _)) = delta.end {
                    self.close(&mut out);
                    let (stop_reason, stop_sequence) = reason(finish, stop);
                    let usage = Usage::new(usage.prompt, usage.cached, usage.generated);
                    out.push(StreamEvent::MessageDelta { delta: Ending { stop_reason, stop_sequence }, usage });
                    out.push(StreamEvent::MessageStop {});
                }
            }
            Err(e) => out.push(StreamEvent::Error { error: ErrorObject::of(&e) }),
        }
        out
    }
}

/// The answer as it is written.
pub(super) fn response(empty: MessageResponse, stop: Vec<String>, deltas: Deltas) -> Response {
    let first = [StreamEvent::MessageStart { message: empty }, StreamEvent::Ping {}];
    let mut place = Place::default();
    let rest = deltas.flat_map(move |delta| stream::iter(place.events(delta, &stop)));
    sse::of(stream::iter(first).chain(rest).map(|event| Ok::<_, Infallible>(event.sse())))
}
