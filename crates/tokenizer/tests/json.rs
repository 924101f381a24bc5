//! Tokenizers of `tokenizer.json` files: configuration beside them, round trips, hostile files.

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use alula_tokenizer::{Error, Tokenizer};
use common::Random;
use serde_json::{Value, json};

fn suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(suite().join(format!("{name}.tokenizer.json"))).expect("committed")
}

fn load(name: &str, config: Option<Value>) -> Tokenizer {
    Tokenizer::from_json(&bytes(name), config.as_ref(), "tokenizer.json").expect("loads")
}

fn patched(name: &str, pointer: &str, value: Value) -> Result<Tokenizer, Error> {
    let mut file: Value = serde_json::from_slice(&bytes(name)).expect("JSON");
    *file.pointer_mut(pointer).expect("there") = value;
    Tokenizer::from_json(file.to_string().as_bytes(), None, "tokenizer.json")
}

#[test]
fn any_text_comes_back() {
    let mut random = Random(11);
    for name in ["gpt2", "split_llama3", "deepseek3", "split_o200k", "llama2", "gemma"] {
        let tokenizer = load(name, None);
        for _ in 0..150 {
            let text = random.text(40).replace('▁', "_");
            let ids = tokenizer.encode(&text, true, false).expect("encodes");
            assert_eq!(tokenizer.decode(&ids, true), text, "{name}");
        }
    }
}

#[test]
fn bos_and_eos_as_the_configuration_says() {
    let plain = load("llama2", None);
    assert_eq!((plain.bos(), plain.eos(), plain.adds_bos()), (Some(1), Some(2), true));
    let first = plain.encode("a", true, true).expect("encodes");
    let without = load(
        "llama2",
        Some(
            json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": false, "add_eos_token": true}),
        ),
    );
    assert!(!without.adds_bos());
    assert_eq!(without.encode("a", true, true).expect("encodes"), [&first[1..], &[2]].concat());
    let with = load("gpt2", Some(json!({"bos_token": "<|endoftext|>", "add_bos_token": true})));
    assert_eq!(with.encode("", true, true).expect("encodes"), [0]);
    assert!(with.is_end(0) && with.is_special(0) && with.end_ids() == [0]);
    assert_eq!(load("bert", None).kind(), "wordpiece");
}

#[test]
fn texts_of_one_letter_take_no_time() {
    for name in ["gpt2", "split_llama3", "llama2", "bert", "t5"] {
        let tokenizer = load(name, None);
        for unit in ["a", " ", "é"] {
            let start = std::time::Instant::now();
            tokenizer.encode(&unit.repeat((1 << 18) / unit.len()), false, true).expect("encodes");
            assert!(start.elapsed().as_secs() < 30, "{name} {unit:?} {:?}", start.elapsed());
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let refused =
        |bytes: &[u8]| Tokenizer::from_json(bytes, None, "dir/tokenizer.json").expect_err("refused").to_string();
    assert!(refused(b"").starts_with("dir/tokenizer.json: is no valid tokenizer.json (line 1, column 0)"));
    assert!(refused(b"{}").contains("missing field `model`"));
    assert!(refused(br#"{"model": {"type": "Magic", "vocab": {}}}"#).contains("dir/tokenizer.json"));
    let cases = [
        ("gpt2", "/decoder", json!({"type": "Magic"}), "unknown type \"Magic\"; known: BPEDecoder"),
        ("llama3_bos", "/post_processor/processors/1/special_tokens", json!({}), "not among its special_tokens"),
        ("llama3_bos", "/post_processor/processors/1/single/1/Sequence/id", json!("B"), "asks for a second"),
        ("gpt2", "/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "FixedLength of length 0"),
        (
            "gpt2",
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAA="}),
            "leads outside",
        ),
        ("clip", "/normalizer/normalizers/1/pattern/Regex", json!("a*"), "a pattern that matches nothing"),
        ("gpt2", "/model/merges/0", json!(["a".repeat(9000), "b"]), "longer than every token"),
        ("gpt2", "/model/continuing_subword_prefix", json!("########"), "shorter than continuing_subword_prefix"),
        ("gpt2", "/model/vocab/!", json!(4_000_000_000u32), "far beyond its"),
        (
            "gpt2",
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": false}),
            "refused by the tokenizers library",
        ),
    ];
    for (name, pointer, value, want) in cases {
        let message = patched(name, pointer, value).map(|_| ()).expect_err(want).to_string();
        assert!(message.contains(want), "{message}");
    }
    // What is not for inference is not used.
    let truncating = patched(
        "gpt2",
        "/truncation",
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}),
    );
    assert!(truncating.expect("loads").encode("one two three four", true, true).expect("encodes").len() > 2);
    let dropping = patched("gpt2", "/model/dropout", json!(0.9)).expect("loads");
    assert_eq!(
        dropping.encode("the little dog", true, true).expect("encodes"),
        load("gpt2", None).encode("the little dog", true, true).expect("encodes")
    );
}

/// Files that are damaged load or are refused; nothing panics, inside of the library either.
#[test]
fn hostile_files() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Other tests may run beside this one; only the library's panics are counted.
        if info.location().is_some_and(|l| !l.file().contains("tests")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(info);
    }));
    let mut names: Vec<String> = std::fs::read_dir(suite())
        .expect("committed")
        .filter_map(|e| {
            e.expect("readable").file_name().to_string_lossy().strip_suffix(".tokenizer.json").map(str::to_owned)
        })
        .collect();
    names.sort();
    let mut random = Random(12);
    let (mut loaded, mut refused) = (0, 0);
    let count = std::env::var("ALULA_HOSTILE").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    for name in &names {
        let whole = bytes(name);
        let value: Value = serde_json::from_slice(&whole).expect("JSON");
        for _ in 0..count {
            let file = match random.below(4) {
                0 => {
                    let mut cut = whole.clone();
                    cut.truncate(random.below(whole.len()));
                    cut
                }
                1 => {
                    let mut bad = whole.clone();
                    for _ in 0..1 + random.below(4) {
                        let at = random.below(bad.len());
                        bad[at] = *random.pick(b"\"{}[],:0129xe-\\\x00\xff ");
                    }
                    bad
                }
                _ => {
                    let mut value = value.clone();
                    for _ in 0..1 + random.below(2) {
                        spoil(&mut value, &mut random, 0);
                    }
                    value.to_string().into_bytes()
                }
            };
            match Tokenizer::from_json(&file, None, "t.json") {
                Err(e) => {
                    refused += 1;
                    assert!(e.to_string().contains("t.json"), "{e}");
                }
                Ok(tokenizer) => {
                    loaded += 1;
                    for text in [random.text(12), "The little dog, it's 123! <s> ".to_owned()] {
                        for parse in [true, false] {
                            if let Ok(ids) = tokenizer.encode(&text, true, parse) {
                                tokenizer.decode(&ids, false);
                            }
                        }
                    }
                    let ids: Vec<u32> = (0..6).map(|_| random.below(tokenizer.vocab_size() + 2) as u32).collect();
                    let mut stream = tokenizer.stream(true);
                    let stepped = ids.iter().map(|&id| stream.push(id)).collect::<String>() + &stream.finish();
                    assert_eq!(stepped, tokenizer.decode(&ids, true));
                    tokenizer.decode(&[], true);
                    tokenizer.token_bytes(1);
                }
            }
            let panics = PANICS.load(Ordering::Relaxed);
            if panics > 0 {
                let at = std::env::temp_dir().join("alula-hostile-tokenizer.json");
                std::fs::write(&at, &file).expect("writable");
                panic!("{name}: the library panicked; the file is at {}", at.display());
            }
        }
    }
    let _ = std::panic::take_hook();
    println!("{loaded} loaded, {refused} refused");
    assert!(loaded > names.len() && refused > names.len());
}

/// Changes one value somewhere, more often outside of the vocabulary.
fn spoil(value: &mut Value, random: &mut Random, depth: usize) {
    let go_on = depth == 0 || random.below(4) != 0;
    match value {
        Value::Object(map) if go_on && !map.is_empty() => {
            let mut i = random.below(map.len());
            if depth == 0 && random.below(3) != 0 {
                // The components, not the model.
                i = map
                    .keys()
                    .position(|k| {
                        k == *random.pick(&["normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens"])
                    })
                    .unwrap_or(i);
            }
            if depth > 0 && random.below(12) == 0 {
                let key = map.keys().nth(i).cloned().expect("there");
                map.shift_remove(&key);
            } else if let Some((_, inner)) = map.iter_mut().nth(i) {
                spoil(inner, random, depth + 1);
            }
        }
        Value::Array(list) if go_on && !list.is_empty() => {
            let i = random.below(list.len());
            match random.below(8) {
                0 => {
                    list.remove(i);
                }
                1 => {
                    let again = list[i].clone();
                    list.push(again);
                }
                _ => spoil(&mut list[i], random, depth + 1),
            }
        }
        _ => {
            let types = [
                "ByteLevel",
                "Metaspace",
                "Strip",
                "Replace",
                "Fuse",
                "BPEDecoder",
                "CTC",
                "WordPiece",
                "Precompiled",
                "Sequence",
                "FixedLength",
                "Digits",
                "Split",
                "BPE",
                "Unigram",
                "NFC",
                "Prepend",
                "BertNormalizer",
                "Punctuation",
                "UnicodeScripts",
                "CharDelimiterSplit",
                "A",
                "B",
                "$A",
                "Always",
                "First",
                "never",
            ];
            // Mostly another value of the same type.
            let kept = random.below(3) != 0;
            *value = match random.below(10) {
                _ if kept && value.is_boolean() => json!(value == false),
                _ if kept && value.is_u64() => json!(random.below(400)),
                _ if kept && value.is_string() => {
                    json!(*random.pick(&["", "a", "▁", " ", "##", "é", "abc", "<s>", "[a", "\\s+", "(a|b)*", "<0x41>"]))
                }
                0 => Value::Null,
                1 => json!(random.below(3)),
                2 => json!(random.next()),
                3 => json!(-1.5e300),
                4 => json!(""),
                5 => json!(random.text(6)),
                6 => json!(["", []]),
                7 => json!({"type": random.pick(&types)}),
                8 => json!(*random.pick(&types)),
                _ => json!({"type": "Strip", "content": "a", "start": 3, "stop": 3}),
            };
        }
    }
}
