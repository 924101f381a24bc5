//! `/v1/completions`.

use super::chat::MOST_CHOICES;
use super::fields::{StreamOptions, Tells, Usage, whole_option, with_sampling, within};
use super::prompt::Prompt;
use super::{FINGERPRINT, now};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::generate::{self, Delta, Job, Total};
use crate::models::Found;
use crate::sse;
use crate::turns::{aside, naming};
use alula_engine::{Logprobs, Reason, Request};
use alula_tokenizer::{Fim, Tokenizer};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use utoipa::ToSchema;

/// Prompts of a request at most.
const MOST_PROMPTS: usize = 128;

with_sampling! {
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
        /// Put the prompt before the answer, with `logprobs` also its log-probabilities. These are computed anew even where the
        /// prompt is in the cache.
        pub echo: Option<bool>,
        /// Send the answer as it is written.
        pub stream: Option<bool>,
        /// What to send with it.
        pub stream_options: Option<StreamOptions>,
        /// How many answers to each prompt.
        #[schema(minimum = 1, maximum = 128)]
        #[serde(default, deserialize_with = "whole_option")]
        pub n: Option<usize>,
        /// Must equal `n`: all answers are given back.
        #[serde(default, deserialize_with = "whole_option")]
        pub best_of: Option<usize>,
        /// Tokens of an answer at most; by default 16, as OpenAI has it.
        #[serde(default, deserialize_with = "whole_option")]
        pub max_tokens: Option<usize>,
        /// Report log-probabilities, and those of so many of the likeliest tokens.
        #[schema(minimum = 0, maximum = 20)]
        #[serde(default, deserialize_with = "whole_option")]
        pub logprobs: Option<usize>,
        /// Who asks; not used.
        pub user: Option<String>,
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

/// Log-probabilities, a list for each fact. The first token of a prompt has none.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// One more token; `at` is where its text begins, in characters.
    fn push(&mut self, tokenizer: &Tokenizer, token: u32, l: Option<&Logprobs>, at: usize) {
        let text = |id: u32| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned();
        let finite = |p: f32| if p.is_finite() { p } else { -9999.0 };
        self.tokens.push(text(token));
        self.token_logprobs.push(l.map(|l| finite(l.chosen)));
        self.top_logprobs.push(l.map(|l| {
            let mut top = BTreeMap::new();
            // OpenAI puts the chosen token among the likeliest, even if it is none of them. Tokens may have the same text.
            for (id, p) in l.top.iter().copied().chain([(token, l.chosen)]) {
                let p = finite(p);
                top.entry(text(id)).and_modify(|known: &mut f32| *known = known.max(p)).or_insert(p);
            }
            top
        }));
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
        if self.best_of.is_some_and(|b| b != self.n.unwrap_or(1)) {
            return Err(only("best_of", "must equal `n`: all answers are given back"));
        }
        if self.echo == Some(true) && self.suffix.is_some() {
            return Err(only("echo", "with `suffix` is not supported"));
        }
        Ok(())
    }

    fn job(&self, app: &App) -> Result<Job, ApiError> {
        let logprobs = self.logprobs.map(|n| within("logprobs", n, 0..=20)).transpose()?;
        let request = Request {
            prompt_logprobs: logprobs.filter(|_| self.echo == Some(true)),
            ..self.request(Some(self.max_tokens.unwrap_or(16)), logprobs)?
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
    let (tells, asked) = (StreamOptions::tells(request.stream_options, streams)?, request.logprobs.is_some());
    let (of, n) = (found.clone(), job.choices);
    let all = aside(move || prompts(&request, &of)).await??;
    let answers = all.len().saturating_mul(n);
    if !(1..=MOST_PROMPTS).contains(&answers) {
        let what = format!("`prompt` and `n` ask for {answers} answers; between 1 and {MOST_PROMPTS} are given");
        return Err(ApiError::field("prompt", what));
    }
    let told = job.request.prompt_logprobs;
    let length = all.iter().map(|(ids, _)| ids.len()).sum::<usize>();
    check_told(length * n, told)?;
    let (mut parts, mut befores) = (Vec::new(), Vec::new());
    for (i, (ids, text)) in all.into_iter().enumerate() {
        let before =
            if echo { Before::new(&found.model.tokenizer, text, &ids, told.is_some()) } else { Before::default() };
        let job = Job { request: Request { prompt: ids, ..job.request.clone() }, ..job.clone() };
        let answers = generate::start(&caller, &found, writer, job).await.map_err(|e| match e.param.as_deref() {
            Some("messages") => ApiError { param: Some("prompt".into()), ..e },
            _ => e,
        })?;
        parts.push(answers.map(move |delta| (i, delta)).boxed());
        befores.push(before);
    }
    let reply = Reply {
        id: generate::name("cmpl-")?,
        created: now(),
        model: found.name.clone(),
        tokenizer: Arc::clone(&found.model.tokenizer),
        asked,
        n,
        befores,
    };
    let answers = stream::select_all(parts).boxed();
    let response = match streams {
        true => sse::response(reply.chunks(answers, (tells, length))),
        false => axum::Json(reply.whole(answers).await?).into_response(),
    };
    Ok(naming(&ignored, response))
}

/// Log-probabilities of prompts in a request at most: they are in memory until all are there.
const MOST_TOLD: usize = 1 << 19;

/// Refuses prompts of more log-probabilities than a request may have.
fn check_told(tokens: usize, top: Option<usize>) -> Result<(), ApiError> {
    let told = tokens.saturating_mul(top.map_or(0, |top| top + 1));
    if told <= MOST_TOLD {
        return Ok(());
    }
    let what = format!(
        "`echo` with `logprobs` asks for {told} log-probabilities of prompts, and a request may have {MOST_TOLD}: send fewer \
         prompts in each, or a smaller `logprobs`"
    );
    Err(ApiError::field("logprobs", what))
}

/// What is put before the answers to a prompt.
#[derive(Clone, Default)]
struct Before {
    text: String,
    /// The prompt's tokens and where their texts begin, in characters, if their log-probabilities are told.
    tokens: Vec<(u32, usize)>,
}

impl Before {
    fn new(tokenizer: &Tokenizer, text: String, ids: &[u32], told: bool) -> Before {
        let (mut stream, mut at, most) = (tokenizer.stream_state(true), 0, text.chars().count());
        let ids = if told { ids } else { &[] };
        let tokens = ids.iter().map(|&id| {
            let begin = at.min(most);
            at += stream.push(tokenizer, id).chars().count();
            (id, begin)
        });
        Before { tokens: tokens.collect(), text }
    }

    /// The log-probabilities of the tokens that begin with the second, behind `list`.
    fn tell(&self, tokenizer: &Tokenizer, from: usize, logprobs: &[Logprobs], list: &mut CompletionLogprobs) {
        for (&(token, at), l) in self.tokens.iter().skip(from).zip(logprobs) {
            list.push(tokenizer, token, Some(l), at);
        }
    }

    /// The list with the first token, which has none.
    fn list(&self, tokenizer: &Tokenizer) -> CompletionLogprobs {
        let mut list = CompletionLogprobs::default();
        if let Some(&(token, at)) = self.tokens.first() {
            list.push(tokenizer, token, None, at);
        }
        list
    }
}

/// Prompt number, what came.
type Numbered = BoxStream<'static, (usize, Result<Delta, ApiError>)>;

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
    befores: Vec<Before>,
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

    /// What is before answers, by choice.
    fn befores(&self) -> impl Iterator<Item = &Before> {
        self.befores.iter().flat_map(|before| std::iter::repeat_n(before, self.n))
    }

    async fn whole(self, mut answers: Numbered) -> Result<CompletionResponse, ApiError> {
        let mut done: Vec<_> = self.befores().map(|b| (b.text.clone(), b.list(&self.tokenizer), None)).collect();
        let mut totals = vec![Total::default(); self.befores.len()];
        while let Some((i, delta)) = answers.next().await {
            match delta? {
                Delta::Token { choice, token, text, logprobs } => {
                    let (all, list, _) = &mut done[i * self.n + choice];
                    if let Some(l) = logprobs {
                        list.push(&self.tokenizer, token, Some(&l), all.chars().count());
                    }
                    all.push_str(&text);
                }
                Delta::Prompt { choice, logprobs } => {
                    let list = &mut done[i * self.n + choice].1;
                    self.befores[i].tell(&self.tokenizer, list.tokens.len(), &logprobs, list);
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
        (tells, prompt): (Tells, usize),
    ) -> impl futures_util::Stream<Item = Result<CompletionResponse, ApiError>> + Send + 'static {
        let so_far = move |written| {
            (tells != Tells::Nothing).then(|| (tells == Tells::Each).then(|| Usage::so_far(prompt, written)))
        };
        let echoes: Vec<_> = self
            .befores()
            .enumerate()
            .filter(|(_, before)| !before.text.is_empty() || !before.tokens.is_empty())
            .map(|(index, before)| {
                let logprobs = (!before.tokens.is_empty()).then(|| before.list(&self.tokenizer));
                let choice = CompletionChoice { index, text: before.text.clone(), logprobs, finish_reason: None };
                Ok(self.response(vec![choice], so_far(0)))
            })
            .collect();
        let mut lengths: Vec<usize> = self.befores().map(|before| before.text.chars().count()).collect();
        // Tokens of prompts that were told; the first one was.
        let mut told = vec![1; lengths.len()];
        let totals = Arc::new(Mutex::new(vec![Total::default(); self.befores.len()]));
        let (reply, sums) = (Arc::new(self), Arc::clone(&totals));
        let (last, mut written) = (Arc::clone(&reply), 0);
        let middle = answers.filter_map(move |(i, delta)| {
            written += usize::from(matches!(delta, Ok(Delta::Token { .. })));
            let so_far = so_far(written);
            let made = match delta {
                Err(e) => Some(Err(e)),
                Ok(Delta::Token { choice, token, text, logprobs }) => {
                    let index = i * reply.n + choice;
                    let logprobs = logprobs.map(|l| {
                        let mut list = CompletionLogprobs::default();
                        list.push(&reply.tokenizer, token, Some(&l), lengths[index]);
                        list
                    });
                    lengths[index] += text.chars().count();
                    (!text.is_empty() || logprobs.is_some()).then(|| {
                        Ok(reply
                            .response(vec![CompletionChoice { index, text, logprobs, finish_reason: None }], so_far))
                    })
                }
                Ok(Delta::Prompt { choice, logprobs }) => {
                    let (index, mut list) = (i * reply.n + choice, CompletionLogprobs::default());
                    reply.befores[i].tell(&reply.tokenizer, told[index], &logprobs, &mut list);
                    told[index] += logprobs.len();
                    let (text, finish_reason) = (String::new(), None);
                    let choice = CompletionChoice { index, text, logprobs: Some(list), finish_reason };
                    Some(Ok(reply.response(vec![choice], so_far)))
                }
                Ok(Delta::End { choice, reason, usage }) => {
                    if let Ok(mut totals) = sums.lock() {
                        totals[i].add(&usage);
                    }
                    let (index, finish_reason) = (i * reply.n + choice, Some(finish(&reason)));
                    let choice = CompletionChoice { index, text: String::new(), logprobs: None, finish_reason };
                    Some(Ok(reply.response(vec![choice], so_far)))
                }
            };
            std::future::ready(made)
        });
        let usage = stream::once(async move {
            let totals = totals.lock().map_or(Vec::new(), |t| t.clone());
            (tells != Tells::Nothing).then(|| Ok(last.response(Vec::new(), Some(Some(usage(&totals))))))
        });
        stream::iter(echoes).chain(middle).chain(usage.filter_map(std::future::ready))
    }
}

fn usage(totals: &[Total]) -> Usage {
    let sum = |f: fn(&Total) -> usize| totals.iter().map(f).sum();
    Usage::new(sum(|t| t.prompt), sum(|t| t.cached), sum(|t| t.generated), 0)
}
