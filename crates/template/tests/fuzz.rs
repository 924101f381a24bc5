//! Random conversations, compared with what transformers rendered.
//!
//! `ALULA_TEMPLATES=DIR` is llama.cpp's `models/templates`; `ALULA_TEMPLATE_CASES=FILE` is written by
//! `tools/goldens_template.py DIR --fuzz N FILE`. Without both the test prints a line and passes.

mod common;

use common::{Outcome, outcome};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};

#[test]
fn random_conversations_render_as_transformers_renders_them() {
    let (Ok(folder), Ok(cases)) = (std::env::var("ALULA_TEMPLATES"), std::env::var("ALULA_TEMPLATE_CASES")) else {
        println!("skipped: set ALULA_TEMPLATES and ALULA_TEMPLATE_CASES");
        return;
    };
    let mut templates: HashMap<String, Result<alula_template::Template, alula_template::Error>> = HashMap::new();
    let mut differing: BTreeMap<String, usize> = BTreeMap::new();
    let (mut count, mut texts) = (0, 0);
    let mut shown = 0;
    for line in BufReader::new(std::fs::File::open(cases).unwrap()).lines() {
        let case: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let name = case["template"].as_str().unwrap().to_string();
        let template = templates.entry(name.clone()).or_insert_with(|| {
            alula_template::Template::new(&std::fs::read_to_string(format!("{folder}/{name}")).unwrap())
        });
        let got = outcome(template, &case);
        let want = match (&case["want"]["text"], &case["want"]["refused"]) {
            (serde_json::Value::String(text), _) => Outcome::Text(text.clone()),
            (_, serde_json::Value::String(message)) => Outcome::Refused(message.clone()),
            _ => Outcome::Error(case["want"]["error"].to_string()),
        };
        count += 1;
        texts += usize::from(matches!(want, Outcome::Text(_)));
        if !got.agrees(&want) {
            let n = differing.entry(name.clone()).or_default();
            *n += 1;
            if *n == 1 && shown < 40 {
                shown += 1;
                println!("--- {name}\n{}", got.difference(&want));
                if std::env::var_os("ALULA_TEMPLATE_SHOW").is_some() {
                    println!("{case}");
                }
            }
        }
    }
    println!("{count} conversations, {texts} of them texts");
    assert!(differing.is_empty(), "conversations that differ, by template: {differing:#?}");
}
