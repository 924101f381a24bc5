//! Goldens made by `tools/goldens_template.py` with transformers.
//!
//! `data/own.json` holds small templates of our own with the full text of what they render to. `data/goldens.json`
//! holds, for each of llama.cpp's templates, a hash of the text (or `!` and a hash of the refusal, or `error`) for each
//! of `data/conversations.json`; the templates themselves belong to the models' makers, so `ALULA_TEMPLATES=DIR` names
//! a copy of llama.cpp's `models/templates`. Without it that test prints a line and passes.

mod common;

use alula_template::Template;
use common::{Outcome, outcome};
use serde_json::Value;
use std::collections::BTreeMap;

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// 64-bit FNV-1a.
fn fnv(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100000001b3);
    format!("{:016x}", text.bytes().fold(0xcbf29ce484222325, step))
}

#[test]
fn own_templates_render_as_transformers_renders_them() {
    let own = data("own.json");
    let cases = own["cases"].as_array().unwrap();
    let mut differing = 0;
    for case in cases {
        let source = case["template"].as_str().unwrap();
        if case["want"]["address"] == true {
            continue; // Python prints where in memory it has an object: nobody can reproduce that.
        }
        let want = match (&case["want"]["text"], &case["want"]["refused"]) {
            (Value::String(text), _) => Outcome::Text(text.clone()),
            (_, Value::String(message)) => Outcome::Refused(message.clone()),
            _ => Outcome::Error(case["want"]["error"].as_str().unwrap().into()),
        };
        let input = if case["input"] == "shared" { &own["shared"] } else { &case["input"] };
        let got = outcome(&Template::new(source), input);
        // "differs" says why a case cannot be right; it has to go when the case becomes right.
        if got.agrees(&want) != case["differs"].is_null() {
            differing += 1;
            println!("{source:?}\n  got  {got:?}\n  want {want:?}");
        }
    }
    assert_eq!(differing, 0, "of {} templates", cases.len());
}

#[test]
fn llama_cpp_templates_render_as_transformers_renders_them() {
    let Ok(folder) = std::env::var("ALULA_TEMPLATES") else {
        println!("skipped: set ALULA_TEMPLATES to llama.cpp's models/templates");
        return;
    };
    let conversations = data("conversations.json");
    let goldens: BTreeMap<String, String> = serde_json::from_value(data("goldens.json")).unwrap();
    let mut differing = Vec::new();
    for (name, wanted) in &goldens {
        let template = Template::new(&std::fs::read_to_string(format!("{folder}/{name}")).unwrap());
        for (i, (case, want)) in conversations.as_array().unwrap().iter().zip(wanted.split(' ')).enumerate() {
            let got = match outcome(&template, case) {
                Outcome::Text(text) => fnv(&text),
                Outcome::Refused(message) => format!("!{}", fnv(&message)),
                Outcome::Error(_) => "error".into(),
            };
            if got != want && want != "address" {
                differing.push(format!("{name}, conversation {i}"));
            }
        }
    }
    assert_eq!(goldens.len(), 70);
    assert!(differing.is_empty(), "{differing:#?}");
}
