//! What output may be: the door for grammars, schemas and the like.

/// Says which tokens may come next. It is told every token of the output in order, so it can keep what it knows of the output so far.
///
/// The engine asks before each token and draws among what is allowed, so output never leaves the constraint. Tokens that end the
/// model's text are tokens like others: they come where they are allowed. After an error, which is text for people, the
/// request ends with [`Reason::Constraint`](crate::Reason::Constraint), and nothing more is asked.
pub trait Constraint: Send {
    /// Sets the bits of the tokens that may come next in `mask`, one for each token of the vocabulary, none of which is set:
    /// bit `t % 32` of word `t / 32` is token `t`'s. Bits past the vocabulary count for nothing.
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String>;
    /// The next token of the output is `token`, one that was allowed. Returns whether the output is complete: then the request
    /// ends with this token.
    fn accept(&mut self, token: u32) -> Result<bool, String>;
}
