//! A conversation as the model wants to read it.

use crate::Fail;
use alula_engine::local::Package;
use alula_template::{Error, Input, Template};
use alula_tokenizer::Tokenizer;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// A model's chat template and tokenizer.
pub struct Speech {
    template: Template,
    tokenizer: Arc<Tokenizer>,
    /// The template is the fall-back, not the model's own.
    borrowed: bool,
}

impl Speech {
    /// # Errors
    /// The model's template is not valid.
    pub fn new(package: &Package, tokenizer: Arc<Tokenizer>) -> Result<Speech, Fail> {
        Ok(Speech { template: package.template()?, tokenizer, borrowed: package.template_source().is_none() })
    }

    /// Whether the model has no template of its own.
    pub fn borrowed(&self) -> bool {
        self.borrowed
    }

    /// The text in which the model answers these messages, and its ids.
    ///
    /// # Errors
    /// The template refuses them.
    pub fn prompt(&self, messages: Vec<Value>) -> Result<(String, Vec<u32>), Fail> {
        let token = |id: Option<u32>| id.and_then(|id| self.tokenizer.token(id)).unwrap_or_default();
        let text = self.template.render(&Input {
            messages: &Value::Array(messages),
            tools: None,
            documents: None,
            add_generation_prompt: true,
            bos_token: token(self.tokenizer.bos()),
            eos_token: token(self.tokenizer.eos()),
            extra: &Map::new(),
            now: SystemTime::now().into(),
        });
        let text = text.map_err(|e| match e {
            Error::Refused(why) => {
                format!("the model's chat template refuses this conversation: {}", alula_format::clip_to(&why, 500))
            }
            e => e.to_string(),
        })?;
        // A model's own template writes what begins a text, the fall-back leaves it to the tokenizer.
        let ids = self.tokenizer.encode(&text, self.borrowed, true)?;
        Ok((text, ids))
    }

    /// Texts that end an answer: ChatML's end is many tokens for a model that does not know it.
    pub fn stop(&self) -> Vec<String> {
        if self.borrowed { vec!["<|im_end|>".to_owned()] } else { Vec::new() }
    }
}
