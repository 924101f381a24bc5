//! A vocabulary of single bytes and a few longer tokens, made on the spot.

use alula_constrain::Vocabulary;
use alula_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

/// The longer tokens.
const LONG: [&str; 12] = ["\": ", "\", \"", "{\"", "\"}", "ab", "name", "true", "null", "123", "]}", "  ", "é"];

/// A byte-level tokenizer: one token for each byte, then [`LONG`], a control token and the end of texts.
pub(crate) fn tokenizer() -> Tokenizer {
    let spell = |text: &str| text.bytes().map(letter).collect::<String>();
    let mut vocab = Map::new();
    for token in (0..=255u8).map(|byte| letter(byte).to_string()).chain(LONG.map(spell)) {
        let id = vocab.len();
        vocab.insert(token, json!(id));
    }
    let first = vocab.len();
    let control = |i: usize, text: &str| json!({"id": first + i, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let file = json!({
        "version": "1.0",
        "added_tokens": [control(0, "<|mark|>"), control(1, "<|end|>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let bytes = Value::to_string(&file).into_bytes();
    Tokenizer::from_json(&bytes, Some(&json!({"eos_token": "<|end|>"})), "tokenizer.json").expect("a tokenizer")
}

pub(crate) fn vocabulary(tokenizer: &Tokenizer) -> Vocabulary {
    Vocabulary::new(tokenizer, tokenizer.end_ids()).expect("a vocabulary")
}

/// How byte-level vocabularies write a byte.
fn letter(byte: u8) -> char {
    let plain = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if plain(byte) {
        return byte as char;
    }
    let before = (0..byte).filter(|b| !plain(*b)).count();
    char::from_u32(256 + before as u32).expect("a letter")
}
