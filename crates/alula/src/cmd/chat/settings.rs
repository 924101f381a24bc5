//! What `/set` can change, one row each.

use crate::Fail;
use crate::cli::bias;
use alula_engine::Sampling;
use serde_json::{Map, Value};

/// How answers are made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// How tokens are chosen.
    pub(super) sampling: Sampling,
    /// Tokens of an answer at most.
    pub(super) max_tokens: Option<u64>,
}

/// Where a setting is, and so what it may be. `Optional` has a word for "none".
#[derive(Clone, Copy)]
enum Place {
    Float(fn(&mut Settings) -> &mut f32),
    Count(fn(&mut Settings) -> &mut usize),
    Optional(fn(&mut Settings) -> &mut Option<u64>, &'static str),
    Bias(fn(&mut Settings) -> &mut Vec<(u32, f32)>),
}

/// Name and place. The names are those of the flags.
static SETTINGS: &[(&str, Place)] = &[
    ("temp", Place::Float(|s| &mut s.sampling.temperature)),
    ("top-k", Place::Count(|s| &mut s.sampling.top_k)),
    ("top-p", Place::Float(|s| &mut s.sampling.top_p)),
    ("min-p", Place::Float(|s| &mut s.sampling.min_p)),
    ("typical-p", Place::Float(|s| &mut s.sampling.typical_p)),
    ("repeat-penalty", Place::Float(|s| &mut s.sampling.repeat_penalty)),
    ("repeat-last-n", Place::Count(|s| &mut s.sampling.repeat_last_n)),
    ("presence-penalty", Place::Float(|s| &mut s.sampling.presence_penalty)),
    ("frequency-penalty", Place::Float(|s| &mut s.sampling.frequency_penalty)),
    ("logit-bias", Place::Bias(|s| &mut s.sampling.logit_bias)),
    ("seed", Place::Optional(|s| &mut s.sampling.seed, "random")),
    ("max-tokens", Place::Optional(|s| &mut s.max_tokens, "none")),
];

impl Settings {
    pub(super) fn new(sampling: Sampling, max_tokens: Option<usize>) -> Settings {
        Settings { sampling, max_tokens: max_tokens.map(|n| n as u64) }
    }

    /// All of them: name and value.
    pub(super) fn list(&self) -> impl Iterator<Item = (&'static str, String)> {
        SETTINGS.iter().map(|(name, place)| (*name, self.show(*place)))
    }

    /// One of them, as [`set`](Settings::set) takes it.
    pub(super) fn get(&self, name: &str) -> Result<String, Fail> {
        Ok(self.show(find(name)?))
    }

    fn show(&self, place: Place) -> String {
        // The rows lead to places that can be written, hence the copy.
        let mut copy = self.clone();
        match place {
            Place::Float(f) => f(&mut copy).to_string(),
            Place::Count(f) => f(&mut copy).to_string(),
            Place::Optional(f, none) => f(&mut copy).map_or_else(|| none.to_owned(), |n| n.to_string()),
            Place::Bias(f) => match f(&mut copy).as_slice() {
                [] => "none".to_owned(),
                all => all.iter().map(|(id, x)| format!("{id}={x}")).collect::<Vec<_>>().join(","),
            },
        }
    }

    /// Changes one of them; nothing changes if the value is refused.
    ///
    /// # Errors
    /// There is no such setting, or the value is none for it.
    pub(super) fn set(&mut self, name: &str, value: &str, vocab: usize) -> Result<(), Fail> {
        let mut new = self.clone();
        let wrong = |want: &str| format!("`{value}` is no value for {name}; give {want}");
        match find(name)? {
            Place::Float(f) => *f(&mut new) = value.parse().map_err(|_| wrong("a number"))?,
            Place::Count(f) => *f(&mut new) = value.parse().map_err(|_| wrong("a whole number"))?,
            Place::Optional(f, none) => {
                let number = || value.parse().map_err(|_| wrong(&format!("a whole number or `{none}`")));
                *f(&mut new) = if value == none { None } else { Some(number()?) };
            }
            Place::Bias(f) => {
                let all = if value == "none" { Ok(Vec::new()) } else { value.split(',').map(bias).collect() };
                *f(&mut new) = all.map_err(|_| wrong("ID=X,ID=X… or `none`"))?;
            }
        }
        new.sampling.check(vocab)?;
        *self = new;
        Ok(())
    }

    /// As a JSON object; "none" is null.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let value = |place: Place, text: String| match place {
            Place::Bias(_) if text != "none" => Value::String(text),
            _ => serde_json::from_str(&text).unwrap_or(Value::Null),
        };
        SETTINGS.iter().map(|(name, place)| (name.replace('-', "_"), value(*place, self.show(*place)))).collect()
    }

    /// Takes over what an object of [`to_json`](Settings::to_json) says; other keys are left alone.
    ///
    /// # Errors
    /// A value is refused; then nothing has changed.
    pub(super) fn read_json(&mut self, object: &Map<String, Value>, vocab: usize) -> Result<(), Fail> {
        let mut new = self.clone();
        for (name, place) in SETTINGS {
            let none = if let Place::Optional(_, word) = place { word } else { "none" };
            let text = match object.get(&name.replace('-', "_")) {
                None => continue,
                Some(Value::Null) => none.to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            new.set(name, &text, vocab)?;
        }
        *self = new;
        Ok(())
    }
}

fn find(name: &str) -> Result<Place, Fail> {
    let same = |known: &str| known.eq_ignore_ascii_case(&name.replace('_', "-"));
    let known = || SETTINGS.iter().map(|s| s.0).collect::<Vec<_>>().join(", ");
    let row = SETTINGS.iter().find(|s| same(s.0));
    row.map(|s| s.1).ok_or_else(|| format!("there is no setting `{name}`; there are {}", known()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip_and_bad_ones_change_nothing() {
        let mut s = Settings::new(Sampling::default(), None);
        for (name, value) in
            [("temp", "0.7"), ("top-k", "3"), ("seed", "7"), ("max_tokens", "9"), ("logit-bias", "3=-inf,5=1.5")]
        {
            s.set(name, value, 10).unwrap();
            assert_eq!(s.get(name).unwrap(), value);
        }
        let mut read = Settings::new(Sampling::default(), Some(1));
        read.read_json(&s.to_json(), 10).unwrap();
        assert_eq!(read, s);
        let before = s.clone();
        for (name, value) in [
            ("temp", "hot"),
            ("temp", "-1"),
            ("temp", "NaN"),
            ("temp", "inf"),
            ("top-p", "0"),
            ("top-k", "-1"),
            ("seed", "x"),
            ("logit-bias", "10=1"),
            ("logit-bias", "1"),
            ("colour", "1"),
            ("max-tokens", ""),
        ] {
            assert!(s.set(name, value, 10).is_err(), "{name} {value}");
        }
        assert_eq!(s, before);
        s.set("seed", "random", 10).unwrap();
        s.set("logit-bias", "none", 10).unwrap();
        assert_eq!((s.sampling.seed, s.sampling.logit_bias.len()), (None, 0));
    }
}
