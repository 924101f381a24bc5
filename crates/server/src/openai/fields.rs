//! Fields that several requests have, and how they become the engine's.

use crate::error::ApiError;
use crate::generate::Total;
use alula_engine::Sampling;
use serde::de::{Error, IntoDeserializer, SeqAccess, Unexpected, Visitor, value::SeqAccessDeserializer};
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
    /// Send with each part what it took so far; needs `include_usage`. As vLLM has it.
    #[serde(default)]
    pub continuous_usage_stats: bool,
    /// Only false: events are not padded.
    #[serde(default)]
    pub include_obfuscation: bool,
}

/// When a stream tells what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Never.
    Nothing,
    /// Before the end.
    Last,
    /// With every part.
    Each,
}

impl StreamOptions {
    /// What these ask for.
    ///
    /// # Errors
    /// They are there without a stream, do not fit each other, or ask for padding.
    pub fn tells(options: Option<StreamOptions>, streams: bool) -> Result<Tells, ApiError> {
        let wrong = |name: &str, what: &str| Err(ApiError::field(name, format!("`{name}` {what}")));
        match options {
            None => Ok(Tells::Nothing),
            Some(_) if !streams => wrong("stream_options", "needs `stream` to be true"),
            Some(o) if o.include_obfuscation => {
                wrong("stream_options.include_obfuscation", "is not supported: events are not padded")
            }
            Some(o) if o.continuous_usage_stats && !o.include_usage => {
                wrong("stream_options.continuous_usage_stats", "needs `include_usage` to be true")
            }
            Some(o) if o.continuous_usage_stats => Ok(Tells::Each),
            Some(o) if o.include_usage => Ok(Tells::Last),
            Some(_) => Ok(Tells::Nothing),
        }
    }
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
    /// More on the prompt's; known at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
    /// More on the answers'; known at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
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
            prompt_tokens_details: Some(PromptDetails { cached_tokens: cached }),
            completion_tokens_details: Some(CompletionDetails { reasoning_tokens: reasoning }),
        }
    }

    /// While answers are being written.
    pub fn so_far(prompt: usize, generated: usize) -> Usage {
        let (prompt_tokens_details, completion_tokens_details) = (None, None);
        let (prompt_tokens, completion_tokens, total_tokens) = (prompt, generated, prompt + generated);
        Usage { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details, completion_tokens_details }
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

/// What a field holds that is refused, whatever it says.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Never(#[serde(with = "anything")] ());

mod anything {
    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<(), D::Error> {
        serde::de::Deserialize::deserialize(d).map(|serde::de::IgnoredAny| ())
    }
}

/// Refuses fields of OpenAI's that have no meaning here, each with what helps instead.
///
/// # Errors
/// One is there.
pub fn refuse(fields: &[(&'static str, &Option<Never>, &str)]) -> Result<(), ApiError> {
    match fields.iter().find(|(_, value, _)| value.is_some()) {
        Some((name, _, instead)) => {
            Err(ApiError::field(*name, format!("`{name}` is not supported: {instead}")).code("unsupported_field"))
        }
        None => Ok(()),
    }
}

/// How long prompts are kept: nothing is promised beyond the room that there is.
///
/// # Errors
/// Something else is asked for.
pub fn retention(word: Option<&str>) -> Result<(), ApiError> {
    if word.is_some_and(|w| !matches!(w, "in_memory" | "in-memory")) {
        let what = "`prompt_cache_retention` must be `in_memory`: prompts are kept as long as there is room";
        return Err(ApiError::field("prompt_cache_retention", what));
    }
    Ok(())
}

/// Tells the template how long an answer is to be.
///
/// # Errors
/// It has no word for it.
pub fn verbosity(
    field: &'static str,
    word: String,
    source: &str,
    extra: &mut serde_json::Map<String, serde_json::Value>,
) -> Result<(), ApiError> {
    if !matches!(word.as_str(), "low" | "medium" | "high") {
        return Err(ApiError::field(field, format!("`{field}` must be `low`, `medium` or `high`")));
    }
    if source.contains("verbosity") {
        extra.insert("verbosity".to_owned(), word.into());
    } else if word != "medium" {
        let what = format!("`{field}`: this model's template has no word for it; leave it out");
        return Err(ApiError::field(field, what));
    }
    Ok(())
}

/// Notes of a client at most, and how long their names and texts are at most.
const METADATA: (usize, usize, usize) = (16, 64, 512);

/// Checks a client's notes.
///
/// # Errors
/// There are too many, or one is too long.
pub fn notes(metadata: Option<&BTreeMap<String, String>>) -> Result<(), ApiError> {
    let (most, key, value) = METADATA;
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > most {
        return Err(ApiError::field("metadata", format!("`metadata` has over {most} notes")));
    }
    if let Some((name, _)) = metadata.iter().find(|(k, v)| k.len() > key || v.len() > value) {
        let path = format!("metadata.{}", alula_format::clip_to(name, 70));
        let what = format!("`{path}` is too long: names have at most {key} bytes, texts {value}");
        return Err(ApiError::field(path, what));
    }
    Ok(())
}

/// The range that a whole number must be in.
///
/// # Errors
/// It is not.
pub fn within(name: &str, value: usize, range: std::ops::RangeInclusive<usize>) -> Result<usize, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let must = match (range.start(), *range.end()) {
        (low, usize::MAX) => format!("at least {low}"),
        (low, high) => format!("between {low} and {high}"),
    };
    Err(ApiError::field(name, format!("`{name}` is {value} but must be {must}")))
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

/// A request's struct with the fields that say how tokens are chosen. serde cannot flatten and refuse unknown fields at once.
macro_rules! with_sampling {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub struct $name {
            $($own)*
            /// 0 takes the likeliest token.
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f32>,
            /// The likeliest tokens that together have this probability.
            #[schema(minimum = 0, maximum = 1)]
            pub top_p: Option<f32>,
            /// So many likeliest tokens; 0 or -1 keeps all.
            #[schema(minimum = -1)]
            #[serde(default, deserialize_with = "crate::openai::fields::whole_option")]
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
            #[serde(default, deserialize_with = "crate::openai::fields::whole_option")]
            pub seed: Option<i64>,
            /// Texts that end the answer.
            #[schema(schema_with = crate::openapi::stop)]
            pub stop: Option<$crate::openai::fields::OneOrMany<String>>,
            /// Token ids that end the answer.
            pub stop_token_ids: Option<Vec<u32>>,
            /// Go on after the model's end token.
            pub ignore_eos: Option<bool>,
            /// Added to the logits of tokens, by id.
            #[schema(schema_with = crate::openapi::logit_bias)]
            pub logit_bias: Option<std::collections::BTreeMap<String, f32>>,
        }

        impl $name {
            /// The engine's request without its prompt, for so many tokens and likeliest ones.
            fn request(
                &self,
                max_tokens: Option<usize>,
                logprobs: Option<usize>,
            ) -> Result<alula_engine::Request, $crate::error::ApiError> {
                let choose = $crate::openai::fields::Choose {
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
                Ok(alula_engine::Request {
                    max_tokens,
                    sampling: choose.sampling()?,
                    stop: $crate::openai::fields::stops(self.stop.clone())?,
                    stop_tokens: self.stop_token_ids.clone().unwrap_or_default(),
                    ignore_end: self.ignore_eos == Some(true),
                    ..alula_engine::Request::default()
                })
            }
        }
    };
}
pub(super) use with_sampling;

/// A number without a fraction, which JSON may write with one that is zero.
pub fn whole_number<T: TryFrom<i64>>(n: f64) -> Option<T> {
    // Beyond 2^53 neighbours are missing, so nobody knows which one was meant.
    let whole = n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0;
    whole.then(|| T::try_from(n as i64).ok())?
}

/// A whole number or null; `16.0` is 16.
///
/// # Errors
/// It is something else, or does not fit.
pub fn whole_option<'de, D: Deserializer<'de>, T: TryFrom<i64> + Deserialize<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    struct V<T>(PhantomData<T>);
    impl<'de, T: TryFrom<i64> + Deserialize<'de>> Visitor<'de> for V<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number")
        }
        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            d.deserialize_any(self)
        }
        fn visit_u64<E: Error>(self, n: u64) -> Result<Self::Value, E> {
            T::deserialize(n.into_deserializer()).map(Some)
        }
        fn visit_i64<E: Error>(self, n: i64) -> Result<Self::Value, E> {
            T::deserialize(n.into_deserializer()).map(Some)
        }
        fn visit_f64<E: Error>(self, n: f64) -> Result<Self::Value, E> {
            let wrong = || E::invalid_value(Unexpected::Float(n), &self);
            whole_number(n).map(Some).ok_or_else(wrong)
        }
    }
    d.deserialize_option(V(PhantomData))
}
