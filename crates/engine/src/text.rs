//! Tokens to text, as the engine needs it: the one place that knows the tokenizer.

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
