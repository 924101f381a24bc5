//! Who asks, and what becomes of it.
//!
//! The [gate](crate::gate) makes one [`Caller`] for a request that it lets in. A handler takes it as an argument and gives it to
//! [`generate::start`](crate::generate::start), which charges tokens to it. When the last copy is dropped the answer has been sent,
//! or its client has gone: then it is counted and written to the log.

use crate::app::App;
use crate::error::ApiError;
use crate::generate::Delta;
use crate::keys::Key;
use crate::limits::{Account, Limits, Place};
use crate::log::Line;
use crate::metrics::{ModelStats, reason_name};
use crate::trace;
use alula_engine::Usage;
use axum::extract::FromRequestParts;
use axum::http::{Method, StatusCode, request::Parts};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Bytes of prompts and answers that a log line has at most, each.
const LONGEST_CONTENT: usize = 64 << 10;

/// Who asks.
#[derive(Clone)]
pub struct Caller(Arc<Visit>);

/// One request, from its head to the last byte of its answer.
struct Visit {
    app: Arc<App>,
    id: String,
    method: Method,
    route: &'static str,
    arrived: Instant,
    key: Option<Arc<Key>>,
    account: Arc<Account>,
    limits: Limits,
    span: Option<trace::Place>,
    /// Given back when the request is over.
    _place: Option<Place>,
    noted: Mutex<Noted>,
}

/// What is known of a request when it is over.
#[derive(Default)]
pub(crate) struct Noted {
    pub(crate) status: Option<StatusCode>,
    pub(crate) model: Option<String>,
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
    pub(crate) generated: usize,
    pub(crate) first: Option<f64>,
    pub(crate) waited: Option<f64>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) asked: String,
    pub(crate) answered: String,
}

impl Caller {
    /// Lets a request in. Without a key it is charged to the account of all who have none.
    pub(crate) fn new(
        app: &Arc<App>,
        id: String,
        method: Method,
        route: &'static str,
        key: Option<Arc<Key>>,
        limited: bool,
        span: Option<trace::Place>,
    ) -> Result<Caller, (ApiError, Caller)> {
        let (account, limits) = match &key {
            Some(key) => (Arc::clone(&key.account), key.entry.limits),
            None => (app.anonymous(), app.limits()),
        };
        let (place, refused) = match limited.then(|| account.enter(limits)) {
            Some(Ok(place)) => (Some(place), None),
            Some(Err(e)) => (None, Some(e)),
            None => (None, None),
        };
        let (app, arrived, noted) = (Arc::clone(app), Instant::now(), Mutex::default());
        let caller = Caller(Arc::new(Visit {
            app,
            id,
            method,
            route,
            arrived,
            key,
            account,
            limits,
            span,
            _place: place,
            noted,
        }));
        match refused {
            Some(e) => Err((e, caller)),
            None => Ok(caller),
        }
    }

    /// The request's name, as in the header `x-request-id`.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The key that was shown.
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_deref()
    }

    /// A number for whose requests these are; the engine serves groups in turn.
    pub fn group(&self) -> u64 {
        self.key().map_or(0, Key::group)
    }

    /// Higher ones come first.
    pub fn priority(&self) -> i32 {
        self.key().map_or(0, |k| k.entry.priority)
    }

    /// Begins another turn of a connection that makes many requests (a WebSocket): counts as a request, and is in its place
    /// until what this returns is dropped.
    ///
    /// # Errors
    /// 429: over a limit of the key.
    pub fn turn(&self) -> Result<Place, ApiError> {
        // The connection's own place does not count twice: it takes one, and turns take theirs beside it.
        let limits = Limits { concurrent: self.0.limits.concurrent.map(|n| n.saturating_add(1)), ..self.0.limits };
        self.0.account.enter(limits)
    }

    /// Charges a prompt.
    ///
    /// # Errors
    /// 429: more tokens than the key has left.
    pub fn admit(&self, tokens: usize) -> Result<(), ApiError> {
        self.0.account.admit(tokens, self.0.limits)
    }

    /// Charges texts that a model reads without an answer.
    ///
    /// # Errors
    /// As [`Caller::admit`].
    pub fn charge(&self, model: &str, tokens: usize) -> Result<(), ApiError> {
        self.admit(tokens)?;
        self.note(|n| {
            n.model = Some(model.to_owned());
            n.prompt += tokens;
        });
        Ok(())
    }

    /// Gives back what a prompt was charged that the engine did not take.
    pub(crate) fn refund(&self, tokens: usize) {
        self.0.account.refund(tokens, self.0.limits);
    }

    /// Whether prompts and answers go into the log.
    pub(crate) fn logs_content(&self) -> bool {
        self.0.app.config.log.content
    }

    /// The engine did not take a job for this model.
    pub(crate) fn refused(&self, model: &str, e: &ApiError) {
        let stats = self.0.app.metrics.model(model);
        match e.code {
            Some("queue_full") => stats.refuse(),
            _ => stats.end("error", 1),
        }
    }

    /// Follows what the model writes for this request, in `choices` answers.
    pub(crate) fn follow(&self, model: &str, prompt: usize, choices: usize, text: Option<String>) -> Follow {
        let stats = self.0.app.metrics.model(model);
        stats.active.fetch_add(1, Ordering::Relaxed);
        self.note(|n| {
            n.model = Some(model.to_owned());
            n.prompt += prompt;
            if let Some(text) = text {
                append(&mut n.asked, &text);
            }
        });
        let before = self.0.arrived.elapsed().as_secs_f64();
        Follow { caller: self.clone(), stats, before, open: choices }
    }

    pub(crate) fn note(&self, f: impl FnOnce(&mut Noted)) {
        f(&mut self.0.noted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says in headers who was served and what is left.
    pub(crate) fn headers(&self, headers: &mut axum::http::HeaderMap) {
        if let Ok(id) = axum::http::HeaderValue::from_str(&self.0.id) {
            headers.insert("x-request-id", id);
        }
        self.0.account.headers(self.0.limits, headers);
    }
}

fn append(to: &mut String, text: &str) {
    let room = LONGEST_CONTENT.saturating_sub(to.len());
    let end = (0..=room.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    to.push_str(&text[..end]);
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, ApiError> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| ApiError::internal("a request that passed no gate"))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let noted = self.noted.get_mut().unwrap_or_else(PoisonError::into_inner);
        let status = noted.status.map_or(499, |s| s.as_u16());
        let seconds = self.arrived.elapsed().as_secs_f64();
        self.app.metrics.request(self.route, status, seconds);
        let line = Line {
            id: &self.id,
            key: self.key.as_ref().map(|k| k.entry.name.as_str()),
            method: self.method.as_str(),
            route: self.route,
            status,
            seconds,
            noted,
        };
        self.app.log.request(&line);
        if let Some(span) = self.span {
            self.app.traces.request(span, &line);
        }
    }
}

/// Follows the answers of one job: counts what comes, and what does not.
pub(crate) struct Follow {
    caller: Caller,
    stats: Arc<ModelStats>,
    /// Seconds from the request's arrival to the engine.
    before: f64,
    /// Answers that are not over.
    open: usize,
}

impl Follow {
    /// Sees a part of an answer.
    pub(crate) fn see(&mut self, delta: &Result<Delta, ApiError>) {
        match delta {
            Ok(Delta::Token { text, .. }) => {
                self.caller.0.account.spend(self.caller.0.limits);
                if self.caller.logs_content() {
                    self.caller.note(|n| append(&mut n.answered, text));
                }
            }
            Ok(Delta::Prompt { .. }) => {}
            Ok(Delta::End { reason, usage, .. }) => self.end(reason_name(reason), usage),
            Err(e) => {
                self.stats.end("error", self.open);
                self.open = 0;
                self.caller.note(|n| (n.reason, n.error) = (Some("error"), Some(e.message.clone())));
            }
        }
    }

    fn end(&mut self, reason: &'static str, usage: &Usage) {
        self.open = self.open.saturating_sub(1);
        self.stats.end(reason, 1);
        self.stats.finished(self.before, usage);
        let first = self.before + usage.first_token().as_secs_f64();
        self.caller.note(|n| {
            n.cached += usage.cached;
            n.generated += usage.generated;
            n.first = Some(n.first.map_or(first, |f| f.min(first)));
            n.waited = Some(n.waited.unwrap_or(0.0).max(usage.waited.as_secs_f64()));
            n.reason = Some(reason);
        });
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.stats.active.fetch_sub(1, Ordering::Relaxed);
        if self.open > 0 {
            self.stats.end("abort", self.open);
            self.caller.note(|n| n.reason = Some("abort"));
        }
    }
}
