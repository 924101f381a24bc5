//! `/api/generate`.

use super::answer::{self, Head, Line};
use super::options::{Options, fit, form, think};
use super::{KeepAlive, find};
use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::dialogue::{self, Deltas, Finish, Part, Talk};
use crate::error::ApiError;
use crate::generate::{self, Job};
use crate::models::Found;
use crate::openai::completions::infill;
use crate::turns::{aside, naming};
use alula_engine::Reason;
use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// A text to answer or to continue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::GenerateRequest)]
pub struct GenerateRequest {
    /// The model; `:latest` may follow its name.
    pub model: String,
    /// The text. Without one the model is loaded, or goes if `keep_alive` is 0.
    #[serde(default)]
    pub prompt: String,
    /// The text behind the gap that the model fills.
    pub suffix: Option<String>,
    /// What the model is told before all.
    pub system: Option<String>,
    /// Continue the text as it is, without the model's chat template.
    pub raw: Option<bool>,
    /// What the answer must look like: `json` or a JSON schema.
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
    /// Whether the model thinks: true, false, or how much where its template has a word for it.
    #[schema(value_type = Option<Object>)]
    pub think: Option<Value>,
    /// How tokens are chosen and how many.
    pub options: Option<Options>,
    /// A line for each piece; by default true.
    pub stream: Option<bool>,
    /// How long the model stays loaded after this, unless another request names it.
    #[schema(value_type = Option<String>)]
    pub keep_alive: Option<KeepAlive>,
}

impl GenerateRequest {
    /// Refuses what does not go together.
    fn check(&self) -> Result<(), ApiError> {
        let (raw, gap) = (self.raw == Some(true), self.suffix.is_some());
        for (given, field) in [
            (self.system.is_some(), "system"),
            (self.format.as_ref().is_some_and(|f| !f.is_null() && f != ""), "format"),
            (self.think.as_ref().is_some_and(|t| !t.is_null()), "think"),
        ] {
            if given && (raw || gap) {
                let with = if raw { "raw" } else { "suffix" };
                let what = format!("`{field}` together with `{with}` is not supported: no chat template is used then");
                return Err(ApiError::field(field, what));
            }
        }
        Ok(())
    }

    /// The tokens of a text that no template goes around.
    fn tokens(&self, found: &Found) -> Result<Vec<u32>, ApiError> {
        let tokenizer = &found.model.tokenizer;
        let wrong = |e: alula_tokenizer::Error| ApiError::field("prompt", format!("`prompt`: {e}"));
        let Some(suffix) = &self.suffix else { return tokenizer.encode(&self.prompt, true, true).map_err(wrong) };
        let (before, after) = (tokenizer.encode(&self.prompt, false, true), tokenizer.encode(suffix, false, false));
        infill(tokenizer, &before.map_err(wrong)?, &after.map_err(wrong)?)
    }
}

/// Continues tokens; what comes is content.
async fn plain(caller: &Caller, found: &Found, job: Job) -> Result<Deltas, ApiError> {
    let answers = generate::start(caller, found, found.model.writer(&found.name)?, job).await?;
    let deltas = answers.map(|delta| {
        Ok(match delta? {
            generate::Delta::Token { choice, token, text, logprobs } => {
                let parts = if text.is_empty() { Vec::new() } else { vec![Part::Content(text)] };
                dialogue::Delta { choice, parts, token: Some((token, logprobs)), end: None }
            }
            generate::Delta::Prompt { choice, .. } => {
                dialogue::Delta { choice, parts: Vec::new(), token: None, end: None }
            }
            generate::Delta::End { choice, reason, usage } => {
                let finish = match reason {
                    Reason::Length | Reason::Context => Finish::Length,
                    Reason::StopString(at) => Finish::StopString(at),
                    _ => Finish::Stop,
                };
                dialogue::Delta { choice, parts: Vec::new(), token: None, end: Some((finish, usage, 0)) }
            }
        })
    });
    Ok(deltas.boxed())
}

/// Answers or continues a text.
///
/// # Errors
/// The request is wrong, the model is not there, or too much is waiting.
#[utoipa::path(
    post,
    path = "/api/generate",
    tag = "Ollama",
    request_body = GenerateRequest,
    responses((status = 200, description = "The answer; lines of it unless `stream` is false", content(
        (Line = "application/json"),
        (Line = "application/x-ndjson"),
    )))
)]
pub async fn generate(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let Json { value: mut request, ignored } = body;
    request.check()?;
    let (found, keep) = find(&app, &request.model, request.keep_alive).await?;
    let head = Head { model: request.model.clone(), chat: false, began, load: began.elapsed() };
    let writer = found.model.writer(&found.name)?;
    if request.prompt.is_empty() && request.suffix.is_none() {
        return Ok(answer::nothing(&head, request.keep_alive.is_some_and(KeepAlive::ends)));
    }
    let options = request.options.take().unwrap_or_default();
    let mut job = options.job(&app)?;
    let context = options.context(writer)?;
    let streams = request.stream.unwrap_or(true);
    let deltas = if request.raw == Some(true) || request.suffix.is_some() {
        let of = found.clone();
        job.request.prompt = aside(move || request.tokens(&of)).await??;
        if let Some(context) = context {
            let prompt = job.request.prompt.len();
            fit(&mut job, context, prompt)?;
        }
        plain(&caller, &found, job).await?
    } else {
        let mut extra = Map::new();
        think(request.think.as_ref(), writer, &mut extra)?;
        let system = request.system.map(|text| json!({"role": "system", "content": text}));
        let messages = system.into_iter().chain([json!({"role": "user", "content": request.prompt})]);
        let talk = Talk {
            messages: messages.collect(),
            form: form(request.format)?,
            form_field: "format",
            extra,
            ..Talk::default()
        };
        if let Some(context) = context {
            fit(&mut job, context, dialogue::prompt(&found, talk.clone()).await?.len())?;
        }
        dialogue::start(&caller, &found, job, talk).await?
    };
    let response = match streams {
        true => answer::lines(head, deltas, keep),
        false => answer::whole(&head, deltas).await?,
    };
    Ok(naming(&ignored, response))
}
