//! Texts made of what the grammars of tools allow, read by the format's own parser: names and arguments must be valid.
//! With the built-in model's vocabulary, and large ones where `ALULA_VOCABS` says they are (`tools/vocabs.sh`).

use std::path::PathBuf;

use alula_constrain::{Grammar, State, Vocabulary};
use alula_dialog::{Ask, Choice, Family, Format, Piece, Tool};
use alula_tokenizer::Tokenizer;
use serde_json::{Value, json};

const FAMILIES: [Family; 10] = [
    Family::Hermes,
    Family::QwenCoder,
    Family::Llama3,
    Family::Mistral,
    Family::MistralArgs,
    Family::MistralId,
    Family::DeepSeek,
    Family::DeepSeek31,
    Family::Harmony,
    Family::Plain,
];

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        name: name.into(),
        parameters: Grammar::inline(&parameters, true).expect("a schema"),
        strict: true,
        ..Tool::default()
    };
    vec![
        tool(
            "get_weather",
            json!({
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["c", "f"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 14},
                },
                "required": ["city", "days"],
                "additionalProperties": false,
            }),
        ),
        tool(
            "move-to",
            json!({
                "type": "object",
                "properties": {"at": {"$ref": "#/$defs/point"}, "fast": {"type": "boolean"}},
                "required": ["at"],
                "additionalProperties": false,
                "$defs": {"point": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}},
            }),
        ),
    ]
}

/// What the schemas above say, in code.
fn valid(name: &str, arguments: &str) -> bool {
    let Ok(Value::Object(map)) = serde_json::from_str(arguments) else { return false };
    let only = |names: &[&str]| map.keys().all(|name| names.contains(&name.as_str()));
    match name {
        "get_weather" => {
            only(&["city", "unit", "days"])
                && map.get("city").is_some_and(Value::is_string)
                && map.get("unit").is_none_or(|unit| *unit == "c" || *unit == "f")
                && map.get("days").and_then(Value::as_u64).is_some_and(|days| (1..=14).contains(&days))
        }
        "move-to" => {
            only(&["at", "fast"])
                && map
                    .get("at")
                    .and_then(Value::as_array)
                    .is_some_and(|at| at.len() == 2 && at.iter().all(Value::is_number))
                && map.get("fast").is_none_or(Value::is_boolean)
        }
        _ => false,
    }
}

fn vocabularies() -> Vec<(Tokenizer, Vocabulary)> {
    let mut paths = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../alula/assets/builtin.gguf")];
    match std::env::var_os("ALULA_VOCABS") {
        Some(dir) => {
            paths.extend(["qwen2", "llama-bpe"].map(|name| PathBuf::from(&dir).join(format!("ggml-vocab-{name}.gguf"))))
        }
        None => println!("without large ones: ALULA_VOCABS names no folder of ggml-vocab-*.gguf (see tools/vocabs.sh)"),
    }
    let open = |path: &PathBuf| {
        let gguf = alula_format::gguf::Gguf::open(path).unwrap_or_else(|error| panic!("{error}"));
        let tokenizer = Tokenizer::from_gguf(&gguf.metadata, "vocabulary").unwrap_or_else(|error| panic!("{error}"));
        let vocabulary = Vocabulary::new(&tokenizer, tokenizer.end_ids()).unwrap_or_else(|error| panic!("{error}"));
        (tokenizer, vocabulary)
    };
    paths.iter().map(open).collect()
}

/// Random tokens of what is allowed until the text is complete; after a while, of those that end names, strings and
/// reasoning, if one is allowed.
fn walk(tokenizer: &Tokenizer, closing: &[u32], state: &mut State, size: usize, seed: u64) -> Option<String> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut mask = vec![0u32; size.div_ceil(32)];
    let mut text = Vec::new();
    for step in 0..400 {
        state.mask(&mut mask).expect("a mask");
        if state.may_end().expect("known") && (state.is_complete() || next() % 3 == 0) {
            return String::from_utf8(text).ok();
        }
        let allowed = |id: u32| mask[id as usize / 32] >> (id % 32) & 1 == 1 && !tokenizer.is_end(id);
        let close: Vec<u32> = closing.iter().copied().filter(|&id| step >= 30 && allowed(id)).collect();
        let lucky = (0..50).map(|_| (next() % size) as u32).find(|&id| allowed(id));
        let token = close.get(next() % close.len().max(1)).copied().or(lucky).or_else(|| {
            let all: Vec<u32> = (0..size as u32).filter(|&id| allowed(id)).collect();
            all.get(next() % all.len().max(1)).copied()
        })?;
        state.commit(token).expect("allowed");
        text.extend(tokenizer.token_bytes(token));
    }
    None
}

/// Short tokens that begin with what ends something.
fn closing(tokenizer: &Tokenizer) -> Vec<u32> {
    let ends = |bytes: &[u8]| bytes.len() <= 12 && bytes.first().is_some_and(|b| b"\"<\n}]1[".contains(b));
    (0..tokenizer.vocab_size() as u32).filter(|&id| ends(&tokenizer.token_bytes(id))).collect()
}

fn calls(format: &Format, prompt: &str, text: &str) -> (String, Vec<(String, String)>) {
    let mut parser = format.parser(prompt, &tools());
    let mut pieces = parser.push(text);
    pieces.extend(parser.finish());
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for piece in pieces {
        match piece {
            Piece::Content(text) => content += &text,
            Piece::Call { name, .. } => calls.push((name, String::new())),
            Piece::Arguments { index, text } => calls[index].1 += &text,
            Piece::Reasoning(_) => {}
        }
    }
    (content, calls)
}

#[test]
fn grammars_make_calls_that_are_valid() {
    let tools = tools();
    let mut ended = 0;
    for (tokenizer, vocabulary) in vocabularies() {
        let token = |mark: &str| tokenizer.id(mark).filter(|&id| tokenizer.is_special(id));
        let closing = closing(&tokenizer);
        for family in FAMILIES {
            for (choice, parallel, opened) in [
                (Choice::Required, true, false),
                (Choice::Required, false, false),
                (Choice::Named("move-to"), true, false),
                (Choice::Auto, true, false),
                (Choice::Auto, false, false),
                (Choice::Required, false, true),
            ] {
                let thinks = (opened || choice == Choice::Auto && !parallel) && family != Family::Harmony;
                let format = Format { family, thinking: thinks.then_some(("<think>", "</think>")) };
                let prompt = if opened { "<think>\n" } else { "" };
                let ask = Ask { tools: &tools, choice, parallel, opened, token: &token };
                let grammar = format.grammar(&ask).expect("a grammar").expect("not everything");
                let compiled = Grammar::lark(&grammar).and_then(|grammar| vocabulary.compile(&grammar));
                let constraint = compiled.unwrap_or_else(|error| panic!("{family:?} {choice:?}: {error}\n{grammar}"));
                for seed in 0..3 {
                    let Some(text) = walk(&tokenizer, &closing, &mut constraint.start(), vocabulary.len(), seed + 1)
                    else {
                        continue;
                    };
                    ended += 1;
                    let (content, calls) = calls(&format, prompt, &text);
                    for (name, arguments) in &calls {
                        assert!(valid(name, arguments), "{family:?} {choice:?}: {name} {arguments} in {text:?}");
                    }
                    if choice != Choice::Auto {
                        assert_eq!(content, "", "{family:?} {choice:?}: {text:?}");
                        assert!(!calls.is_empty(), "{family:?} {choice:?}: {text:?}");
                    }
                    if !parallel || matches!(choice, Choice::Named(_)) {
                        assert!(calls.len() <= 1, "{family:?} {choice:?}: {text:?}");
                    }
                    if matches!(choice, Choice::Named(_)) {
                        assert_eq!(calls[0].0, "move-to");
                    }
                }
            }
        }
    }
    assert!(std::env::var_os("ALULA_VOCABS").is_none() || ended > 150, "only {ended} walks ended");
}

const ARGUMENTS: &str = r#"{"city": "Paris", "days": 3}"#;

/// A call as the family's template writes it.
fn written(family: Family) -> String {
    let arguments = ARGUMENTS;
    match family {
        Family::Hermes => format!("<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {arguments}}}\n</tool_call>"),
        Family::QwenCoder => "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>".into(),
        Family::Llama3 => format!("{{\"name\": \"get_weather\", \"parameters\": {arguments}}}"),
        Family::Mistral => format!("[TOOL_CALLS][{{\"name\": \"get_weather\", \"arguments\": {arguments}}}]"),
        Family::MistralArgs => format!("[TOOL_CALLS]get_weather[ARGS]{arguments}"),
        Family::MistralId => format!("[TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{arguments}"),
        Family::DeepSeek => format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{arguments}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        Family::DeepSeek31 => format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        Family::Harmony => format!("<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{arguments}"),
        Family::Plain => format!("{{\"name\": \"get_weather\", \"arguments\": {arguments}}}"),
    }
}

/// Calls or an answer of a form of its own, whatever the family and the form.
#[test]
fn an_answer_beside_calls_may_have_a_form() {
    let tools = tools();
    let schema = r#"%json {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}, "required": ["name", "n"], "additionalProperties": false}"#;
    let forms = [
        (schema, r#"{"name": "get_weather", "n": 3}"#, r#"{"name": "get_weather", "m": 3}"#),
        (r#"%json {"type": "array", "items": {"type": "integer"}}"#, "[1, 22]", "[1, x]"),
        (r"/(yes|no)\/[a-z ]+/", "no/matter what", "no matter"),
        ("%lark {\nstart: pair (\",\" pair)*\npair: /[a-z]+/ \"=\" call\ncall: /[0-9]+/\n}", "a=1,b=23", "a=b"),
    ];
    for (tokenizer, vocabulary) in vocabularies() {
        let token = |mark: &str| tokenizer.id(mark).filter(|&id| tokenizer.is_special(id));
        let compile = |grammar: &str| vocabulary.compile(&Grammar::lark(grammar).expect("short")).expect("compiles");
        for family in FAMILIES {
            for thinks in [false, true] {
                let thinking = (thinks && family != Family::Harmony).then_some(("<think>", "</think>"));
                let format = Format { family, thinking };
                let ask = Ask { tools: &tools, choice: Choice::Required, parallel: true, opened: false, token: &token };
                let calls = compile(&format.grammar(&ask).expect("a grammar").expect("not everything"));
                let thought = if thinking.is_some() { "<think>\nLet me see.\n</think>\n\n" } else { "" };
                for (form, good, bad) in forms {
                    let either = calls.clone().or(compile(&format.answer(form, false, &token)));
                    // Whether it may be the whole answer.
                    let reads = |text: &str| {
                        let mut state = either.start();
                        let ids = tokenizer.encode(text, false, true).expect("tokens");
                        let taken = ids.into_iter().all(|id| {
                            let mut mask = vec![0; vocabulary.len().div_ceil(32)];
                            state.mask(&mut mask).expect("some token");
                            let allowed = mask[id as usize / 32] >> (id % 32) & 1 == 1;
                            assert_eq!(state.commit(id).is_ok(), allowed, "the mask says the same");
                            allowed
                        });
                        taken && state.may_end().expect("known")
                    };
                    for text in [written(family), good.to_owned()] {
                        assert!(reads(&format!("{thought}{text}")), "{family:?} {form}: {thought}{text}");
                    }
                    for text in [bad.to_owned(), format!("{good}{}", written(family)), "Hello!".to_owned()] {
                        assert!(!reads(&format!("{thought}{text}")), "{family:?} {form}: {thought}{text}");
                    }
                }
            }
        }
    }
}

/// What a model would write is allowed, token by token.
#[test]
fn grammars_allow_what_templates_write() {
    let tools = tools();
    for (tokenizer, vocabulary) in vocabularies() {
        let token = |mark: &str| tokenizer.id(mark).filter(|&id| tokenizer.is_special(id));
        for family in FAMILIES {
            let format = Format { family, thinking: None };
            for choice in [Choice::Required, Choice::Named("get_weather"), Choice::Auto] {
                let ask = Ask { tools: &tools, choice, parallel: true, opened: false, token: &token };
                let grammar = format.grammar(&ask).expect("a grammar").expect("not everything");
                let constraint = vocabulary.compile(&Grammar::lark(&grammar).expect("short")).expect("compiles");
                let free =
                    if choice == Choice::Auto && !matches!(family, Family::Llama3 | Family::Plain | Family::Harmony) {
                        "Let me see.\n"
                    } else {
                        ""
                    };
                let text = format!("{free}{}", written(family));
                let mut state = constraint.start();
                let mut said = String::new();
                for id in tokenizer.encode(&text, false, true).expect("tokens") {
                    state
                        .commit(id)
                        .unwrap_or_else(|error| panic!("{family:?} {choice:?}: {error} behind {said:?}\n{grammar}"));
                    said += &String::from_utf8_lossy(&tokenizer.token_bytes(id));
                }
                assert!(state.may_end().expect("known"), "{family:?} {choice:?}: {text}");
                let (_, calls) = calls(&format, "", &text);
                assert_eq!(calls.len(), 1);
                assert!(valid(&calls[0].0, &calls[0].1));
            }
        }
    }
}

#[test]
fn what_cannot_be_demanded_is_refused() {
    let none = |_: &str| None;
    let ask = |tools, choice| Ask { tools, choice, parallel: true, opened: false, token: &none };
    let format = Format { family: Family::QwenCoder, thinking: None };
    let tools = tools();
    assert_eq!(
        format.grammar(&ask(&tools, Choice::Named("fly"))).unwrap_err().to_string(),
        "tool_choice names \"fly\", which is none of the tools"
    );
    assert!(format.grammar(&ask(&[], Choice::Required)).is_err());
    assert_eq!(format.grammar(&ask(&[], Choice::Auto)), Ok(None));
    let named = |name: &str, parameters| vec![Tool { name: name.into(), parameters, ..Tool::default() }];
    let bad = named("say \"hi\"", Value::Null);
    assert!(format.grammar(&ask(&bad, Choice::Required)).unwrap_err().to_string().starts_with("tools/0: "));
    let text = named("f", json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a$"}}}));
    let error = format.grammar(&ask(&text, Choice::Required)).unwrap_err().to_string();
    assert!(error.starts_with("tools/0/parameters/properties/a: ") && error.contains("`pattern`"), "{error}");
}
