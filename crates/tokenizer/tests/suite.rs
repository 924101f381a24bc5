//! `tokenizer.json` files of every kind that the library knows, against what the `tokenizers` Python package says:
//! a small part is committed in `tests/suite`, all of it is in the folder `ALULA_TOKENIZER_SUITE` if that is set. Both are
//! written by `tools/tokenizer_suite.py`.

use alula_tokenizer::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array().map(|a| a.iter().map(|v| v.as_u64().expect("an id") as u32).collect())
}

/// Checks one folder; the number of tokenizers in it.
fn check(dir: &Path) -> usize {
    let texts: Vec<String> = serde_json::from_value(read(&dir.join("texts.json"))).expect("texts");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a folder")
        .filter_map(|e| {
            e.expect("readable").file_name().to_string_lossy().strip_suffix(".tokenizer.json").map(str::to_owned)
        })
        .collect();
    names.sort();
    let mut wrong = Vec::new();
    for name in &names {
        let bytes = std::fs::read(dir.join(format!("{name}.tokenizer.json"))).expect("readable");
        let tokenizer = Tokenizer::from_json(&bytes, None, name).unwrap_or_else(|e| panic!("{e}"));
        let expect = read(&dir.join(format!("{name}.expect.json")));
        for (text, row) in texts.iter().zip(expect.as_array().expect("rows")) {
            for (i, (add, parse)) in [(true, true), (false, true), (false, false)].into_iter().enumerate() {
                let (got, want) = (tokenizer.encode(text, add, parse).ok(), ids(&row[i]));
                if got != want {
                    wrong.push(format!("{name} {add} {parse} {text:?}\n  got  {got:?}\n  want {want:?}"));
                }
            }
            if let (Some(ids), Some(decoded)) = (ids(&row[0]), row[3].as_array()) {
                decodes(name, &tokenizer, &ids, decoded, &mut wrong);
            }
        }
        for row in read(&dir.join(format!("{name}.decode.json"))).as_array().expect("rows") {
            decodes(name, &tokenizer, &ids(&row[0]).expect("ids"), &row.as_array().expect("a row")[1..], &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    names.len()
}

/// Decoding at once and step by step, without and with special tokens.
fn decodes(name: &str, tokenizer: &Tokenizer, ids: &[u32], want: &[Value], wrong: &mut Vec<String>) {
    for (skip, want) in [true, false].into_iter().zip(want) {
        let got = tokenizer.decode(ids, skip);
        let mut stream = tokenizer.stream(skip);
        let stepped = ids.iter().map(|&id| stream.push(id)).collect::<String>() + &stream.finish();
        if got != want.as_str().expect("text") || stepped != got {
            wrong.push(format!("{name} decode {skip} {ids:?}\n  got  {got:?}\n  step {stepped:?}\n  want {want}"));
        }
    }
}

#[test]
fn as_the_library() {
    assert_eq!(check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite")), 16);
}

#[test]
fn as_the_library_in_full() {
    match std::env::var_os("ALULA_TOKENIZER_SUITE").map(PathBuf::from) {
        Some(dir) => println!("{} tokenizers", check(&dir)),
        None => println!("skipped: ALULA_TOKENIZER_SUITE names no folder (see tools/tokenizer_suite.py)"),
    }
}
