//! What goes into the engine and what comes out.

use crate::sample::{ArgumentError, Logprobs, Sampling};
use crate::scheduler::Id;
use crate::stop::{Reason, StopError};
use alula_device::Adapter;
use std::time::Duration;
use thiserror::Error;

/// A prompt and how to continue it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Token ids, at least one; nothing is put before them.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most; `None`: until the context is full. With 0 the prompt is computed only for what is reported of it.
    pub max_tokens: Option<usize>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Report log-probabilities of the prompt's tokens behind the first, and those of so many of the likeliest ones. The whole
    /// prompt is computed then, also where it is in the cache.
    pub prompt_logprobs: Option<usize>,
    /// Report the state of the prompt's last token that its logits are made of.
    pub hidden: bool,
    /// Texts that end the answer and are not part of it. Without a tokenizer there is no text, and they are refused.
    pub stop: Vec<String>,
    /// Tokens that end the answer, reported but without text.
    pub stop_tokens: Vec<u32>,
    /// Go on after the model's own end tokens.
    pub ignore_end: bool,
    /// The model's adapters that it is computed with, each once; none by default.
    pub adapters: Vec<Adapter>,
    /// Who asks. Groups are served in turn.
    pub group: u64,
    /// Higher ones come first, and lower ones give way to them.
    pub priority: i32,
}

/// What a step brought forth.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request's next token.
    Token {
        /// The request.
        id: Id,
        /// The token. One that ends the answer is reported too.
        token: u32,
        /// The text that became certain with it; often empty, or more than the token's own.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// The log-probabilities of the prompt's next tokens, beginning with the second, if they were asked for.
    Prompt {
        /// The request.
        id: Id,
        /// One for each token.
        logprobs: Vec<Logprobs>,
    },
    /// The state of the prompt's last token, if it was asked for.
    Hidden {
        /// The request.
        id: Id,
        /// Its elements, as many as the model is wide.
        values: Vec<f32>,
    },
    /// The request is over; it has no further events.
    Finished {
        /// The request.
        id: Id,
        /// Why.
        reason: Reason,
        /// What it took.
        usage: Usage,
    },
}

/// What a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt: usize,
    /// Of these, tokens that were in the cache already.
    pub cached: usize,
    /// Tokens generated, the one that ended it included.
    pub generated: usize,
    /// The seed its tokens were drawn with.
    pub seed: u64,
    /// From submission to the first step it had a share in.
    pub waited: Duration,
    /// From there to its first token: computing the prompt.
    pub prompt_time: Duration,
    /// From the first token to the last: the `generated - 1` others.
    pub generate_time: Duration,
}

impl Usage {
    /// Prompt tokens per second, those that were in the cache not counted; 0 if no time passed.
    pub fn prompt_speed(&self) -> f64 {
        speed(self.prompt - self.cached, self.prompt_time)
    }

    /// Generated tokens per second, the first not counted; 0 if there is no other.
    pub fn generate_speed(&self) -> f64 {
        speed(self.generated.saturating_sub(1), self.generate_time)
    }

    /// From submission to the first token.
    pub fn first_token(&self) -> Duration {
        self.waited + self.prompt_time
    }
}

fn speed(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A request that cannot be served as it is.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum RequestError {
    /// Nothing to continue.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// No room for the prompt and one more token.
    #[error(
        "the prompt has {prompt} tokens but the context holds {context}, one of them for the answer: shorten the prompt or raise the context"
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt: usize,
        /// Tokens in the context.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("prompt token {at} (counted from 0) is {token} but the vocabulary has {vocab} tokens")]
    PromptToken {
        /// Its place.
        at: usize,
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
    /// A sampling argument.
    #[error(transparent)]
    Sampling(#[from] ArgumentError),
    /// A stop condition.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// An adapter that the model does not have, or with a factor that is no number, or twice.
    #[error("adapter {index} with factor {scale} cannot be used: {why}")]
    Adapter {
        /// Its number.
        index: u32,
        /// Its factor.
        scale: f32,
        /// What is wrong.
        why: String,
    },
    /// Too many requests wait.
    #[error(
        "{waiting} requests of {tokens} tokens wait already, and at most {most} of {most_tokens} may: try again later"
    )]
    Full {
        /// Requests that wait.
        waiting: usize,
        /// Their tokens.
        tokens: usize,
        /// Requests that may wait.
        most: usize,
        /// Tokens that they may have.
        most_tokens: usize,
    },
    /// Too many of its group wait.
    #[error(
        "{waiting} of your requests, of {tokens} tokens, wait already, and others must find room too: try again later"
    )]
    Share {
        /// Requests of the group that wait.
        waiting: usize,
        /// Their tokens.
        tokens: usize,
    },
    /// Stop strings where there is no text.
    #[error("stop strings need a tokenizer, and this model has none: use stop tokens")]
    StopWithoutText,
}

/// A step that failed. No request has moved; it may be tried again, or the requests cancelled.
#[derive(Debug, Error)]
pub enum StepError {
    /// The model could not compute it.
    #[error("the model failed: {0}")]
    Run(#[source] crate::runner::RunError),
    /// The model returned something else than rows of logits.
    #[error("the model returned {got} logits where {rows} rows of {vocab} were asked for")]
    Logits {
        /// Rows asked for.
        rows: usize,
        /// Width of a row.
        vocab: usize,
        /// Numbers returned.
        got: usize,
    },
}
