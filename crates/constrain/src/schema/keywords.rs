//! The words of a schema, one row each.

use serde_json::{Map, Value, json};

use super::{ALTERNATIVES, COUNT, Lower, NAME_PATTERNS, ONE_OF, PROPERTIES, formats, pattern};
use crate::Error;
use crate::error::escape;

/// What becomes of a keyword.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Says nothing about which values are valid.
    Note,
    /// Read together with its neighbours, by [`Simple`].
    Plain,
    /// `allOf`, `anyOf`, `oneOf`: schemas for the same value.
    Side,
    Ref,
    /// `const` and `enum`.
    Literal,
    /// Enforced by nobody here; refused unless it stands so that it says nothing.
    Refused,
}

const KEYWORDS: &[(&str, Kind)] = &[
    ("$schema", Kind::Note),
    ("$id", Kind::Note),
    ("id", Kind::Note),
    ("$anchor", Kind::Note),
    ("$dynamicAnchor", Kind::Note),
    ("$recursiveAnchor", Kind::Note),
    ("$vocabulary", Kind::Note),
    ("$comment", Kind::Note),
    ("$defs", Kind::Note),
    ("definitions", Kind::Note),
    ("title", Kind::Note),
    ("description", Kind::Note),
    ("default", Kind::Note),
    ("deprecated", Kind::Note),
    ("readOnly", Kind::Note),
    ("writeOnly", Kind::Note),
    ("example", Kind::Note),
    ("examples", Kind::Note),
    ("contentMediaType", Kind::Note),
    ("contentEncoding", Kind::Note),
    ("contentSchema", Kind::Note),
    // OpenAPI's, which say nothing about values that the others do not.
    ("discriminator", Kind::Note),
    ("externalDocs", Kind::Note),
    ("xml", Kind::Note),
    ("propertyOrdering", Kind::Note),
    ("type", Kind::Plain),
    ("properties", Kind::Plain),
    ("patternProperties", Kind::Plain),
    ("additionalProperties", Kind::Plain),
    ("required", Kind::Plain),
    ("minProperties", Kind::Plain),
    ("maxProperties", Kind::Plain),
    ("items", Kind::Plain),
    ("prefixItems", Kind::Plain),
    ("additionalItems", Kind::Plain),
    ("minItems", Kind::Plain),
    ("maxItems", Kind::Plain),
    ("minLength", Kind::Plain),
    ("maxLength", Kind::Plain),
    ("pattern", Kind::Plain),
    ("format", Kind::Plain),
    ("minimum", Kind::Plain),
    ("maximum", Kind::Plain),
    ("exclusiveMinimum", Kind::Plain),
    ("exclusiveMaximum", Kind::Plain),
    ("multipleOf", Kind::Plain),
    ("allOf", Kind::Side),
    ("anyOf", Kind::Side),
    ("oneOf", Kind::Side),
    ("$ref", Kind::Ref),
    ("const", Kind::Literal),
    ("enum", Kind::Literal),
    ("not", Kind::Refused),
    ("if", Kind::Refused),
    ("then", Kind::Refused),
    ("else", Kind::Refused),
    ("uniqueItems", Kind::Refused),
    ("contains", Kind::Refused),
    ("minContains", Kind::Refused),
    ("maxContains", Kind::Refused),
    ("propertyNames", Kind::Refused),
    ("dependencies", Kind::Refused),
    ("dependentRequired", Kind::Refused),
    ("dependentSchemas", Kind::Refused),
    ("unevaluatedItems", Kind::Refused),
    ("unevaluatedProperties", Kind::Refused),
    ("$dynamicRef", Kind::Refused),
    ("$recursiveRef", Kind::Refused),
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// A schema that is an object.
pub(super) fn object(
    lower: &mut Lower<'_>,
    map: &Map<String, Value>,
    path: &str,
    depth: usize,
) -> Result<Value, Error> {
    let bad = |keyword: &str, what: String| Err(Error::schema(path, keyword, what));
    let mut out = Map::new();
    // Schemas for the same value that the library has no room for beside others of their kind.
    let mut more = Vec::new();
    let mut plain = false;
    for (word, value) in map {
        match KEYWORDS.iter().find(|(name, _)| name == word).map(|(_, kind)| *kind) {
            Some(Kind::Note) => {}
            Some(Kind::Plain) if plain => {}
            // All of them where `properties` stands or, without it, the first: that decides the order of properties.
            Some(Kind::Plain) if word != "properties" && map.contains_key("properties") => {}
            Some(Kind::Plain) => {
                plain = true;
                Simple { lower, map, path, depth }.write(&mut out, &mut more)?;
            }
            Some(Kind::Side) => {
                let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
                    return bad(word, "must be an array of schemas, at least one".into());
                };
                let most = if word == "oneOf" { ONE_OF } else { ALTERNATIVES };
                if list.len() > most {
                    return Err(Error::TooComplex(format!("{path}/{word}: more than {most} schemas")));
                }
                let mut schemas = Vec::new();
                for (i, schema) in list.iter().enumerate() {
                    schemas.push(lower.schema(schema, &format!("{path}/{word}/{i}"), depth + 1)?);
                }
                out.insert(word.clone(), Value::Array(schemas));
            }
            Some(Kind::Ref) => {
                let Some(reference) = value.as_str() else { return bad(word, "must be a string".into()) };
                let index = lower.refs.resolve(reference, path)?;
                out.insert(word.clone(), json!(format!("#/$defs/{index}")));
            }
            Some(Kind::Literal) => {
                let one = std::slice::from_ref(value);
                let list = if word == "enum" { value.as_array().map(Vec::as_slice) } else { Some(one) };
                let Some(list) = list.filter(|list| !list.is_empty()) else {
                    return bad(word, "must be an array of values, at least one".into());
                };
                for value in list {
                    exact(value).map_err(|what| Error::schema(path, word, what))?;
                    lower.text(value.to_string().len())?;
                }
                out.insert(word.clone(), value.clone());
            }
            Some(Kind::Refused) => refused(map, word, value, path)?,
            None if lower.strict && !word.starts_with("x-") => {
                return bad(word, "is no keyword; correct it or leave it out".into());
            }
            None => {}
        }
    }
    if !more.is_empty() {
        match out.get_mut("allOf").and_then(Value::as_array_mut) {
            Some(all) => all.extend(more),
            None => drop(out.insert("allOf".into(), Value::Array(more))),
        }
    }
    Ok(Value::Object(out))
}

/// A keyword that nobody enforces, unless what stands there says nothing.
fn refused(map: &Map<String, Value>, word: &str, value: &Value, path: &str) -> Result<(), Error> {
    let everything = |value: &Value| *value == Value::Bool(true) || value.as_object().is_some_and(Map::is_empty);
    let at_most = |word: &str, most: u64| map.get(word).and_then(Value::as_u64).is_some_and(|n| n <= most);
    let idle = match word {
        "if" => !map.contains_key("then") && !map.contains_key("else"),
        "then" | "else" => !map.contains_key("if") || everything(value),
        "minContains" | "maxContains" => !map.contains_key("contains"),
        "contains" => map.get("minContains").and_then(Value::as_u64) == Some(0) && !map.contains_key("maxContains"),
        "uniqueItems" => *value == Value::Bool(false) || at_most("maxItems", 1),
        "dependencies" | "dependentRequired" | "dependentSchemas" => value.as_object().is_some_and(Map::is_empty),
        "propertyNames" => everything(value) || *value == json!({"type": "string"}),
        "unevaluatedItems" | "unevaluatedProperties" => everything(value),
        "not" => *value == Value::Bool(false),
        _ => false,
    };
    if idle {
        return Ok(());
    }
    Err(Error::schema(path, word, format!("`{word}` cannot be enforced; leave it out, or say it in other keywords")))
}

/// Numbers as exact as the library reads them.
fn exact(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) => {
            let double = number.as_f64().unwrap_or(f64::INFINITY);
            let same = match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => {
                    double.abs() < 9.2e18 && double as i64 == int && double.abs() <= 9_007_199_254_740_992.0
                }
                (None, Some(_)) => false,
                (None, None) => double.is_finite(),
            };
            if same { Ok(()) } else { Err(format!("{number} is beyond the numbers that are enforced exactly (2^53)")) }
        }
        Value::Array(list) => list.iter().try_for_each(exact),
        Value::Object(map) => map.values().try_for_each(exact),
        _ => Ok(()),
    }
}

/// The keywords that are read together.
struct Simple<'l, 'a, 'm> {
    lower: &'l mut Lower<'a>,
    map: &'m Map<String, Value>,
    path: &'m str,
    depth: usize,
}

impl Simple<'_, '_, '_> {
    fn bad<T>(&self, keyword: &str, what: impl Into<String>) -> Result<T, Error> {
        Err(Error::schema(self.path, keyword, what))
    }

    fn write(mut self, out: &mut Map<String, Value>, more: &mut Vec<Value>) -> Result<(), Error> {
        let types = self.types()?;
        if let Some(types) = &types {
            out.insert("type".into(), if types.len() == 1 { types[0].clone().into() } else { json!(types) });
        }
        let may = |name: &str| types.as_ref().is_none_or(|types| types.iter().any(|t| t == name));
        self.numbers(out)?;
        self.strings(out, more, may("string"), may("number") || may("integer"))?;
        self.arrays(out)?;
        self.objects(out)
    }

    fn types(&self) -> Result<Option<Vec<String>>, Error> {
        let list = match self.map.get("type") {
            None => return Ok(None),
            Some(Value::Array(list)) if !list.is_empty() => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let mut types = Vec::new();
        for one in list {
            match one.as_str().filter(|name| TYPES.contains(name)) {
                Some(name) => types.push(name.to_string()),
                None => return self.bad("type", format!("{one} is no type; there are {}", TYPES.join(", "))),
            }
        }
        Ok(Some(types))
    }

    fn numbers(&mut self, out: &mut Map<String, Value>) -> Result<(), Error> {
        for (word, beside) in [
            ("minimum", None),
            ("maximum", None),
            ("exclusiveMinimum", Some("minimum")),
            ("exclusiveMaximum", Some("maximum")),
            ("multipleOf", None),
        ] {
            match (self.map.get(word), beside) {
                (None | Some(Value::Bool(false)), Some(_)) | (None, None) => {}
                // Draft 4.
                (Some(Value::Bool(true)), Some(beside)) => {
                    if let Some(bound) = self.map.get(beside) {
                        out.insert(word.into(), bound.clone());
                    }
                }
                (Some(value @ Value::Number(number)), _) => {
                    if let Err(what) = exact(value) {
                        // Bounds of 64-bit integers come as such; nothing is between them and the next double.
                        if number.as_f64().is_none_or(|double| double.abs() > 2f64.powi(64)) || word == "multipleOf" {
                            return self.bad(word, what);
                        }
                    }
                    if number.as_f64().is_some_and(|double| double.abs() >= 1e15) && word != "multipleOf" {
                        return self.bad(word, "is beyond the bounds that are enforced (1e15); leave it out");
                    }
                    if word == "multipleOf" && number.as_f64().is_none_or(|double| double <= 0.0) {
                        return self.bad(word, "must be above 0");
                    }
                    if word == "multipleOf" && !self.lower.multiple(number) {
                        return self.bad(word, "has too many digits, alone or with the others, to be enforced");
                    }
                    out.insert(word.into(), value.clone());
                }
                (Some(_), _) => return self.bad(word, "must be a number"),
            }
        }
        Ok(())
    }

    fn count(&self, word: &str, out: &mut Map<String, Value>) -> Result<Option<u64>, Error> {
        let count = match self.map.get(word) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().or_else(|| {
                let double = number.as_f64()?;
                (double >= 0.0 && double.fract() == 0.0 && double < 1e15).then_some(double as u64)
            }),
            Some(_) => None,
        };
        let Some(count) = count else { return self.bad(word, "must be a whole number, 0 or more") };
        if count > COUNT {
            // Text that long does not come; a lower bound that high asks for it.
            if word.starts_with("max") {
                return Ok(None);
            }
            return self.bad(word, format!("{count} is more than can be counted ({COUNT})"));
        }
        out.insert(word.into(), count.into());
        Ok(Some(count))
    }

    fn strings(
        &mut self,
        out: &mut Map<String, Value>,
        more: &mut Vec<Value>,
        strings: bool,
        numbers: bool,
    ) -> Result<(), Error> {
        self.count("minLength", out)?;
        self.count("maxLength", out)?;
        if let Some(value) = self.map.get("pattern") {
            let Some(source) = value.as_str() else { return self.bad("pattern", "must be a string") };
            self.lower.text(source.len())?;
            match pattern::rewrite(source) {
                Ok(rewritten) => drop(out.insert("pattern".into(), rewritten.into())),
                Err(what) => return self.bad("pattern", what),
            }
        }
        let Some(value) = self.map.get("format") else { return Ok(()) };
        let Some(name) = value.as_str() else { return self.bad("format", "must be a string") };
        if numbers && let Some((low, high)) = formats::range(name) {
            more.push(json!({"anyOf": [{"type": "integer", "minimum": low, "maximum": high},
                {"type": ["null", "boolean", "string", "array", "object"]}]}));
            return Ok(());
        }
        if !strings || numbers && formats::NUMERIC.contains(&name) {
            return Ok(());
        }
        match (formats::pattern(name), out.contains_key("pattern")) {
            (None, _) => {
                let known = formats::names().collect::<Vec<_>>().join(", ");
                return self.bad("format", format!("`{name}` is not enforced; those that are: {known}"));
            }
            (Some(pattern), false) => drop(out.insert("pattern".into(), pattern.into())),
            (Some(pattern), true) => more.push(json!({"pattern": pattern})),
        }
        Ok(())
    }

    fn arrays(&mut self, out: &mut Map<String, Value>) -> Result<(), Error> {
        self.count("minItems", out)?;
        self.count("maxItems", out)?;
        let map = self.map;
        // An array of `items` is what drafts before 2020-12 call `prefixItems`; then `additionalItems` is `items`.
        let (prefix, rest) = match map.get("items") {
            Some(Value::Array(_)) => ("items", "additionalItems"),
            _ => ("prefixItems", "items"),
        };
        if let Some(value) = map.get(prefix) {
            let Some(list) = value.as_array() else { return self.bad(prefix, "must be an array of schemas") };
            let mut schemas = Vec::new();
            for (i, schema) in list.iter().enumerate() {
                schemas.push(self.lower.schema(schema, &format!("{}/{prefix}/{i}", self.path), self.depth + 1)?);
            }
            out.insert("prefixItems".into(), Value::Array(schemas));
        }
        if let Some(schema) = map.get(rest) {
            let schema = self.lower.schema(schema, &format!("{}/{rest}", self.path), self.depth + 1)?;
            out.insert("items".into(), schema);
        }
        Ok(())
    }

    fn objects(&mut self, out: &mut Map<String, Value>) -> Result<(), Error> {
        let map = self.map;
        for word in ["properties", "patternProperties"] {
            let Some(value) = map.get(word) else { continue };
            let Some(properties) = value.as_object() else { return self.bad(word, "must be an object of schemas") };
            let most = if word == "properties" { PROPERTIES } else { NAME_PATTERNS };
            if properties.len() > most {
                return Err(Error::TooComplex(format!("{}/{word}: more than {most} names", self.path)));
            }
            let mut schemas = Map::new();
            for (name, schema) in properties {
                self.lower.text(name.len())?;
                let path = format!("{}/{word}/{}", self.path, escape(name));
                let lowered = self.lower.schema(schema, &path, self.depth + 1)?;
                let name = match word {
                    "properties" => name.clone(),
                    _ => pattern::rewrite(name).map_err(|what| Error::Schema { path, what })?,
                };
                schemas.insert(name, lowered);
            }
            out.insert(word.into(), Value::Object(schemas));
        }
        if let Some(schema) = map.get("additionalProperties") {
            let path = format!("{}/additionalProperties", self.path);
            let schema = self.lower.schema(schema, &path, self.depth + 1)?;
            out.insert("additionalProperties".into(), schema);
        }
        let mut required = 0;
        if let Some(value) = map.get("required") {
            let list = value.as_array().map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
            let Some(Some(list)) = list else { return self.bad("required", "must be an array of strings") };
            let mut names = list.clone();
            names.sort_unstable();
            names.dedup();
            required = names.len() as u64;
            if names.len() > PROPERTIES {
                return Err(Error::TooComplex(format!("{}/required: more than {PROPERTIES} names", self.path)));
            }
            out.insert("required".into(), json!(list));
        }
        let least = self.count("minProperties", out)?.unwrap_or(0);
        if least <= required {
            out.remove("minProperties");
        } else if least > required + 1 {
            // Names beyond those that are listed may be repeated, and then count once.
            return self.bad("minProperties", "more than one property beyond those required cannot be enforced");
        }
        self.count("maxProperties", out)?;
        Ok(())
    }
}
