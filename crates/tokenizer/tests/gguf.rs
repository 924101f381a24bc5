//! Tokenizers of GGUF files: texts come back, step by step too; hostile metadata gives errors.

mod common;

use alula_tokenizer::{Error, Tokenizer};
use common::{Random, Val, byte_level, load, sentencepiece, strs, unigram, wordpiece};

fn set(mut keys: Vec<(&'static str, Val)>, key: &'static str, value: Val) -> Vec<(&'static str, Val)> {
    keys.retain(|(k, _)| *k != key);
    keys.push((key, value));
    keys
}

/// Pushes ids one by one; every piece must be complete text.
fn stepped(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut state = tokenizer.stream_state(skip);
    ids.iter().map(|&id| state.push(tokenizer, id)).collect::<String>() + &state.finish(tokenizer)
}

#[test]
fn any_text_comes_back() {
    let mut random = Random(1);
    let tokenizers = [
        load(&sentencepiece()).expect("loads"),
        load(&set(sentencepiece(), "add_space_prefix", Val::Bool(false))).expect("loads"),
        load(&byte_level("gpt-2")).expect("loads"),
        load(&byte_level("llama-bpe")).expect("loads"),
        load(&byte_level("deepseek-v3")).expect("loads"),
        load(&byte_level("qwen2")).expect("loads"),
        load(&byte_level("superbpe")).expect("loads"),
    ];
    for round in 0..600 {
        // SentencePiece cannot tell U+2581 from a space.
        let text = random.text(60);
        for tokenizer in &tokenizers {
            let text = if tokenizer.kind() == "sentencepiece" { text.replace('▁', "_") } else { text.clone() };
            for (add, parse) in [(false, false), (true, false)] {
                let ids = tokenizer.encode(&text, add, parse).expect("encodes");
                assert_eq!(tokenizer.decode(&ids, true), text, "{round} {}", tokenizer.kind());
                assert_eq!(stepped(tokenizer, &ids, true), text, "{round} {}", tokenizer.kind());
            }
        }
    }
}

#[test]
fn any_ids_step_by_step_are_what_they_are_at_once() {
    let mut random = Random(2);
    for keys in [sentencepiece(), byte_level("gpt-2"), wordpiece(), unigram()] {
        let tokenizer = load(&keys).expect("loads");
        for _ in 0..2000 {
            let ids: Vec<u32> =
                (0..random.below(20)).map(|_| random.below(tokenizer.vocab_size() + 3) as u32).collect();
            for skip in [true, false] {
                assert_eq!(stepped(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip), "{ids:?}");
            }
        }
    }
}

#[test]
fn what_follows_a_prompt_keeps_its_space() {
    let tokenizer = load(&sentencepiece()).expect("loads");
    let prompt = tokenizer.encode("the", true, true).expect("encodes");
    let next = tokenizer.id("▁a").expect("known");
    let mut fresh = tokenizer.stream(true);
    assert_eq!(fresh.push(next), "a");
    let mut after = tokenizer.stream(true);
    after.prime(&prompt);
    assert_eq!(after.push(next), " a");
    // Half of a character in the prompt, the other half behind it.
    let bytes = [0xc3u8, 0xa9].map(|b| tokenizer.id(&format!("<0x{b:02X}>")).expect("known"));
    let mut split = tokenizer.stream(true);
    split.prime(&bytes[..1]);
    assert_eq!(split.push(bytes[1]), "é");
}

#[test]
fn special_tokens_as_asked() {
    let tokenizer = load(&byte_level("gpt-2")).expect("loads");
    let end = tokenizer.id("<|im_end|>").expect("known");
    assert_eq!(
        tokenizer.encode("a<|im_end|>b", false, true).expect("encodes").iter().filter(|&&id| id == end).count(),
        1
    );
    let plain = tokenizer.encode("a<|im_end|>b", false, false).expect("encodes");
    assert!(!plain.contains(&end));
    assert_eq!(tokenizer.decode(&plain, true), "a<|im_end|>b");
    let ids = tokenizer.encode("a<|im_end|>b", false, true).expect("encodes");
    assert_eq!((tokenizer.decode(&ids, true), tokenizer.decode(&ids, false)), ("ab".into(), "a<|im_end|>b".into()));
    assert!(tokenizer.is_end(end) && tokenizer.is_special(end) && tokenizer.end_ids().len() == 2);
    assert!(!tokenizer.adds_bos());
    assert!(load(&set(byte_level("gpt-2"), "add_bos_token", Val::Bool(true))).expect("loads").adds_bos());
    let spm = load(&sentencepiece()).expect("loads");
    assert_eq!(spm.encode("", true, true).expect("encodes"), [1]);
    assert_eq!((spm.bos(), spm.eos(), spm.adds_bos(), spm.kind()), (Some(1), Some(2), true, "sentencepiece"));
}

#[test]
fn wordpiece_and_unigram() {
    let bert = load(&wordpiece()).expect("loads");
    assert_eq!(bert.encode("The ab, HÉLLO hello zz", true, true).expect("encodes"), [2, 4, 5, 6, 9, 14, 14, 1, 3]);
    assert_eq!(bert.decode(&[4, 5, 6, 9, 14], true), " the ab, hello");
    let t5 = load(&unigram()).expect("loads");
    assert_eq!(t5.encode("  the   a", true, true).expect("encodes"), [4, 10, 1]);
    assert_eq!(t5.encode("the a??", false, true).expect("encodes"), [4, 10, 2]);
    assert_eq!(t5.decode(&[4, 10], true), "the a");
}

#[test]
fn hostile_texts_take_no_time() {
    for keys in
        [sentencepiece(), byte_level("gpt-2"), byte_level("llama-bpe"), byte_level("default"), wordpiece(), unigram()]
    {
        let tokenizer = load(&keys).expect("loads");
        for unit in ["a", "t", " ", "\n", "1", "é", "the ", "</s>", "<|im_end|>", "'", "\u{301}", "l"] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text, true, true).unwrap_or_else(|e| panic!("{unit:?}: {e}"));
            assert!(!ids.is_empty());
            let took = start.elapsed();
            assert!(took.as_secs() < 30, "{} {unit:?} {took:?}", tokenizer.kind());
        }
    }
}

#[test]
fn missing_and_unknown_say_what_to_do() {
    let message = |keys: &[(&str, Val)]| load(keys).expect_err("refused").to_string();
    assert!(matches!(load(&[]), Err(Error::None { .. })));
    assert!(
        message(&[("model", Val::Str("none".into()))]).contains("has no tokenizer (tokenizer.ggml.model is \"none\")")
    );
    assert!(message(&[("model", Val::Str("rwkv".into()))]).contains("known: llama, gpt2, bert, t5"));
    assert!(message(&byte_level("no-such-thing")).contains("unknown pre-tokenizer \"no-such-thing\""));
    assert!(message(&[("model", Val::Str("llama".into()))]).contains("tokenizer.ggml.tokens is missing"));
    assert!(
        message(&[("model", Val::Str("gpt2".into())), ("tokens", strs(["a"]))])
            .contains("tokenizer.ggml.merges is missing")
    );
    assert!(
        message(&set(sentencepiece(), "scores", Val::F32s(vec![0.0; 3])))
            .contains("tokenizer.ggml.scores has 3 items for")
    );
    assert!(message(&set(sentencepiece(), "token_type", Val::I32s(vec![1; 3]))).contains("token_type has 3 items for"));
    assert!(message(&set(sentencepiece(), "tokens", Val::U32(3))).contains("tokens is 3, not an array"));
    assert!(message(&set(sentencepiece(), "tokens", Val::F32s(vec![0.0]))).contains("not an array of strings"));
    assert!(message(&set(sentencepiece(), "add_bos_token", Val::U32(1))).contains("add_bos_token"));
    assert!(
        message(&set(unigram(), "precompiled_charsmap", Val::U8s(vec![1, 2])))
            .contains("shorter than its length field")
    );
    assert!(message(&set(unigram(), "precompiled_charsmap", Val::U8s(vec![255; 9]))).contains("ends inside"));
    // Ids that name no token count as not there.
    let far = load(&set(sentencepiece(), "bos_token_id", Val::U32(u32::MAX))).expect("loads");
    assert_eq!(far.bos(), Some(1));
}

#[test]
fn hostile_metadata_loads_or_is_refused() {
    let mut random = Random(3);
    let texts: Vec<String> =
        (0..6).map(|_| random.text(20)).chain(["the  a1".to_owned(), "</s><extra>".to_owned()]).collect();
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..3000 {
        let pre = *random.pick(&["gpt-2", "gemma4", "whitespace", "kimi-k2", "default", ""]);
        let mut keys = match random.below(5) {
            0 => sentencepiece(),
            1 => wordpiece(),
            2 => unigram(),
            _ => byte_level(pre),
        };
        for _ in 0..1 + random.below(4) {
            mutate(&mut keys, &mut random);
        }
        match load(&keys) {
            Err(e) => {
                refused += 1;
                assert!(e.to_string().contains("test.gguf"), "{e}");
            }
            Ok(tokenizer) => {
                loaded += 1;
                for text in &texts {
                    if let Ok(ids) = tokenizer.encode(text, true, random.below(2) == 0) {
                        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
                        tokenizer.decode(&ids, false);
                    }
                }
                let n = tokenizer.vocab_size() as u32;
                let ids: Vec<u32> = (0..8).map(|_| random.next() as u32 % (n + 5)).collect();
                assert_eq!(stepped(&tokenizer, &ids, false), tokenizer.decode(&ids, false));
            }
        }
    }
    println!("{loaded} loaded, {refused} refused");
    assert!(loaded > 500 && refused > 300);
}

/// Spoils one key.
fn mutate(keys: &mut Vec<(&'static str, Val)>, random: &mut Random) {
    let i = random.below(keys.len());
    match random.below(8) {
        0 => {
            keys.remove(i);
            if keys.is_empty() {
                keys.push(("x", Val::U32(0)));
            }
        }
        1 => keys[i].1 = Val::U32(random.next() as u32),
        2 => keys[i].1 = Val::Strs(vec![Vec::new(); random.below(4)]),
        3 => {
            let junk: Vec<u8> = (0..random.below(600)).map(|_| random.next() as u8).collect();
            keys.retain(|(k, _)| *k != "precompiled_charsmap");
            let mut map = (random.below(junk.len() + 2) as u32).to_le_bytes().to_vec();
            map.extend(junk);
            keys.push(("precompiled_charsmap", Val::U8s(map)));
        }
        4 => {
            let name = *random.pick(&["eot_token_id", "unknown_token_id", "fim_pre_token_id", "seperator_token_id"]);
            if keys.iter().all(|(k, _)| *k != name) {
                keys.push((name, Val::U32(random.below(400) as u32)));
            }
        }
        _ => {
            let (n, x) = (random.below(300), random.next());
            match &mut keys[i].1 {
                Val::Strs(v) if !v.is_empty() => {
                    let at = n % v.len();
                    match x % 6 {
                        0 => v.truncate(at),
                        1 => v[at] = Vec::new(),
                        2 => v[at] = vec![b'a'; 5000],
                        3 => v[at] = (0..n % 9).map(|_| random.next() as u8).collect(),
                        4 => v[at] = b"no such".to_vec(),
                        _ => {
                            let other = v[(n * 7) % v.len()].clone();
                            v[at] = other;
                        }
                    }
                }
                Val::F32s(v) if !v.is_empty() => {
                    let at = n % v.len();
                    v[at] = *random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e38, -1e38]);
                    if x % 5 == 0 {
                        v.truncate(at);
                    }
                }
                Val::I32s(v) if !v.is_empty() => {
                    let at = n % v.len();
                    v[at] = (x as i32) % 9;
                    if x % 5 == 0 {
                        v.truncate(at);
                    }
                }
                Val::Str(s) => {
                    *s = (*random.pick(&["llama", "gpt2", "t5", "bert", "", "none", "plamo2", "\u{0}"])).to_owned()
                }
                other => *other = Val::Bool(x % 2 == 0),
            }
        }
    }
}
