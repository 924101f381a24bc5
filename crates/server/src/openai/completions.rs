//! `/v1/completions`.

use super::chat::MOST_CHOICES;
use super::fields::{Choose, OneOrMany, StreamOptions, Usage, stops, within};
use super::{FINGERPRINT, now};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::generate::{self, Delta, Job, Total};
use crate::models::Found;
use crate::sse;
use alula_engine::{Logprobs, Reason, Request};
use alula_tokenizer::{Fim, Tokenizer};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use utoipa::ToSchema;

/// Prompts of a request at most.
const MOST_PROMPTS: usize = 128;

/// What to continue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// One or several texts, or their token ids.
    #[schema(schema_with = crate::openapi::prompt)]
    pub prompt: Prompt,
    /// A text that comes behind what is written, where the model can.
    pub suffix: Option<String>,
    /// Put the prompt before the answer.
    pub echo: Option<bool>,
    /// Send the answer as it is written.
    pub stream: Option<bool>,
    /// What to send with it.
    pub stream_options: Option<StreamOptions>,
    /// How many answers to each prompt.
    #[schema(minimum = 1, maximum = 128)]
    pub n: Option<usize>,
    /// Must equal `n`: all answers are given back.
    pub best_of: Option<usize>,
    /// Tokens of an answer at most; by default 16, as OpenAI has it.
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// The likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// So many likeliest tokens; 0 or -1 keeps all.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Tokens of at least this part of the likeliest one's probability.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Tokens of typical information up to this probability.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Subtracted from the logits of tokens that occurred.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from them for each time.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Divides the logits of tokens that occurred.
    #[schema(exclusive_minimum = 0)]
    pub repetition_penalty: Option<f32>,
    /// Same seed, same answer.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    #[schema(schema_with = crate::openapi::stop)]
    pub stop: Option<OneOrMany<String>>,
    /// Token ids that end the answer.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Go on after the model's end token.
    pub ignore_eos: Option<bool>,
    /// Added to the logits of tokens, by id.
    #[schema(schema_with = crate::openapi::logit_bias)]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Report log-probabilities, and those of so many of the likeliest tokens.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<usize>,
    /// Who asks; not used.
    pub user: Option<String>,
}

/// Texts, or token ids.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids.
    Tokens(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// An element of the array.
        enum Element {
            Text(String),
            Token(u32),
            Tokens(Vec<u32>),
        }
        struct E;
        impl<'de> Visitor<'de> for E {
            type Value = Element;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }
            fn visit_str<X: Error>(self, text: &str) -> Result<Element, X> {
                Ok(Element::Text(text.to_owned()))
            }
            fn visit_u64<X: Error>(self, id: u64) -> Result<Element, X> {
                let id = u32::try_from(id).map_err(|_| X::custom(format!("{id} is no token id")))?;
                Ok(Element::Token(id))
            }
            fn visit_i64<X: Error>(self, id: i64) -> Result<Element, X> {
                Err(X::custom(format!("{id} is no token id")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Tokens(ids))
            }
        }
        impl<'de> Deserialize<'de> for Element {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(E)
            }
        }
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, an array of token ids, or an array of such arrays")
            }
            fn visit_str<X: Error>(self, text: &str) -> Result<Prompt, X> {
                Ok(Prompt::Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                let mixed = || A::Error::custom("an array of one kind: strings, token ids, or arrays of token ids");
                let (mut texts, mut flat, mut nested) = (Vec::new(), Vec::new(), Vec::new());
                while let Some(element) = seq.next_element()? {
                    match element {
                        Element::Text(text) => texts.push(text),
                        Element::Token(id) => flat.push(id),
                        Element::Tokens(ids) => nested.push(ids),
                    }
                }
                match (texts.is_empty(), flat.is_empty(), nested.is_empty()) {
                    (false, true, true) => Ok(Prompt::Texts(texts)),
                    (true, false, true) => Ok(Prompt::Tokens(vec![flat])),
                    (true, true, false) => Ok(Prompt::Tokens(nested)),
                    (true, true, true) => Err(A::Error::custom("an empty array; give at least one prompt")),
                    _ => Err(mixed()),
                }
            }
        }
        d.deserialize_any(V)
    }
}

/// An answer, whole or a part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompletionResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    system_fingerprint: &'static str,
}

/// One of its choices.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

/// Log-probabilities, a list for each fact.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<String, f32>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// One more token; `at` is where its text begins, in characters.
    fn push(&mut self, tokenizer: &Tokenizer, token: u32, l: &Logprobs, at: usize) {
        let text = |id: u32| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned();
        let finite = |p: f32| if p.is_finite() { p } else { -9999.0 };
        self.tokens.push(text(token));
        self.token_logprobs.push(finite(l.chosen));
        // OpenAI puts the chosen token among the likeliest, even if it is none of them.
        let all = l.top.iter().copied().chain([(token, l.chosen)]);
        self.top_logprobs.push(all.map(|(id, p)| (text(id), finite(p))).collect());
        self.text_offset.push(at);
    }
}

/// Why it ended, in OpenAI's words.
fn finish(reason: &Reason) -> &'static str {
    match reason {
        Reason::Length | Reason::Context => "length",
        _ => "stop",
    }
}

/// The prompt in which a model fills the gap between two texts (Bavarian et al. 2022, arXiv:2207.14255).
///
/// # Errors
/// The model has no tokens for that.
pub fn infill(tokenizer: &Tokenizer, before: &[u32], after: &[u32]) -> Result<Vec<u32>, ApiError> {
    let Fim { prefix: Some(prefix), suffix: Some(suffix), middle: Some(middle), .. } = tokenizer.fim() else {
        return Err(ApiError::field("suffix", "`suffix`: this model has no tokens for filling gaps; leave it out"));
    };
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let ids = bos.into_iter().chain([prefix]).chain(before.iter().copied());
    Ok(ids.chain([suffix]).chain(after.iter().copied()).chain([middle]).collect())
}

/// Each prompt's ids and its text.
fn prompts(request: &CompletionRequest, found: &Found) -> Result<Vec<(Vec<u32>, String)>, ApiError> {
    let tokenizer = &found.model.tokenizer;
    let wrong = |e: alula_tokenizer::Error| ApiError::field("prompt", format!("`prompt`: {e}"));
    let after = request.suffix.as_deref().map(|s| tokenizer.encode(s, false, false)).transpose().map_err(wrong)?;
    let ready = |ids: Vec<u32>, text: String, special: bool| match &after {
        Some(after) => Ok((infill(tokenizer, &ids, after)?, text)),
        None if special && ids.is_empty() => {
            Err(ApiError::field("prompt", "`prompt` is empty, and the model adds no tokens of its own; give some text"))
        }
        None => Ok((ids, text)),
    };
    match &request.prompt {
        Prompt::Texts(texts) => {
            let all = texts.iter().map(|text| {
                // Parts of an infilling prompt get their special tokens there.
                ready(tokenizer.encode(text, after.is_none(), true).map_err(wrong)?, text.clone(), true)
            });
            all.collect()
        }
        Prompt::Tokens(lists) => {
            let all = lists.iter().map(|ids| ready(ids.clone(), tokenizer.decode(ids, true), false));
            all.collect()
        }
    }
}

impl CompletionRequest {
    fn check(&self) -> Result<(), ApiError> {
        let only = |name: &str, what: &str| ApiError::field(name, format!("`{name}` {what}"));
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(only("stream_options", "needs `stream` to be true"));
        }
        if self.best_of.is_some_and(|b| b != self.n.unwrap_or(1)) {
            return Err(only("best_of", "must equal `n`: all answers are given back"));
        }
        if self.echo == Some(true) && self.logprobs.is_some() {
            return Err(only("echo", "with `logprobs` is not supported: log-probabilities are of the answer alone"));
        }
        if self.echo == Some(true) && self.suffix.is_some() {
            return Err(only("echo", "with `suffix` is not supported"));
        }
        Ok(())
    }

    fn job(&self, app: &App) -> Result<Job, ApiError> {
        let logprobs = self.logprobs.map(|n| within("logprobs", n, 0..=20)).transpose()?;
        let choose = Choose {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            logit_bias: self.logit_bias.as_ref(),
            logprobs,
        };
        let request = Request {
            max_tokens: Some(self.max_tokens.unwrap_or(16)),
            sampling: choose.sampling()?,
            stop: stops(self.stop.clone())?,
            stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
            ignore_end: self.ignore_eos == Some(true),
            ..Request::default()
        };
        let choices = within("n", self.n.unwrap_or(1), 1..=MOST_CHOICES)?;
        Ok(Job { request, choices, timeout: app.config.request_timeout, constraint: None })
    }
}

/// Continues texts.
///
/// # Errors
/// The request is wrong, the model is not there, or too much is waiting.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "OpenAI",
    request_body = CompletionRequest,
    responses((status = 200, description = "The answer; with `stream`, events of which each holds a part, and `[DONE]`", content(
        (CompletionResponse = "application/json"),
        (CompletionResponse = "text/event-stream"),
    )))
)]
pub async fn complete(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let Json { value: request, ignored } = body;
    request.check()?;
    let found = app.models.find(request.model.as_deref()).await?;
    let writer = found.model.writer(&found.name)?;
    let job = request.job(&app)?;
    let (echo, streams) = (request.echo == Some(true), request.stream == Some(true));
    let (with_usage, asked) = (request.stream_options.is_some_and(|o| o.include_usage), request.logprobs.is_some());
    let (of, n) = (found.clone(), job.choices);
    let all = tokio::task::spawn_blocking(move || prompts(&request, &of)).await;
    let all = all.map_err(|_| ApiError::internal("reading the prompt panicked"))??;
    within("prompt", all.len().saturating_mul(n), 1..=MOST_PROMPTS)?;
    let (mut parts, mut texts) = (Vec::new(), Vec::new());
    for (i, (ids, text)) in all.into_iter().enumerate() {
        let prompt = ids.len();
        let job = Job { request: Request { prompt: ids, ..job.request.clone() }, ..job.clone() };
        let answers = generate::start(&caller, &found, writer, job).await.map_err(|e| match e.param.as_deref() {
            Some("messages") => ApiError { param: Some("prompt".into()), ..e },
            _ => e,
        })?;
        parts.push(answers.map(move |delta| (i, prompt, delta)).boxed());
        texts.push(if echo { text } else { String::new() });
    }
    let reply = Reply {
        id: generate::name("cmpl-")?,
        created: now(),
        model: found.name.clone(),
        tokenizer: Arc::clone(&found.model.tokenizer),
        asked,
        n,
        texts,
    };
    let answers = stream::select_all(parts).boxed();
    let mut response = match streams {
        true => sse::response(reply.chunks(answers, with_usage)),
        false => axum::Json(reply.whole(answers).await?).into_response(),
    };
    if let Some(header) = ignored.header() {
        response.headers_mut().insert("x-alula-ignored", header);
    }
    Ok(response)
}

/// Prompt number, its tokens, what came.
type Numbered = BoxStream<'static, (usize, usize, Result<Delta, ApiError>)>;

/// What an answer is made with.
struct Reply {
    id: String,
    created: u64,
    model: String,
    tokenizer: Arc<Tokenizer>,
    /// For log-probabilities.
    asked: bool,
    /// Answers to a prompt.
    n: usize,
    /// What is put before the answers to each prompt.
    texts: Vec<String>,
}

impl Reply {
    fn response(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
            system_fingerprint: FINGERPRINT,
        }
    }

    /// The texts before answers, by choice.
    fn befores(&self) -> impl Iterator<Item = &String> {
        self.texts.iter().flat_map(|text| std::iter::repeat_n(text, self.n))
    }

    async fn whole(self, mut answers: Numbered) -> Result<CompletionResponse, ApiError> {
        let mut done: Vec<_> = self.befores().map(|text| (text.clone(), CompletionLogprobs::default(), None)).collect();
        let mut totals = vec![Total::default(); self.texts.len()];
        while let Some((i, _, delta)) = answers.next().await {
            match delta? {
                Delta::Token { choice, token, text, logprobs } => {
                    let (all, list, _) = &mut done[i * self.n + choice];
                    if let Some(l) = logprobs {
                        list.push(&self.tokenizer, token, &l, all.chars().count());
                    }
                    all.push_str(&text);
                }
                Delta::End { choice, reason, usage } => {
                    done[i * self.n + choice].2 = Some(finish(&reason));
                    totals[i].add(&usage);
                }
            }
        }
        let asked = self.asked;
        let choices = done.into_iter().enumerate().map(|(index, (text, logprobs, finish_reason))| CompletionChoice {
            index,
            text,
            logprobs: asked.then_some(logprobs),
            finish_reason,
        });
        let choices = choices.collect();
        Ok(self.response(choices, Some(Some(usage(&totals)))))
    }

    fn chunks(
        self,
        answers: Numbered,
        with_usage: bool,
    ) -> impl futures_util::Stream<Item = Result<CompletionResponse, ApiError>> + Send + 'static {
        let none = with_usage.then_some(None);
        let echoes: Vec<_> = self
            .befores()
            .enumerate()
            .filter(|(_, text)| !text.is_empty())
            .map(|(index, text)| {
                let choice = CompletionChoice { index, text: text.clone(), logprobs: None, finish_reason: None };
                Ok(self.response(vec![choice], none))
            })
            .collect();
        let mut lengths: Vec<usize> = self.befores().map(|text| text.chars().count()).collect();
        let totals = Arc::new(Mutex::new(vec![Total::default(); self.texts.len()]));
        let (reply, sums) = (Arc::new(self), Arc::clone(&totals));
        let last = Arc::clone(&reply);
        let middle = answers.filter_map(move |(i, _, delta)| {
            let made = match delta {
                Err(e) => Some(Err(e)),
                Ok(Delta::Token { choice, token, text, logprobs }) => {
                    let index = i * reply.n + choice;
                    let logprobs = logprobs.map(|l| {
                        let mut list = CompletionLogprobs::default();
                        list.push(&reply.tokenizer, token, &l, lengths[index]);
                        list
                    });
                    lengths[index] += text.chars().count();
                    (!text.is_empty() || logprobs.is_some()).then(|| {
                        Ok(reply.response(vec![CompletionChoice { index, text, logprobs, finish_reason: None }], none))
                    })
                }
                Ok(Delta::End { choice, reason, usage }) => {
                    if let Ok(mut totals) = sums.lock() {
                        totals[i].add(&usage);
                    }
                    let (index, finish_reason) = (i * reply.n + choice, Some(finish(&reason)));
                    let choice = CompletionChoice { index, text: String::new(), logprobs: None, finish_reason };
                    Some(Ok(reply.response(vec![choice], none)))
                }
            };
            std::future::ready(made)
        });
        let usage = stream::once(async move {
            let totals = totals.lock().map_or(Vec::new(), |t| t.clone());
            with_usage.then(|| Ok(last.response(Vec::new(), Some(Some(usage(&totals))))))
        });
        stream::iter(echoes).chain(middle).chain(usage.filter_map(std::future::ready))
    }
}

fn usage(totals: &[Total]) -> Usage {
    let sum = |f: fn(&Total) -> usize| totals.iter().map(f).sum();
    Usage::new(sum(|t| t.prompt), sum(|t| t.cached), sum(|t| t.generated), 0)
}
