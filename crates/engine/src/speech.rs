//! A conversation as the model wants to read it.

use crate::local::{LoadError, Package};
use alula_template::{Error, Input, Template};
use alula_tokenizer::Tokenizer;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// A model's chat template and tokenizer.
#[derive(Clone, Debug)]
pub struct Speech {
    template: Template,
    /// The template's text; empty for the fall-back.
    source: String,
    tokenizer: Arc<Tokenizer>,
}

/// What a template is asked to write.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// An array of objects with `role` and `content`.
    pub messages: &'a Value,
    /// An array of objects: the functions that the model may call.
    pub tools: Option<&'a Value>,
    /// More variables, such as `enable_thinking`.
    pub extra: &'a Map<String, Value>,
    /// Does the text end where the assistant's answer begins?
    pub answer: bool,
}

/// There is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The template refuses the conversation, in its own words.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template failed.
    #[error(transparent)]
    Template(Error),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] alula_tokenizer::Error),
}

impl Speech {
    /// # Errors
    /// The model's template is not valid.
    pub fn new(package: &Package, tokenizer: Arc<Tokenizer>) -> Result<Speech, LoadError> {
        let source = package.template_source().unwrap_or_default().to_owned();
        Ok(Speech { template: package.template()?, source, tokenizer })
    }

    /// Whether the model has no template of its own.
    pub fn borrowed(&self) -> bool {
        self.source.is_empty()
    }

    /// The text of the model's template; empty if it has none.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text in which the model answers these messages, and its ids.
    ///
    /// # Errors
    /// The template refuses them.
    pub fn prompt(&self, messages: Vec<Value>) -> Result<(String, Vec<u32>), SpeechError> {
        let (messages, extra) = (Value::Array(messages), Map::new());
        self.render(Conversation { messages: &messages, tools: None, extra: &extra, answer: true })
    }

    /// The text of a conversation and its ids.
    ///
    /// # Errors
    /// The template refuses it.
    pub fn render(&self, c: Conversation<'_>) -> Result<(String, Vec<u32>), SpeechError> {
        let token = |id: Option<u32>| id.and_then(|id| self.tokenizer.token(id)).unwrap_or_default();
        let text = self.template.render(&Input {
            messages: c.messages,
            tools: c.tools,
            documents: None,
            add_generation_prompt: c.answer,
            bos_token: token(self.tokenizer.bos()),
            eos_token: token(self.tokenizer.eos()),
            extra: c.extra,
            now: SystemTime::now().into(),
        });
        let text = text.map_err(|e| match e {
            Error::Refused(why) => SpeechError::Refused(alula_format::clip_to(&why, 500)),
            e => SpeechError::Template(e),
        })?;
        // A model's own template writes what begins a text, the fall-back leaves it to the tokenizer.
        let ids = self.tokenizer.encode(&text, self.borrowed(), true)?;
        Ok((text, ids))
    }

    /// Texts that end an answer: ChatML's end is many tokens for a model that does not know it.
    pub fn stop(&self) -> Vec<String> {
        if self.borrowed() { vec!["<|im_end|>".to_owned()] } else { Vec::new() }
    }
}
