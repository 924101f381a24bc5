//! What schemas allow and refuse. The verdicts of `cases.json` are those of the Python package jsonschema 4.26 and of the
//! Rust crate of that name (`bench/constrain/cases.py` makes the file).

mod common;

use alula_constrain::{Constraint, Error, Grammar, Vocabulary};
use alula_tokenizer::Tokenizer;
use serde_json::{Value, json};

fn compile(vocabulary: &Vocabulary, schema: &Value) -> Result<Constraint, Error> {
    Grammar::json_schema(schema, false).and_then(|grammar| vocabulary.compile(&grammar))
}

/// Whether a text can be written under a constraint, token by token and as a whole.
fn allows(tokenizer: &Tokenizer, constraint: &Constraint, text: &str) -> bool {
    let mut state = constraint.start();
    let mut mask = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    for id in tokenizer.encode(text, false, false).expect("tokens") {
        state.mask(&mut mask).expect("a mask");
        let allowed = mask[id as usize / 32] >> (id % 32) & 1 == 1;
        let taken = state.commit(id);
        assert_eq!(allowed, taken.is_ok(), "the mask and the parser agree on {id} in {text}");
        if !allowed {
            assert_eq!(taken, Err(Error::Token(id)));
            return false;
        }
    }
    state.may_end().expect("known")
}

#[test]
fn verdicts_are_those_of_validators() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let cases: Value = serde_json::from_str(include_str!("cases.json")).expect("JSON");
    let mut count = 0;
    for case in cases.as_array().expect("cases") {
        let constraint =
            compile(&vocabulary, &case["schema"]).unwrap_or_else(|error| panic!("{}: {error}", case["schema"]));
        for test in case["tests"].as_array().expect("tests") {
            let text = test["value"].to_string();
            assert_eq!(allows(&tokenizer, &constraint, &text), test["valid"] == true, "{text} for {}", case["schema"]);
            count += 1;
        }
    }
    assert!(count > 300, "{count} cases");
}

#[test]
fn random_texts_are_valid_json_of_the_schema() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let cases: Value = serde_json::from_str(include_str!("cases.json")).expect("JSON");
    let mut mask = vec![0u32; vocabulary.len().div_ceil(32)];
    let mut ended = 0;
    for (n, case) in cases.as_array().expect("cases").iter().enumerate() {
        let constraint = compile(&vocabulary, &case["schema"]).expect("compiles");
        for seed in 0..4u64 {
            let mut random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n as u64;
            let mut next = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as usize
            };
            let mut state = constraint.start();
            let mut text = Vec::new();
            for step in 0..600 {
                if state.is_complete() || state.may_end().expect("known") && next() % 3 == 0 {
                    let text = String::from_utf8(text).expect("UTF-8");
                    let value: Result<Value, _> = serde_json::from_str(&text);
                    // Numbers may be beyond what serde_json reads.
                    if value.is_err() && !text.contains(['e', 'E']) {
                        panic!("{text} is no JSON");
                    }
                    ended += 1;
                    break;
                }
                state.mask(&mut mask).expect("a mask");
                let ids: Vec<u32> = (0..vocabulary.len() as u32)
                    .filter(|&id| mask[id as usize / 32] >> (id % 32) & 1 == 1 && !tokenizer.is_end(id))
                    .collect();
                let close: Vec<u32> =
                    ids.iter().copied().filter(|&id| b"\"]}".contains(&tokenizer.token_bytes(id)[0])).collect();
                let from = if close.is_empty() || next() % 10 > 2 + step / 20 { &ids } else { &close };
                let id = from[next() % from.len()];
                state.commit(id).expect("allowed");
                text.extend(tokenizer.token_bytes(id));
            }
        }
    }
    assert!(ended > 200, "{ended} texts ended");
}

#[test]
fn what_is_not_enforced_is_refused_with_its_place() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    for (schema, place) in [
        (json!({"type": "array", "uniqueItems": true}), "#/uniqueItems: "),
        (json!({"type": "array", "contains": {"type": "string"}}), "#/contains: "),
        (json!({"not": {"type": "string"}}), "#/not: "),
        (json!({"if": {"minimum": 1}, "then": {"multipleOf": 2}}), "#/if: "),
        (json!({"dependentRequired": {"a": ["b"]}}), "#/dependentRequired: "),
        (
            json!({"$schema": "http://json-schema.org/draft-04/schema#", "dependencies": {"a": ["b"]}}),
            "#/dependencies: ",
        ),
        (json!({"propertyNames": {"pattern": "^a"}}), "#/propertyNames: "),
        (json!({"unevaluatedProperties": false}), "#/unevaluatedProperties: "),
        (json!({"type": "object", "minProperties": 2}), "#/minProperties: "),
        (json!({"$dynamicRef": "#x"}), "#/$dynamicRef: "),
        (json!({"properties": {"a/b": {"items": {"format": "regex"}}}}), "#/properties/a~1b/items/format: "),
        (json!({"format": "unknown"}), "#/format: "),
        (json!({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}), "#/properties/a/pattern: "),
        (json!({"properties": {"a": {"type": "string", "pattern": "\\bx"}}}), "#/properties/a/pattern: "),
        (json!({"patternProperties": {"^(?!x)": {}}}), "#/patternProperties/^(?!x): "),
        (json!({"anyOf": [{"type": "integer"}, {"type": "nothing"}]}), "#/anyOf/1/type: "),
        (json!({"enum": []}), "#/enum: "),
        (json!({"const": 18_446_744_073_709_551_615u64}), "#/const: "),
        (json!({"type": "number", "maximum": 1e30}), "#/maximum: "),
        (json!({"type": "integer", "multipleOf": 4_000_000_000u64}), "#/multipleOf: "),
        (json!({"$ref": "#/$defs/gone"}), "#/$ref: "),
        (json!({"$ref": "https://example.com/schema"}), "#/$ref: "),
        (
            json!({"$defs": {"a": {"type": "string", "format": "iri"}}, "items": {"$ref": "#/$defs/a"}}),
            "#/$defs/a/format: ",
        ),
        // Found by the library, placed by looking for it.
        (json!({"properties": {"a": {"oneOf": [{"type": "integer"}, {"minimum": 5}]}}}), "#/properties/a/oneOf: "),
        (
            json!({"properties": {"a": {"type": "string", "minLength": 3, "maxLength": 2}}, "required": ["a"], "type": "object"}),
            "#/properties/a/minLength: ",
        ),
        (
            json!({"type": "array", "items": {"type": "object", "patternProperties": {"^a": {}, "b$": {}}}}),
            "#/items/patternProperties: ",
        ),
        (json!({"type": "object", "required": ["a"], "properties": {"a": false}}), "#/required: "),
    ] {
        let Err(error) = compile(&vocabulary, &schema) else { panic!("{schema} is accepted") };
        let error = error.to_string();
        assert!(error.starts_with(place), "{schema}: {error}");
    }
}

#[test]
fn words_of_no_draft_are_refused_when_strict() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "minLenght": 3, "x-order": 1}}});
    assert!(Grammar::json_schema(&schema, false).is_ok());
    let error = Grammar::json_schema(&schema, true).map(|_| ()).expect_err("refused").to_string();
    assert!(error.starts_with("#/properties/a/minLenght: "), "{error}");
}

#[test]
fn names_cannot_hide_behind_escapes() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let constraint =
        compile(&vocabulary, &json!({"type": "object", "properties": {"a": {"type": "string"}}})).expect("compiles");
    for (text, allowed) in [
        (r#"{"a": "x", "b": 1}"#, true),
        (r#"{"a": 1}"#, false),
        (r#"{"\u0061": 1}"#, false),
        (r#"{"b": 1, "a": "x"}"#, false),
        (r#"{"a": "x", "a": 1}"#, false),
    ] {
        assert_eq!(allows(&tokenizer, &constraint, text), allowed, "{text}");
    }
}

#[test]
fn other_grammars() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let allows = |grammar: Grammar, text: &str| {
        allows(&tokenizer, &vocabulary.compile(&grammar).unwrap_or_else(|error| panic!("{error}")), text)
    };
    let regex = || Grammar::regex("[a-c]{2,3}(é|/)+").expect("short");
    assert!(allows(regex(), "abé/") && !allows(regex(), "ab") && !allows(regex(), "abé/x"));
    let choice = || Grammar::choice(&["yes", "no \"way\"\n", "é/"]).expect("some");
    assert!(
        allows(choice(), "no \"way\"\n")
            && allows(choice(), "é/")
            && !allows(choice(), "no")
            && !allows(choice(), "yess")
    );
    let object = Grammar::json_object;
    assert!(allows(object(), r#"{"a": [1, {"b": null}]}"#) && !allows(object(), "[1]") && !allows(object(), "{} "));
    let lark = || Grammar::lark("start: \"<\" inner \">\"\ninner: \"x\" | start").expect("short");
    assert!(allows(lark(), "<<<x>>>") && !allows(lark(), "<<x>"));
}

#[test]
fn control_tokens_come_only_where_named() {
    let tokenizer = common::tokenizer();
    let vocabulary = common::vocabulary(&tokenizer);
    let (mark, end) = (tokenizer.id("<|mark|>").expect("there"), tokenizer.id("<|end|>").expect("there"));
    let mut mask = vec![u32::MAX; vocabulary.len().div_ceil(32) + 2];
    let bit = |mask: &[u32], id: u32| mask[id as usize / 32] >> (id % 32) & 1 == 1;

    let mut state = vocabulary.compile(&Grammar::lark("start: /(?s:.*)/").expect("short")).expect("compiles").start();
    state.mask(&mut mask).expect("a mask");
    assert!(!bit(&mask, mark) && bit(&mask, end) && bit(&mask, 65), "any text, but no mark");
    assert_eq!(mask[mask.len() - 1], 0, "what is beyond the vocabulary is cleared");
    assert_eq!(state.commit(mark), Err(Error::Token(mark)));
    assert_eq!(state.commit(1 << 30), Err(Error::Token(1 << 30)));
    state.commit(65).expect("a letter");
    let mut other = state.clone();
    state.commit(end).expect("the end");
    assert!(state.is_complete());
    state.mask(&mut mask).expect("a mask");
    assert!(bit(&mask, end) && !bit(&mask, 65));
    other.commit(66).expect("the clone goes on");

    let grammar = Grammar::lark(&format!("start: <[{mark}]> \"abc\" <|mark|>")).expect("short");
    let mut state = vocabulary.compile(&grammar).expect("compiles").start();
    state.commit(mark).expect("named");
    assert_eq!(tokenizer.decode(&state.forced(), false), "ab", "all but the last, which may be a part of a longer one");
    assert_eq!(state.check(&tokenizer.encode("abd", false, false).expect("tokens")), Ok(2));
    for id in tokenizer.encode("abc", false, false).expect("tokens").into_iter().chain([mark]) {
        assert!(!state.is_complete());
        state.commit(id).expect("the only way");
    }
    assert!(state.is_complete());
}
