//! From a job to what the model writes, whatever dialect asked for it.

use crate::caller::Caller;
use crate::dialogue::Held;
use crate::error::ApiError;
use crate::models::{Found, Writer};
use crate::worker::Output;
use alula_engine::{Constraint, Logprobs, Reason, Request, Usage};
use futures_util::stream::{self, BoxStream, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// Something to write, so many times.
#[derive(Clone, Debug)]
pub struct Job {
    /// What to continue and how.
    pub request: Request,
    /// How many answers; each has the seed after that of the one before.
    pub choices: usize,
    /// How long it may take.
    pub timeout: Duration,
    /// What the answers are held to.
    pub constraint: Option<alula_constrain::Constraint>,
}

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Delta {
    /// The next token.
    Token {
        /// Which answer.
        choice: usize,
        /// The token.
        token: u32,
        /// The text that became certain with it; may be empty.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// The log-probabilities of the prompt's next tokens, beginning with the second.
    Prompt {
        /// To which answer they belong.
        choice: usize,
        /// One for each token.
        logprobs: Vec<Logprobs>,
    },
    /// An answer is over.
    End {
        /// Which answer.
        choice: usize,
        /// Why.
        reason: Reason,
        /// What it took.
        usage: Usage,
    },
}

/// Answers as they come: every one of them has one end, unless an error ends them all.
pub type Answers = BoxStream<'static, Result<Delta, ApiError>>;

/// Starts a job for somebody. Dropping the answers cancels it.
///
/// # Errors
/// The engine refuses it, or the caller has used what its key allows.
pub async fn start(caller: &Caller, found: &Found, writer: &Writer, job: Job) -> Result<Answers, ApiError> {
    let Job { mut request, choices, timeout, constraint } = job;
    request.adapters.extend(&found.adapters);
    (request.group, request.priority) = (caller.group(), caller.priority());
    let prompt = request.prompt.len();
    if choices > 1 && request.sampling.seed.is_none() {
        request.sampling.seed = Some(random()?);
    }
    let deadline = Instant::now() + timeout;
    caller.admit(prompt)?;
    let text = caller.logs_content().then(|| found.model.tokenizer.decode(&request.prompt, false));
    let mut parts = Vec::with_capacity(choices);
    for choice in 0..choices {
        let mut one = request.clone();
        one.sampling.seed = one.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
        let outputs = writer.worker.submit(one, constraint.as_ref().map(held)).await.inspect_err(|e| {
            caller.refund(prompt);
            caller.refused(&found.name, e);
        })?;
        parts.push(answer(choice, outputs, deadline, timeout));
    }
    // The model must not be let go of while it writes.
    let model = std::sync::Arc::clone(&found.model);
    let mut follow = caller.follow(&found.name, prompt, choices, text);
    let answers = stream::select_all(parts).inspect(move |delta| follow.see(delta));
    Ok(answers.map(move |delta| (delta, &model).0).boxed())
}

fn held(constraint: &alula_constrain::Constraint) -> Box<dyn Constraint> {
    Box::new(Held::new(constraint))
}

/// One answer.
fn answer(
    choice: usize,
    outputs: UnboundedReceiver<Output>,
    deadline: Instant,
    timeout: Duration,
) -> BoxStream<'static, Result<Delta, ApiError>> {
    let step = move |state: Option<UnboundedReceiver<Output>>| async move {
        let mut outputs = state?;
        match tokio::time::timeout_at(deadline, outputs.recv()).await {
            Ok(Some(Output::Token { token, text, logprobs })) => {
                Some((Ok(Delta::Token { choice, token, text, logprobs }), Some(outputs)))
            }
            Ok(Some(Output::Prompt(logprobs))) => Some((Ok(Delta::Prompt { choice, logprobs }), Some(outputs))),
            Ok(Some(Output::Hidden(_))) => Some((Err(ApiError::internal("a state that nobody asked for")), None)),
            Ok(Some(Output::End { reason: Reason::Failed(e), .. })) => {
                Some((Err(ApiError::internal(e.to_string())), None))
            }
            Ok(Some(Output::End { reason: Reason::Constraint(why), .. })) => {
                let what = format!("the answer cannot be held to its grammar: {why}");
                // Who asked wrote the grammar.
                Some((Err(ApiError::invalid(what).code("constraint_failed")), None))
            }
            Ok(Some(Output::End { reason, usage })) => Some((Ok(Delta::End { choice, reason, usage }), None)),
            Ok(Some(Output::Failed(why))) => Some((Err(ApiError::unavailable(why)), None)),
            Ok(None) => Some((Err(ApiError::unavailable("the model has stopped")), None)),
            Err(_) => {
                let what = format!("the answer took over {} seconds", timeout.as_secs());
                let status = axum::http::StatusCode::GATEWAY_TIMEOUT;
                Some((Err(ApiError::status(status, "server_error", what).code("timeout")), None))
            }
        }
    };
    stream::unfold(Some(outputs), step).boxed()
}

/// A random number that nobody can guess.
///
/// # Errors
/// The system has none.
pub fn random() -> Result<u64, ApiError> {
    getrandom::u64().map_err(|e| ApiError::internal(format!("the system gives no random numbers: {e}")))
}

/// A name that nobody else has: a prefix and 128 random bits.
///
/// # Errors
/// The system has no random numbers.
pub fn name(prefix: &str) -> Result<String, ApiError> {
    Ok(format!("{prefix}{:016x}{:016x}", random()?, random()?))
}

/// What several answers took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Tokens of the prompt, counted once.
    pub prompt: usize,
    /// Of them, those that were computed for an earlier request.
    pub cached: usize,
    /// Tokens of all answers.
    pub generated: usize,
    /// Of them, those of reasoning.
    pub reasoning: usize,
}

impl Total {
    /// With one more.
    pub fn add(&mut self, usage: &Usage) {
        self.cached = if self.prompt == 0 { usage.cached } else { self.cached.min(usage.cached) };
        self.prompt = usage.prompt;
        self.generated += usage.generated;
    }
}
