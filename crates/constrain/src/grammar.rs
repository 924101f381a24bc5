//! What a text must be, before any vocabulary is known.

use std::sync::{Arc, Mutex};

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::brief;
use crate::{Constraint, Error, schema};

/// The longest choice, and the longest grammar with the schemas in it, in bytes.
const LONGEST: usize = 1 << 20;

/// The longest regular expression, and the longest grammar without schemas: compiling takes the square of it.
pub(crate) const LONGEST_REGEX: usize = 8 << 10;
const LONGEST_RULES: usize = 32 << 10;

/// How many strings there are to choose from.
const CHOICES: usize = 10_000;

/// The stack that compiling gets, in bytes. Pages that are not touched cost nothing.
const STACK: usize = 256 << 20;

/// What a text must be. Compile it with [`crate::Vocabulary::compile`].
#[derive(Clone, Debug)]
pub struct Grammar {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// The schema as it came, and as it was written out.
    Schema {
        given: Arc<Value>,
        strict: bool,
        lowered: Value,
    },
    Regex(String),
    Lark(String),
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Self {
        let given = Arc::new(json!({"type": "object"}));
        let lowered = schema::options(json!({"type": "object"}));
        Grammar { source: Source::Schema { given, strict: false, lowered } }
    }

    /// A JSON value that a schema allows (2020-12; earlier drafts' spellings are known), its properties in the order of
    /// the schema. `strict`: words that no draft knows are refused, as they may be mistyped keywords; otherwise they are
    /// taken for annotations.
    ///
    /// # Errors
    /// [`Error::Schema`] for the first keyword that cannot be enforced, [`Error::TooComplex`] over the limits.
    pub fn json_schema(schema: &Value, strict: bool) -> Result<Self, Error> {
        let lowered = schema::options(schema::lower(schema, "#", strict)?);
        Ok(Grammar { source: Source::Schema { given: Arc::new(schema.clone()), strict, lowered } })
    }

    /// A text that a regular expression matches as a whole, in the syntax of Rust's `regex` without look-around and
    /// laziness.
    ///
    /// # Errors
    /// [`Error::TooComplex`] if it is longer than 8 KiB.
    pub fn regex(pattern: &str) -> Result<Self, Error> {
        fits("the regular expression", pattern.len(), LONGEST_REGEX)?;
        Ok(Grammar { source: Source::Regex(pattern.into()) })
    }

    /// A sentence of a grammar in llguidance's variant of Lark's notation. `%json` schemas in it are llguidance's: what
    /// it does not enforce is not refused. [`Grammar::inline`] writes a schema that is safe there.
    ///
    /// # Errors
    /// [`Error::TooComplex`] if it is longer than 1 MiB, or than 32 KiB without the lines of schemas.
    pub fn lark(grammar: &str) -> Result<Self, Error> {
        fits("the grammar", grammar.len(), LONGEST)?;
        let rules = grammar.lines().filter(|line| !line.contains("%json")).map(str::len).sum();
        fits("the grammar without its schemas", rules, LONGEST_RULES)?;
        Ok(Grammar { source: Source::Lark(grammar.into()) })
    }

    /// One of some strings.
    ///
    /// # Errors
    /// [`Error::Choice`] if there is none, [`Error::TooComplex`] if they are longer than 1 MiB together, or
    /// more than 10,000.
    pub fn choice<S: AsRef<str>>(strings: &[S]) -> Result<Self, Error> {
        if strings.is_empty() {
            return Err(Error::Choice("there must be at least one string".into()));
        }
        fits("the strings", strings.iter().map(|s| s.as_ref().len()).sum(), LONGEST)?;
        if strings.len() > CHOICES {
            return Err(Error::TooComplex(format!("more than {CHOICES} strings")));
        }
        let quoted: Vec<String> = strings.iter().map(|s| Value::from(s.as_ref()).to_string()).collect();
        Ok(Grammar { source: Source::Lark(format!("start: {}", quoted.join(" | "))) })
    }

    /// A schema as it can stand behind `%json` in a grammar of [`Grammar::lark`], held to the same rules as
    /// [`Grammar::json_schema`].
    ///
    /// # Errors
    /// As [`Grammar::json_schema`].
    pub fn inline(schema: &Value, strict: bool) -> Result<Value, Error> {
        Ok(schema::options(schema::lower(schema, "#", strict)?))
    }

    pub(crate) fn compile(&self, factory: &Arc<ParserFactory>) -> Result<Constraint, Error> {
        std::thread::scope(|scope| {
            let work = || match &self.source {
                Source::Schema { given, strict, lowered } => {
                    matcher(factory, TopLevelGrammar::from_json_schema(lowered.clone())).map_err(|error| match error {
                        Fail::Grammar(what) => schema::locate(given, *strict, what, |schema| {
                            match matcher(factory, TopLevelGrammar::from_json_schema(schema)) {
                                Err(Fail::Grammar(what)) => Some(what),
                                _ => None,
                            }
                        }),
                        Fail::Other(error) => error,
                    })
                }
                Source::Regex(pattern) => {
                    matcher(factory, TopLevelGrammar::from_regex(pattern)).map_err(|error| error.with(Error::Regex))
                }
                Source::Lark(grammar) => matcher(factory, TopLevelGrammar::from_lark(grammar.clone()))
                    .map_err(|error| error.with(Error::Lark)),
            };
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
            let thread = thread.map_err(|error| Error::TooComplex(format!("no thread to compile on: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(Error::TooComplex("compiling failed".into())))
        })
        .map(|first| Constraint { firsts: vec![Arc::new(Mutex::new(first))], factory: Arc::clone(factory) })
    }
}

enum Fail {
    Grammar(String),
    Other(Error),
}

impl Fail {
    fn with(self, kind: fn(String) -> Error) -> Error {
        match self {
            Fail::Grammar(what) => kind(what),
            Fail::Other(error) => error,
        }
    }
}

fn fits(what: &str, bytes: usize, most: usize) -> Result<(), Error> {
    if bytes > most {
        return Err(Error::TooComplex(format!("{what} of {bytes} bytes is over the limit of {most}")));
    }
    Ok(())
}

/// Compiles, and looks whether a first token can come.
fn matcher(factory: &ParserFactory, grammar: TopLevelGrammar) -> Result<Matcher, Fail> {
    let parser = factory.create_parser(grammar).map_err(|error| Fail::Grammar(brief(&error)))?;
    let mut first = Matcher::new(Ok(parser));
    if let Some(error) = first.get_error() {
        return Err(Fail::Grammar(brief(&error)));
    }
    let mut probe = first.deep_clone();
    if let Err(error) = probe.compute_mask_or_eos() {
        return Err(Fail::Other(Error::of_state(&error)));
    }
    // An empty text may be all that is allowed.
    let _ = first.consume_tokens(&[]);
    Ok(first)
}
