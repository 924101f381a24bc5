//! JSON schemas, written out again in what is enforced.
//!
//! The parser's library accepts more than it enforces: keywords of other drafts, `additionalItems` and draft 4's
//! `exclusiveMinimum` behind another applicator, the format `unknown`, numbers beyond double precision, property counts
//! that repeated names satisfy, property names whose escapes hide that they are taken. So every keyword is looked up
//! here (`keywords`), references are resolved (`refs`), patterns are read as ECMA-262 says (`pattern`), formats become
//! patterns (`formats`), and what comes out has one spelling of each thing, without annotations.

mod formats;
mod keywords;
mod locate;
mod pattern;
mod refs;

pub(crate) use locate::locate;

use crate::Error;
use serde_json::{Map, Value, json};

/// How deep schemas may be nested. `serde_json` reads 128 levels of JSON.
const DEPTH: usize = 64;

/// How many schemas there may be in a schema, and how many may be referred to.
const SCHEMAS: usize = 20_000;
const REFERRED: usize = 4_000;

/// How many alternatives stand side by side; the library compares those of `oneOf` with each other.
const ALTERNATIVES: usize = 2_000;
const ONE_OF: usize = 300;

/// How many properties an object names.
const PROPERTIES: usize = 2_000;

/// How many names are patterns; they are compared with each other.
const NAME_PATTERNS: usize = 64;

/// How many values `enum` lists, and how many bytes all of them and all patterns take.
const TEXT: usize = 1 << 20;

/// The highest product of all values of `multipleOf`, as whole numbers.
const MULTIPLE: u64 = 100_000_000;

/// The highest count in `minLength`, `maxItems` and so on that is enforced by counting.
const COUNT: u64 = 100_000;

/// Writes the schema at `path` of `root` out again. `strict`: refuse words that no draft knows.
pub(crate) fn lower(root: &Value, path: &str, strict: bool) -> Result<Value, Error> {
    let mut lower = Lower { refs: refs::Refs::new(root, DEPTH)?, strict, schemas: 0, text: 0, multiples: Vec::new() };
    let start = lower.refs.place(path);
    let mut first = lower.schema(start.value, &start.path, 0)?;
    let mut defs = Map::new();
    while let Some(target) = lower.refs.next() {
        if target.index >= REFERRED {
            return Err(Error::TooComplex(format!("the schema refers to more than {REFERRED} others")));
        }
        let value = lower.schema(target.place.value, &target.place.path, 0)?;
        defs.insert(target.index.to_string(), value);
    }
    if !defs.is_empty() {
        if !first.is_object() {
            first = json!({"allOf": [first]});
        }
        first.as_object_mut().expect("an object").insert("$defs".into(), Value::Object(defs));
    }
    Ok(first)
}

/// Adds how the library shall write JSON: escapes that have no other spelling, and white space where JSON has it, but no
/// more of it than a person would write.
pub(crate) fn options(schema: Value) -> Value {
    let mut schema = match schema {
        Value::Object(map) => map,
        Value::Bool(true) => Map::new(),
        other => Map::from_iter([("allOf".to_string(), Value::Array(vec![other]))]),
    };
    schema.insert(
        "x-guidance".into(),
        json!({"json_allowed_escapes": "nrbtf\\\"", "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,40}"}),
    );
    Value::Object(schema)
}

struct Lower<'a> {
    refs: refs::Refs<'a>,
    strict: bool,
    schemas: usize,
    text: usize,
    /// The different values of `multipleOf`, as a whole number and its decimal places.
    multiples: Vec<(u64, u32)>,
}

impl Lower<'_> {
    /// The schema at a path, in canonical words.
    fn schema(&mut self, schema: &Value, path: &str, depth: usize) -> Result<Value, Error> {
        self.schemas += 1;
        if self.schemas > SCHEMAS {
            return Err(Error::TooComplex(format!("more than {SCHEMAS} schemas in the schema")));
        }
        if depth > DEPTH {
            return Err(Error::TooComplex(format!("{path}: schemas are nested deeper than {DEPTH} levels")));
        }
        match schema {
            Value::Bool(_) => Ok(schema.clone()),
            Value::Object(map) => keywords::object(self, map, path, depth),
            _ => Err(Error::schema(path, "", "must be a schema, that is, an object or a boolean")),
        }
    }

    /// Notes a value of `multipleOf`. Those that meet are multiplied by the library, in 32 bits, which all of them
    /// together must not leave.
    fn multiple(&mut self, number: &serde_json::Number) -> bool {
        let text = number.to_string();
        let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
        let places = places.trim_end_matches('0');
        let Ok(digits) = format!("{whole}{places}").parse::<u64>() else { return false };
        let multiple = (digits, places.len() as u32);
        if !self.multiples.contains(&multiple) {
            self.multiples.push(multiple);
        }
        let most = self.multiples.iter().map(|(_, places)| *places).max().unwrap_or(0);
        let product = self.multiples.iter().try_fold(1u64, |all, (digits, places)| {
            all.checked_mul(*digits)?.checked_mul(10u64.checked_pow(most - places)?)
        });
        product.is_some_and(|product| (1..=MULTIPLE).contains(&product))
    }

    /// Counts text that the library has to read.
    fn text(&mut self, bytes: usize) -> Result<(), Error> {
        self.text += bytes;
        if self.text > TEXT {
            return Err(Error::TooComplex(format!("names, patterns and values of more than {TEXT} bytes")));
        }
        Ok(())
    }
}
