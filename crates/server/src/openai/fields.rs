//! Fields that several requests have, and how they become the engine's.

use crate::error::ApiError;
use crate::generate::Total;
use alula_engine::Sampling;
use serde::de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use utoipa::ToSchema;

/// One or several. Errors keep their path, which an untagged enum loses.
#[derive(Clone, Debug, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// A text.
    One(String),
    /// A list.
    Many(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for V<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }
            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
            }
        }
        d.deserialize_any(V(PhantomData))
    }
}

impl<T> OneOrMany<T> {
    /// As a list, a text made into an element.
    pub fn list(self, one: impl FnOnce(String) -> T) -> Vec<T> {
        match self {
            OneOrMany::One(text) => vec![one(text)],
            OneOrMany::Many(list) => list,
        }
    }
}

/// Options of a stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send what it took before the end.
    #[serde(default)]
    pub include_usage: bool,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answers.
    pub completion_tokens: usize,
    /// All of them.
    pub total_tokens: usize,
    /// More on the prompt's.
    pub prompt_tokens_details: PromptDetails,
    /// More on the answers'.
    pub completion_tokens_details: CompletionDetails,
}

/// More on a prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Of them, those that were computed for an earlier request.
    pub cached_tokens: usize,
}

/// More on an answer's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct CompletionDetails {
    /// Of them, those of reasoning.
    pub reasoning_tokens: usize,
}

impl Usage {
    /// What several answers took together.
    pub fn of(total: &Total) -> Usage {
        Usage::new(total.prompt, total.cached, total.generated, total.reasoning)
    }

    /// From sums.
    pub fn new(prompt: usize, cached: usize, generated: usize, reasoning: usize) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: generated,
            total_tokens: prompt + generated,
            prompt_tokens_details: PromptDetails { cached_tokens: cached },
            completion_tokens_details: CompletionDetails { reasoning_tokens: reasoning },
        }
    }
}

/// How tokens are chosen: OpenAI's fields, and those that its clients send in `extra_body`.
#[derive(Clone, Debug, Default)]
pub struct Choose<'a> {
    /// 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// The likeliest tokens that together have this probability.
    pub top_p: Option<f32>,
    /// So many likeliest tokens; 0 or -1 keeps all.
    pub top_k: Option<i64>,
    /// Tokens of at least this part of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Tokens of typical information up to this probability.
    pub typical_p: Option<f32>,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: Option<f32>,
    /// Subtracted from them for each time.
    pub frequency_penalty: Option<f32>,
    /// Divides the logits of tokens that occurred.
    pub repetition_penalty: Option<f32>,
    /// Same seed, same answer.
    pub seed: Option<i64>,
    /// Added to the logits of tokens, by id.
    pub logit_bias: Option<&'a BTreeMap<String, f32>>,
    /// Report log-probabilities, and those of so many likeliest tokens.
    pub logprobs: Option<usize>,
}

/// The largest seed-independent limits of OpenAI's fields.
const PENALTY: std::ops::RangeInclusive<f32> = -2.0..=2.0;

impl Choose<'_> {
    /// As the engine wants it. Where a field is absent OpenAI's default holds: the model's own distribution.
    ///
    /// # Errors
    /// A field is out of its range.
    pub fn sampling(&self) -> Result<Sampling, ApiError> {
        let range = |name: &'static str, value: Option<f32>, range: std::ops::RangeInclusive<f32>| match value {
            Some(v) if !range.contains(&v) => {
                let (low, high) = (range.start(), range.end());
                Err(ApiError::field(name, format!("`{name}` is {v} but must be between {low} and {high}")))
            }
            _ => Ok(()),
        };
        range("temperature", self.temperature, 0.0..=2.0)?;
        range("presence_penalty", self.presence_penalty, PENALTY)?;
        range("frequency_penalty", self.frequency_penalty, PENALTY)?;
        range("top_p", self.top_p, 0.0..=1.0)?;
        range("min_p", self.min_p, 0.0..=1.0)?;
        // The engine has another word for it.
        if let Some(p) = self.repetition_penalty.filter(|p| !p.is_normal() || *p < 0.0) {
            let what = format!("`repetition_penalty` is {p} but must be a finite number above 0");
            return Err(ApiError::field("repetition_penalty", what));
        }
        let top_k = match self.top_k {
            Some(k) if k < -1 => return Err(ApiError::field("top_k", format!("`top_k` is {k} but must be 0 or more"))),
            k => k.and_then(|k| usize::try_from(k).ok()).unwrap_or(0),
        };
        let bias = self.logit_bias.into_iter().flatten().map(|(token, &bias)| {
            let path = format!("logit_bias.{}", alula_format::clip_to(token, 40));
            let id = token
                .parse::<u32>()
                .map_err(|_| ApiError::field(&path, format!("`{path}`: give token ids as keys")))?;
            match (-100.0..=100.0).contains(&bias) {
                true => Ok((id, if bias == -100.0 { f32::NEG_INFINITY } else { bias })),
                false => Err(ApiError::field(&path, format!("`{path}` is {bias} but must be between -100 and 100"))),
            }
        });
        let logit_bias = bias.collect::<Result<Vec<_>, _>>()?;
        // Nothing is left of a top_p of 0 but the likeliest token.
        let top_p = self.top_p.unwrap_or(1.0);
        let temperature = if top_p == 0.0 { 0.0 } else { self.temperature.unwrap_or(1.0) };
        Ok(Sampling {
            temperature,
            top_k,
            top_p: if top_p == 0.0 { 1.0 } else { top_p },
            min_p: self.min_p.unwrap_or(0.0),
            typical_p: self.typical_p.unwrap_or(1.0),
            repeat_penalty: self.repetition_penalty.unwrap_or(1.0),
            repeat_last_n: usize::MAX,
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias,
            seed: self.seed.map(i64::cast_unsigned),
            logprobs: self.logprobs,
        })
    }
}

/// The range that a whole number must be in.
///
/// # Errors
/// It is not.
pub fn within(name: &str, value: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = (range.start(), range.end());
    Err(ApiError::field(name, format!("`{name}` is {value} but must be between {low} and {high}")))
}

/// Stop strings, at most 16, none empty.
///
/// # Errors
/// There are more, or one is empty.
pub fn stops(stop: Option<OneOrMany<String>>) -> Result<Vec<String>, ApiError> {
    let stop = stop.map(|s| s.list(|text| text)).unwrap_or_default();
    if stop.len() > 16 {
        return Err(ApiError::field("stop", format!("`stop` has {} texts; give at most 16", stop.len())));
    }
    if let Some(at) = stop.iter().position(String::is_empty) {
        return Err(ApiError::field(format!("stop[{at}]"), format!("`stop[{at}]` is empty: leave it out")));
    }
    Ok(stop)
}
