//! Grammars that mean harm end in an error, or compile, in bounded time; and so does every mask.

mod common;

use std::time::{Duration, Instant};

use alula_constrain::{Grammar, Vocabulary};
use serde_json::{Map, Value, json};

/// What one grammar may take. Tests run unoptimised and beside each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Compiles and takes a few steps.
fn suffer(vocabulary: &Vocabulary, name: &str, grammar: Result<Grammar, alula_constrain::Error>) {
    let start = Instant::now();
    let outcome = grammar.and_then(|grammar| vocabulary.compile(&grammar)).and_then(|constraint| {
        let mut state = constraint.start();
        let mut mask = vec![0u32; vocabulary.len().div_ceil(32)];
        for step in 0..60u32 {
            if state.is_complete() {
                break;
            }
            state.mask(&mut mask)?;
            let ids: Vec<u32> =
                (0..vocabulary.len() as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
            let Some(&id) = ids.get(step as usize * 7 % ids.len().max(1)) else { break };
            state.commit(id)?;
        }
        Ok(())
    });
    let took = start.elapsed();
    println!("{name}: {took:?}: {}", outcome.map_or_else(|error| error.to_string(), |()| "works".into()));
    assert!(took < PATIENCE, "{name} took {took:?}");
}

fn nested(depth: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "string"}), |inner, _| wrap(inner))
}

#[test]
fn schemas_end() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let chain = |length: usize| {
        let mut defs = Map::new();
        for i in 0..length {
            defs.insert(format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}));
        }
        defs.insert(format!("d{length}"), json!({"type": "null"}));
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let wide = |n: usize| (0..n).map(|i| (format!("p{i}"), json!({"type": "integer"}))).collect::<Map<_, _>>();
    let any = |n: usize, m: usize| {
        let of = |j: usize| json!({"anyOf": (0..n).map(|i| json!({"properties": {format!("p{i}_{j}"): {"type": "string"}}})).collect::<Vec<_>>()});
        json!({"allOf": (0..m).map(of).collect::<Vec<_>>()})
    };
    for (name, schema) in [
        ("depth", nested(100, |inner| json!({"items": inner}))),
        (
            "depth of anyOf",
            nested(60, |inner| {
                json!({"anyOf": [inner.clone(), {"items": inner}]})
                    .pointer("/anyOf/1")
                    .cloned()
                    .map_or(Value::Null, |_| json!({"anyOf": [inner]}))
            }),
        ),
        ("a chain of references", chain(3_000)),
        ("a longer chain of references", chain(20_000)),
        ("a reference to itself", json!({"$ref": "#"})),
        (
            "references in a circle",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        ("a circle of allOf", json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"})),
        (
            "two trees",
            json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
            "a": {"properties": {"c": {"$ref": "#/$defs/a"}}}, "b": {"properties": {"c": {"$ref": "#/$defs/b"}}}}}),
        ),
        ("an endless object", json!({"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"})),
        ("many properties", json!({"type": "object", "properties": wide(2_000)})),
        ("too many properties", json!({"type": "object", "properties": wide(50_000)})),
        (
            "many required",
            json!({"type": "object", "required": (0..1_500).map(|i| format!("r{i}")).collect::<Vec<_>>()}),
        ),
        ("products of anyOf", any(30, 4)),
        ("many values", json!({"enum": (0..50_000).collect::<Vec<_>>()})),
        ("long values", json!({"enum": ["x".repeat(2_000_000)]})),
        ("long strings", json!({"type": "string", "minLength": 90_000, "maxLength": 100_000})),
        ("longer strings", json!({"type": "string", "minLength": 4_000_000_000u64})),
        ("many items", json!({"type": "array", "minItems": 100_000, "items": {"type": "array", "minItems": 100_000}})),
        (
            "items of items",
            nested(20, |inner| json!({"type": "array", "minItems": 1000, "maxItems": 2000, "items": inner})),
        ),
        ("many names", json!({"type": "object", "minProperties": 1, "maxProperties": 100_000})),
        ("a states' explosion", json!({"type": "string", "pattern": "(a|b)*a(a|b){2000}$"})),
        ("counts in counts", json!({"type": "string", "pattern": "((a{0,99}b){0,99}c){0,1}"})),
        ("too many counts", json!({"type": "string", "pattern": "((a{1000}){1000}){1000}"})),
        ("deep groups", json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000))})),
        ("a long pattern", json!({"type": "string", "pattern": "[a-z]?".repeat(20_000)})),
        (
            "patterns of names",
            json!({"type": "object", "patternProperties": (0..60).map(|i| (format!("^{}{i}$", "(a|b)*a(a|b){12}"), json!({}))).collect::<Map<_, _>>()}),
        ),
        (
            "patterns together",
            json!({"allOf": (2..40).map(|i| json!({"type": "string", "pattern": format!("^(a{{{i}}})*$")})).collect::<Vec<_>>()}),
        ),
        (
            "multiples together",
            json!({"allOf": ([3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37].map(|n| json!({"type": "integer", "multipleOf": n})))}),
        ),
        ("a large multiple", json!({"type": "integer", "multipleOf": 4_000_000_000u64})),
        ("a small multiple", json!({"type": "number", "multipleOf": 1e-300})),
        ("large bounds", json!({"type": "number", "minimum": -1e300, "maximum": 1e300})),
        (
            "oneOf of many",
            json!({"oneOf": (0..300).map(|i| json!({"type": "object", "properties": {"k": {"const": i}}, "required": ["k"]})).collect::<Vec<_>>()}),
        ),
        ("no schema", json!([1, 2])),
        ("nothing", json!(false)),
    ] {
        suffer(&vocabulary, name, Grammar::json_schema(&schema, false));
    }
}

#[test]
fn expressions_and_grammars_end() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    for pattern in [
        "(a|b)*a(a|b){2000}",
        "((a{1000}){1000}){1000}",
        "a{4000000000}",
        "(((((((((((x*)*)*)*)*)*)*)*)*)*)*",
        "[",
        "(?=a)",
        "\\p{L}{500,9000}",
        &"(".repeat(100_000),
        &"a?".repeat(2_000),
        &"a?".repeat(100_000),
    ] {
        suffer(&vocabulary, &pattern.chars().take(40).collect::<String>(), Grammar::regex(pattern));
    }
    for grammar in [
        "start: start",
        "start: a\na: b\nb: a",
        "start: start start | \"a\"",
        "start: \"a\"{1000000000}",
        "start: (((\"a\"{0,1000}){0,1000}){0,1000})",
        "start: nothing",
        "START: START",
        "",
        "start: %json {\"type\": \"nonsense\"}",
        "start: <|no such token|>",
        "start: <[4000000000]>",
        "start: <|mark|> \"a\"",
        &format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000)),
        &format!("start: {}", (0..20_000).map(|i| format!("\"x{i}\"")).collect::<Vec<_>>().join(" | ")),
    ] {
        suffer(&vocabulary, &grammar.chars().take(40).collect::<String>(), Grammar::lark(grammar));
    }
    suffer(&vocabulary, "a long terminal", Grammar::lark(&format!("start: A\nA: {}", "\"a\"? ".repeat(5_000))));
    suffer(&vocabulary, "no choice", Grammar::choice::<&str>(&[]));
    suffer(&vocabulary, "many choices", Grammar::choice(&(0..20_000).map(|i| i.to_string()).collect::<Vec<_>>()));
}
