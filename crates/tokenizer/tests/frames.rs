//! One text or two as encoders read them, against what the tokenizers library says (`testdata/encoders`, made by
//! `tools/parity/encoders.py`); the same vocabularies as GGUF metadata give the same ids.

mod common;

use alula_tokenizer::{Framed, Tokenizer};
use common::{Val, load, strs};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoders").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().expect("ids").iter().map(|x| x.as_u64().expect("an id") as u32).collect()
}

/// A vocabulary as llama.cpp's converter writes it.
fn as_gguf(name: &str) -> Option<Tokenizer> {
    let file = json(&folder(name).join("tokenizer.json"));
    let mut tokens: Vec<(u64, &str)> = file["model"]["vocab"]
        .as_object()?
        .iter()
        .map(|(text, id)| (id.as_u64().unwrap_or(0), text.as_str()))
        .collect();
    tokens.sort_unstable();
    let special =
        |text: &str| file["added_tokens"].as_array().is_some_and(|all| all.iter().any(|t| t["content"] == text));
    let types = Val::I32s(tokens.iter().map(|(_, text)| if special(text) { 3 } else { 1 }).collect());
    let id = |text: &str| Val::U32(tokens.iter().find(|t| t.1 == text).map_or(0, |t| t.0 as u32));
    let keys = match name {
        "cross_bert" => vec![
            ("model", Val::Str("bert".into())),
            (
                "tokens",
                strs(tokens.iter().map(|(_, text)| match text.strip_prefix("##") {
                    _ if special(text) => (*text).to_owned(),
                    Some(rest) => rest.to_owned(),
                    None => format!("\u{2581}{text}"),
                })),
            ),
            ("token_type", types),
            ("bos_token_id", id("[CLS]")),
            ("unknown_token_id", id("[UNK]")),
            ("seperator_token_id", id("[SEP]")),
        ],
        "cross_roberta" => vec![
            ("model", Val::Str("gpt2".into())),
            ("pre", Val::Str("roberta-bpe".into())),
            ("tokens", strs(tokens.iter().map(|t| t.1))),
            ("token_type", types),
            (
                "merges",
                strs(
                    file["model"]["merges"]
                        .as_array()?
                        .iter()
                        .map(|m| format!("{} {}", m[0].as_str().unwrap_or(""), m[1].as_str().unwrap_or(""))),
                ),
            ),
            ("bos_token_id", id("<s>")),
            ("eos_token_id", id("</s>")),
            ("add_bos_token", Val::Bool(true)),
            ("add_eos_token", Val::Bool(true)),
        ],
        _ => return None,
    };
    Some(load(&keys).expect("a tokenizer"))
}

#[test]
fn texts_are_framed_as_by_the_library() {
    for name in ["mean", "cls", "last", "cross_bert", "cross_roberta"] {
        let (golden, file) = (json(&folder(name).join("golden.json")), folder(name).join("tokenizer.json"));
        let config = json(&folder(name).join("tokenizer_config.json"));
        let bytes = std::fs::read(file).expect("a file");
        let own = Tokenizer::from_json(&bytes, Some(&config), name).expect("a tokenizer");
        let longest = golden["longest"].as_u64().expect("a number") as usize;
        let texts = golden["texts"].as_array().or(golden["documents"].as_array()).expect("texts");
        let (mut cut, mut typed) = (0, 0);
        for tokenizer in [Some(own), as_gguf(name)].into_iter().flatten() {
            for text in texts {
                let said = text["text"].as_str().expect("a text");
                let framed = match golden["query"].as_str() {
                    Some(query) => tokenizer.frame(query, Some(said), longest),
                    None => tokenizer.frame(said.trim(), None, longest),
                };
                let framed = framed.expect("ids");
                assert_eq!(
                    (&framed.ids, &framed.types),
                    (&ids(&text["ids"]), &ids(&text["types"])),
                    "{name}: {said:?}"
                );
                assert!(framed.ids.len() <= longest);
                cut += usize::from(framed.cut > 0);
                typed += framed.types.iter().sum::<u32>();
            }
        }
        assert!(cut > 0, "{name}: nothing was cut");
        assert_eq!(typed > 0, name == "cross_bert", "{name}");
    }
}

#[test]
fn without_room_only_the_frame_is_left() {
    for name in ["cross_bert", "cross_roberta"] {
        let bytes = std::fs::read(folder(name).join("tokenizer.json")).expect("a file");
        let own = Tokenizer::from_json(&bytes, None, name).expect("a tokenizer");
        for tokenizer in [own, as_gguf(name).expect("a tokenizer")] {
            let frame = |longest| tokenizer.frame("a bird", Some("the sea"), longest).expect("ids");
            let empty = tokenizer.frame("", Some(""), 100).expect("ids");
            let Framed { ids, cut, .. } = frame(0);
            assert_eq!((&ids, cut > 0), (&empty.ids, true), "{name}");
            let whole = frame(100);
            assert_eq!((whole.cut, whole.ids.len()), (0, empty.ids.len() + cut), "{name}");
            for longest in empty.ids.len()..whole.ids.len() {
                let some = frame(longest);
                assert_eq!((some.ids.len(), some.cut), (longest, whole.ids.len() - longest), "{name}");
            }
        }
    }
}
