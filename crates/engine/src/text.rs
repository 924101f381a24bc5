//! Tokens to text, as the engine needs it: the one place that knows the tokenizer.

use alula_tokenizer::{StreamState, Tokenizer};
use std::sync::Arc;

/// What the engine asks of a tokenizer.
pub trait Text: Send + Sync {
    /// Whether the model ends its text with this token.
    fn is_end(&self, token: u32) -> bool;
    /// Begins the text that continues `prompt`.
    fn stream(self: Arc<Self>, prompt: &[u32]) -> Box<dyn Stream>;
}

/// A text that grows token by token.
pub trait Stream: Send {
    /// Appends the text that `token` makes certain to `out`: whole characters only. May be none.
    fn push(&mut self, token: u32, out: &mut String);
    /// No more tokens come: appends what was held back.
    fn finish(&mut self, out: &mut String);
}

/// A model's tokenizer as the engine's [`Text`]: what the model writes continues the prompt, without the text of special tokens.
pub struct Words {
    tokenizer: Arc<Tokenizer>,
    ends: Vec<u32>,
    shown: Vec<u32>,
}

impl Words {
    /// `ends` end a text beside the tokenizer's own.
    pub fn new(tokenizer: Arc<Tokenizer>, ends: Vec<u32>) -> Self {
        Self { tokenizer, ends, shown: Vec::new() }
    }

    /// The same with the text of these special tokens: somebody reads it.
    pub fn showing(self, shown: Vec<u32>) -> Self {
        Self { shown, ..self }
    }
}

impl Text for Words {
    fn is_end(&self, token: u32) -> bool {
        self.tokenizer.is_end(token) || self.ends.contains(&token)
    }

    fn stream(self: Arc<Self>, prompt: &[u32]) -> Box<dyn Stream> {
        let state = self.tokenizer.stream_state(false);
        let mut continuation = Continuation { words: self, state };
        prompt.iter().for_each(|&token| continuation.push(token, &mut String::new()));
        Box::new(continuation)
    }
}

struct Continuation {
    words: Arc<Words>,
    state: StreamState,
}

impl Stream for Continuation {
    fn push(&mut self, token: u32, out: &mut String) {
        let Words { tokenizer, shown, .. } = &*self.words;
        if !tokenizer.is_special(token) || shown.contains(&token) {
            out.push_str(&self.state.push(tokenizer, token));
        }
    }

    fn finish(&mut self, out: &mut String) {
        out.push_str(&self.state.finish(&self.words.tokenizer));
    }
}
