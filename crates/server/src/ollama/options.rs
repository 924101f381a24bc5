//! `options`, `format` and `think`: how an answer is written.

use crate::app::App;
use crate::dialogue::Form;
use crate::error::ApiError;
use crate::generate::Job;
use crate::models::Writer;
use crate::openai::fields::{Choose, OneOrMany, stops, whole_option};
use alula_engine::Request;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// How tokens are chosen and how many. What is absent is as Ollama documents it.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::Options)]
pub struct Options {
    /// 0 takes the likeliest token; by default 0.8.
    pub temperature: Option<f32>,
    /// So many likeliest tokens; 0 keeps all; by default 40.
    #[serde(default, deserialize_with = "whole_option")]
    pub top_k: Option<i64>,
    /// The likeliest tokens that together have this probability; by default 0.9.
    pub top_p: Option<f32>,
    /// Tokens of at least this part of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Tokens of typical information up to this probability.
    pub typical_p: Option<f32>,
    /// Divides the logits of tokens that occurred; by default 1.1.
    pub repeat_penalty: Option<f32>,
    /// So many last tokens count for penalties; -1: all; by default 64.
    #[serde(default, deserialize_with = "whole_option")]
    pub repeat_last_n: Option<i64>,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: Option<f32>,
    /// Subtracted from them for each time.
    pub frequency_penalty: Option<f32>,
    /// Same seed, same answer; by default another each time.
    #[serde(default, deserialize_with = "whole_option")]
    pub seed: Option<i64>,
    /// Tokens of an answer at most; below 0: as many as the context holds.
    #[serde(default, deserialize_with = "whole_option")]
    pub num_predict: Option<i64>,
    /// Tokens of prompt and answer at most; no more than the model is served with.
    #[serde(default, deserialize_with = "whole_option")]
    pub num_ctx: Option<usize>,
    /// Texts that end the answer.
    pub stop: Option<OneOrMany<String>>,
}

/// An error whose field is one of the options.
fn own(e: ApiError) -> ApiError {
    let Some(param) = e.param else { return e };
    let message = e.message.replace(&format!("`{param}`"), &format!("`options.{param}`"));
    ApiError { message, param: Some(format!("options.{param}")), ..e }
}

impl Options {
    /// The engine's request, without its prompt.
    ///
    /// # Errors
    /// A field is out of its range.
    pub fn job(&self, app: &App) -> Result<Job, ApiError> {
        let choose = Choose {
            temperature: Some(self.temperature.unwrap_or(0.8)),
            top_p: Some(self.top_p.unwrap_or(0.9)),
            top_k: Some(self.top_k.unwrap_or(40)),
            min_p: self.min_p,
            typical_p: self.typical_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: Some(self.repeat_penalty.unwrap_or(1.1)),
            seed: self.seed,
            ..Choose::default()
        };
        let mut sampling = choose.sampling().map_err(own)?;
        sampling.repeat_last_n = match self.repeat_last_n.unwrap_or(64) {
            -1 => usize::MAX,
            n => usize::try_from(n).map_err(|_| {
                let what = format!("`options.repeat_last_n` is {n} but must be -1 or more");
                ApiError::field("options.repeat_last_n", what)
            })?,
        };
        let max_tokens = match self.num_predict {
            Some(0) => {
                let what = "`options.num_predict` is 0; give 1 or more, or -1 for as many as the context holds";
                return Err(ApiError::field("options.num_predict", what));
            }
            n => n.and_then(|n| usize::try_from(n).ok()),
        };
        let request =
            Request { max_tokens, sampling, stop: stops(self.stop.clone()).map_err(own)?, ..Request::default() };
        Ok(Job { request, choices: 1, timeout: app.config.request_timeout, constraint: None })
    }

    /// The context that is asked for, if it is shorter than the served one.
    ///
    /// # Errors
    /// It is longer.
    pub fn context(&self, writer: &Writer) -> Result<Option<usize>, ApiError> {
        match self.num_ctx {
            Some(n) if n > writer.context || n == 0 => {
                let what = format!(
                    "`options.num_ctx` is {n} but the model is served with a context of {}; ask for less, or serve it with \
                     a longer --ctx",
                    writer.context
                );
                Err(ApiError::field("options.num_ctx", what))
            }
            n => Ok(n.filter(|n| *n < writer.context)),
        }
    }
}

/// Holds an answer within a context that is shorter than the served one.
///
/// # Errors
/// The prompt does not fit.
pub fn fit(job: &mut Job, context: usize, prompt: usize) -> Result<(), ApiError> {
    let room = context.checked_sub(prompt).filter(|room| *room > 0).ok_or_else(|| {
        let what = format!(
            "the prompt has {prompt} tokens but `options.num_ctx` is {context}, one of them for the answer: shorten the \
             prompt or raise it"
        );
        ApiError::field("options.num_ctx", what).code("context_length_exceeded")
    })?;
    let most = job.request.max_tokens.map_or(room, |n| n.min(room));
    job.request.max_tokens = Some(most);
    Ok(())
}

/// What `format` asks for: `json`, a JSON schema, or nothing.
///
/// # Errors
/// It is something else.
pub fn form(format: Option<Value>) -> Result<Form, ApiError> {
    match format {
        None | Some(Value::Null) => Ok(Form::Text),
        Some(Value::String(word)) if word.is_empty() => Ok(Form::Text),
        Some(Value::String(word)) if word == "json" => Ok(Form::Object),
        Some(schema @ Value::Object(_)) => Ok(Form::Schema { schema, strict: false }),
        Some(_) => Err(ApiError::field("format", "`format` must be \"json\" or a JSON schema, an object")),
    }
}

/// Tells the template whether and how much to think.
///
/// # Errors
/// The model cannot.
pub fn think(think: Option<&Value>, writer: &Writer, extra: &mut Map<String, Value>) -> Result<(), ApiError> {
    let refuse = |what: &str| Err(ApiError::field("think", format!("`think`: {what}")));
    let source = writer.speech.source();
    let (switch, can) = (source.contains("enable_thinking"), writer.reasons());
    match think {
        None | Some(Value::Null) => {}
        Some(Value::Bool(true)) if !can => return refuse("this model does not think; leave it out"),
        Some(Value::Bool(false)) if can && !switch => return refuse("this model always thinks; leave it out"),
        Some(Value::Bool(think)) => {
            if switch {
                extra.insert("enable_thinking".to_owned(), (*think).into());
            }
        }
        Some(Value::String(level)) if matches!(level.as_str(), "low" | "medium" | "high") => {
            if !source.contains("reasoning_effort") {
                return refuse("this model's template has no word for how much; give true or false");
            }
            extra.insert("reasoning_effort".to_owned(), level.as_str().into());
        }
        Some(_) => return refuse("give true, false, \"low\", \"medium\" or \"high\""),
    }
    Ok(())
}
