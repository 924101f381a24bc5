//! Many requests, one model: scheduler, cache pages, sampling, the step loop.
//!
//! An [`Engine`] owns a [`Runner`] (a model with its cache). [`Engine::submit`] checks a [`Request`] and puts it in line;
//! every [`Engine::step`] runs one batch over all requests that have a share in it, and returns [`Event`]s.
//! The rest are its parts, each of which works and is tested alone: [`scheduler`] (who computes how many tokens),
//! [`fair`] (whose turn it is), [`checkpoints`],
//! [`pages`] (who holds which cache pages, and what they hold), [`sample`] (from logits to a token), [`stop`] (when it is over),
//! [`rng`] (random numbers without state), [`text`] (tokens to text), [`local`] (a model's files made ready on this machine).
//! Encoders need none of these but the last: [`embed`] makes vectors and scores of texts.
#![forbid(unsafe_code)]

pub mod checkpoints;
mod constraint;
pub mod embed;
mod engine;
pub mod fair;
mod load;
pub mod local;
pub mod pages;
mod request;
pub mod rng;
mod runner;
pub mod sample;
pub mod scheduler;
mod speculate;
pub mod speech;
pub mod stop;
pub mod text;

pub use alula_device::{Adapter, PAGE};
pub use constraint::Constraint;
pub use engine::{Engine, Options};
pub use load::{Counters, Load, PageLoad, StepLoad};
pub use request::{Event, Request, RequestError, StepError, Usage};
pub use runner::{RunError, Runner};
pub use sample::{Logprobs, Sampling};
pub use scheduler::Id;
pub use speculate::{DraftError, Speculation};
pub use stop::Reason;
