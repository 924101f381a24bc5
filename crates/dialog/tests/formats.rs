//! What models write, read in any pieces. Texts and results are those of llama.cpp's `tests/test-chat.cpp` and of vLLM's
//! `tests/tool_parsers`, as far as they have them, and else of the templates.

use alula_dialog::{Family, Format, Piece, Tool};
use serde_json::{Value, json};

/// All that a text says: content, reasoning, and calls with their id and arguments.
type Said = (String, String, Vec<(Option<String>, String, String)>);

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool { name: name.into(), parameters, ..Tool::default() };
    vec![
        tool("special_function", json!({"type": "object", "properties": {"arg1": {"type": "integer"}}})),
        tool("get_time", json!({"type": "object", "properties": {"city": {"type": "string"}}})),
        tool(
            "write",
            json!({"type": "object", "properties": {"path": {"type": "string"}, "lines": {"type": "array"}, "on": {"type": "boolean"}}}),
        ),
    ]
}

fn gather(pieces: impl IntoIterator<Item = Piece>) -> Said {
    let mut said = Said::default();
    for piece in pieces {
        match piece {
            Piece::Content(text) => said.0 += &text,
            Piece::Reasoning(text) => said.1 += &text,
            Piece::Call { index, id, name } => {
                assert_eq!(index, said.2.len(), "calls are numbered in order");
                said.2.push((id, name, String::new()));
            }
            Piece::Arguments { index, text } => {
                assert_eq!(index + 1, said.2.len(), "arguments follow their call");
                said.2[index].2 += &text;
            }
        }
    }
    said
}

fn read<'a>(format: &Format, prompt: &str, tools: &[Tool], texts: impl IntoIterator<Item = &'a str>) -> Said {
    let mut parser = format.parser(prompt, tools);
    let mut pieces: Vec<Piece> = texts.into_iter().flat_map(|text| parser.push(text)).collect();
    pieces.extend(parser.finish());
    gather(pieces)
}

/// Reads a text whole, character by character, and in many pieces of random length.
fn read_all_ways(format: &Format, prompt: &str, tools: &[Tool], text: &str) -> Said {
    let whole = read(format, prompt, tools, [text]);
    let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let ones = bounds.windows(2).map(|pair| &text[pair[0]..pair[1]]);
    assert_eq!(read(format, prompt, tools, ones), whole, "character by character: {text}");
    let mut random = 0x9e37_79b9_7f4a_7c15u64 ^ text.len() as u64;
    for _ in 0..50 {
        let mut pieces = Vec::new();
        let mut from = 0;
        while from + 1 < bounds.len() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let to = (from + 1 + random as usize % 9).min(bounds.len() - 1);
            pieces.push(&text[bounds[from]..bounds[to]]);
            from = to;
        }
        assert_eq!(read(format, prompt, tools, pieces.iter().copied()), whole, "in pieces {pieces:?}");
    }
    whole
}

const THINK: Option<(&str, &str)> = Some(("<think>", "</think>"));

struct Case {
    family: Family,
    prompt: &'static str,
    text: &'static str,
    content: &'static str,
    reasoning: &'static str,
    calls: &'static [(&'static str, &'static str)],
}

fn case(
    family: Family,
    text: &'static str,
    content: &'static str,
    reasoning: &'static str,
    calls: &'static [(&'static str, &'static str)],
) -> Case {
    Case { family, prompt: "", text, content, reasoning, calls }
}

fn cases() -> Vec<Case> {
    use Family::*;
    let special: &[(&str, &str)] = &[("special_function", r#"{"arg1": 1}"#)];
    let mut cases = vec![
        case(
            Hermes,
            "<tool_call>\n{\"name\": \"special_function\", \"arguments\": {\"arg1\": 1}}</tool_call>",
            "",
            "",
            special,
        ),
        case(
            Hermes,
            "Hello, world!\nWhat's up?<tool_call>\n{\"name\": \"special_function\", \"arguments\": {\"arg1\": 1}}\n</tool_call>",
            "Hello, world!\nWhat's up?",
            "",
            special,
        ),
        case(
            Hermes,
            "<think>\nI'm\nthinking\n</think>\n\nSo:\n<tool_call>{\"name\": \"get_time\", \"arguments\": {\"city\": \"Paris\"}}</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \"arguments\": {\"city\": \"O}\\\"slo\"}}\n</tool_call>\n",
            "So:",
            "I'm\nthinking",
            &[("get_time", r#"{"city": "Paris"}"#), ("get_time", r#"{"city": "O}\"slo"}"#)],
        ),
        // Arguments first, arguments as a string, none at all, a line break in a string.
        case(
            Hermes,
            "<tool_call>{\"arguments\": {\"arg1\": 1}, \"name\": \"special_function\"}</tool_call>",
            "",
            "",
            special,
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"special_function\", \"arguments\": \"{\\\"arg1\\\": 1}\"}</tool_call>",
            "",
            "",
            special,
        ),
        case(Hermes, "<tool_call>{\"name\": \"special_function\"}</tool_call>", "", "", &[("special_function", "{}")]),
        case(
            Hermes,
            "<tool_call>{\"name\": \"write\", \"arguments\": {\"path\": \"a\nb\"}}</tool_call>",
            "",
            "",
            &[("write", r#"{"path": "a\nb"}"#)],
        ),
        // What is no call is content.
        case(Hermes, "a <tool_call> b", "a <tool_call> b", "", &[]),
        case(Hermes, "<tool_call>{\"name\": 3}</tool_call> x", "<tool_call>{\"name\": 3}</tool_call> x", "", &[]),
        case(Hermes, "<tool_call>\n{\"nam", "<tool_call>\n{\"nam", "", &[]),
        case(Hermes, "1 < 2 <tool", "1 < 2 <tool", "", &[]),
        // What was begun stays.
        case(
            Hermes,
            "<tool_call>{\"name\": \"get_time\", \"arguments\": {\"city\": \"Par",
            "",
            "",
            &[("get_time", r#"{"city": "Par"#)],
        ),
        case(
            Hermes,
            "<tool_call>{\"name\": \"get_time\", \"arguments\": {\"city\": ?}} so",
            "?}} so",
            "",
            &[("get_time", r#"{"city": "#)],
        ),
        case(Hermes, "  plain\n\n", "  plain\n\n", "", &[]),
        case(Hermes, "<think>never closed \n", "", "never closed", &[]),
        case(
            QwenCoder,
            "<tool_call>\n<function=special_function>\n<parameter=arg1>\n1\n</parameter>\n</function>\n</tool_call>",
            "",
            "",
            special,
        ),
        case(
            QwenCoder,
            "Sure.\n<tool_call>\n<function=write>\n<parameter=path>\na < b\n\"c\"\n</parameter>\n<parameter=lines>\n[1, \"2\"]\n</parameter>\n<parameter=on>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>",
            "Sure.",
            "",
            &[("write", r#"{"path": "a < b\n\"c\"", "lines": [1,"2"], "on": true}"#), ("get_time", "{}")],
        ),
        case(
            QwenCoder,
            "<function=get_time>\n<parameter=city>\n12\n</parameter>\n</function>",
            "",
            "",
            &[("get_time", r#"{"city": "12"}"#)],
        ),
        case(QwenCoder, "<function=get_time>\n<parameter=city>\nPar", "", "", &[("get_time", r#"{"city": "Par"#)]),
        case(QwenCoder, "use <function=\n> or so", "use <function=\n> or so", "", &[]),
        case(Llama3, r#"{"name": "special_function", "parameters": {"arg1": 1}}"#, "", "", special),
        case(
            Llama3,
            r#"<|python_tag|>{"type": "function", "name": "special_function", "parameters": {"arg1": 1}}; {"name": "get_time", "parameters": {}}"#,
            "",
            "",
            &[("special_function", r#"{"arg1": 1}"#), ("get_time", "{}")],
        ),
        case(
            Llama3,
            r#"{"name": "Ada", "parameters": {"arg1": 1}}"#,
            r#"{"name": "Ada", "parameters": {"arg1": 1}}"#,
            "",
            &[],
        ),
        case(Llama3, "{\"answer\": [1, 2]}\n", "{\"answer\": [1, 2]}\n", "", &[]),
        case(
            Llama3,
            r#"<|python_tag|>brave_search.call(query="x")"#,
            r#"<|python_tag|>brave_search.call(query="x")"#,
            "",
            &[],
        ),
        case(
            Mistral,
            r#"[TOOL_CALLS][{"name": "special_function", "arguments": {"arg1": 1}, "id": "123456789"}]"#,
            "",
            "",
            special,
        ),
        case(
            Mistral,
            r#"[TOOL_CALLS] [{"name": "special_function", "arguments": {"arg1": 1}}, {"name": "get_time", "arguments": {"city": "a]"}}] "#,
            "",
            "",
            &[("special_function", r#"{"arg1": 1}"#), ("get_time", r#"{"city": "a]"}"#)],
        ),
        case(Mistral, "[TOOL_CALLS] none", "[TOOL_CALLS] none", "", &[]),
        case(
            MistralArgs,
            r#"Hi[TOOL_CALLS]special_function[ARGS]{"arg1": 1}[TOOL_CALLS]get_time[ARGS]{"city": "x"}"#,
            "Hi",
            "",
            &[("special_function", r#"{"arg1": 1}"#), ("get_time", r#"{"city": "x"}"#)],
        ),
        case(MistralArgs, r#"[TOOL_CALLS]special_function{"arg1": 1}"#, "", "", special),
        case(
            DeepSeek,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>special_function\n```json\n{\"arg1\": 1}```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            "",
            special,
        ),
        case(
            DeepSeek,
            "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{\"city\": \"Tokyo\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{\"city\": \"Paris\"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Let me see.",
            "",
            &[("get_time", r#"{"city": "Tokyo"}"#), ("get_time", r#"{"city": "Paris"}"#)],
        ),
        case(
            DeepSeek31,
            "<think>REASONING</think>CONTENT<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>special_function<｜tool▁sep｜>{\"arg1\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "CONTENT",
            "REASONING",
            &[("get_time", r#"{"city": "Paris"}"#), ("special_function", r#"{"arg1": 1}"#)],
        ),
        case(
            Harmony,
            "<|channel|>analysis<|message|>We need it.<|end|><|start|>assistant<|channel|>commentary to=functions.special_function <|constrain|>json<|message|>{\"arg1\": 1}<|call|>",
            "",
            "We need it.",
            special,
        ),
        case(
            Harmony,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello\nworld<|return|>",
            "Hello\nworld",
            "Hm.",
            &[],
        ),
        case(Harmony, "Hello, world", "Hello, world", "", &[]),
        case(Harmony, "<|start|>oops <|end|> x", "<|start|>oops  x", "", &[]),
        case(
            Plain,
            "{\"name\": \"special_function\", \"arguments\": {\"arg1\": 1}}\n{\"name\": \"get_time\", \"arguments\": {}}",
            "",
            "",
            &[("special_function", r#"{"arg1": 1}"#), ("get_time", "{}")],
        ),
        case(Plain, "<think>\nab</think>\n\nHello", "Hello", "ab", &[]),
    ];
    // The template has opened the reasoning.
    for (text, content, reasoning) in [
        ("I'm\nthinking</think>Hello, world!", "Hello, world!", "I'm\nthinking"),
        ("</think>Hello", "Hello", ""),
        ("a</thi", "", "a</thi"),
    ] {
        cases.push(Case {
            family: DeepSeek, prompt: "<｜Assistant｜><think>\n", text, content, reasoning, calls: &[]
        });
    }
    cases
}

#[test]
fn formats_are_read_in_any_pieces() {
    for case in cases() {
        let thinking = if case.family == Family::Harmony { None } else { THINK };
        let format = Format { family: case.family, thinking };
        let (content, reasoning, calls) = read_all_ways(&format, case.prompt, &tools(), case.text);
        let calls: Vec<(&str, &str)> = calls.iter().map(|(_, name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(
            (content.as_str(), reasoning.as_str(), calls.as_slice()),
            (case.content, case.reasoning, case.calls),
            "{}",
            case.text
        );
    }
}

#[test]
fn ids_of_the_model_are_kept() {
    let format = Format { family: Family::MistralId, thinking: None };
    let text = r#"[TOOL_CALLS]special_function[CALL_ID]000000001[ARGS]{"arg1": 1}"#;
    let (_, _, calls) = read_all_ways(&format, "", &tools(), text);
    assert_eq!(calls, [(Some("000000001".into()), "special_function".into(), r#"{"arg1": 1}"#.into())]);
}

#[test]
fn without_tools_there_are_no_calls() {
    for case in cases().iter().filter(|case| !case.calls.is_empty() && case.family != Family::Harmony) {
        let format = Format { family: case.family, thinking: None };
        let (content, reasoning, calls) = read_all_ways(&format, "", &[], case.text);
        assert_eq!((content.as_str(), reasoning.as_str(), calls.len()), (case.text, "", 0));
    }
}

/// Texts made of the pieces that formats are made of, in any order: the result must not depend on cuts, and reading must
/// come to an end.
#[test]
fn nonsense_is_read_alike_in_any_pieces() {
    let marks = [
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "get_time>",
        "<parameter=city>",
        "</parameter>",
        "</function>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "```json\n",
        "```",
        "<think>",
        "</think>",
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|end|>",
        "assistant",
        "analysis",
        " to=functions.get_time",
        "{",
        "}",
        "[",
        "]",
        "\"name\"",
        ": ",
        ", ",
        "\"get_time\"",
        "\"arguments\"",
        "{\"city\": 1}",
        "{\"name\": \"get_time\", \"arguments\": {",
        " ",
        "\n",
        "é",
        "x",
        "1",
        "\\",
    ];
    let mut random = 88172645463325252u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    use Family::*;
    for family in [Hermes, QwenCoder, Llama3, Mistral, MistralArgs, MistralId, DeepSeek, DeepSeek31, Harmony, Plain] {
        for _ in 0..400 {
            let text: String = (0..1 + next() % 14).map(|_| marks[next() % marks.len()]).collect();
            let format = Format { family, thinking: (family != Harmony).then_some(("<think>", "</think>")) };
            let prompt = if next() % 4 == 0 { "<think>" } else { "" };
            read_all_ways(&format, prompt, &tools(), &text);
        }
    }
}

/// The templates that llama.cpp ships, where `ALULA_TEMPLATES` says they are (`tools/vocabs.sh`).
#[test]
fn families_are_found_in_templates() {
    let Some(dir) = std::env::var_os("ALULA_TEMPLATES") else {
        println!("skipped: ALULA_TEMPLATES names no folder of templates (see tools/vocabs.sh)");
        return;
    };
    use Family::*;
    let think = Some("<think>");
    for (file, family, open) in [
        ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", Hermes, None),
        ("Qwen-Qwen2.5-7B-Instruct", Hermes, None),
        ("Qwen-Qwen3-0.6B", Hermes, think),
        ("Qwen-QwQ-32B", Hermes, think),
        ("ibm-granite-granite-4.0", Hermes, None),
        ("Qwen3-Coder", QwenCoder, None),
        ("Qwen3.5-4B", QwenCoder, think),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", QwenCoder, think),
        ("meta-llama-Llama-3.1-8B-Instruct", Llama3, None),
        ("meta-llama-Llama-3.2-3B-Instruct", Llama3, None),
        ("meta-llama-Llama-3.3-70B-Instruct", Llama3, None),
        ("mistralai-Mistral-Nemo-Instruct-2407", Mistral, None),
        ("unsloth-mistral-Devstral-Small-2507", MistralArgs, None),
        ("mistralai-Ministral-3-14B-Reasoning-2512", MistralArgs, Some("[THINK]")),
        ("Mistral-Small-3.2-24B-Instruct-2506", MistralId, None),
        ("llama-cpp-deepseek-r1", DeepSeek, think),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", DeepSeek, think),
        ("deepseek-ai-DeepSeek-V3.1", DeepSeek31, think),
        ("openai-gpt-oss-120b", Harmony, None),
        ("google-gemma-2-2b-it", Plain, None),
        ("microsoft-Phi-3.5-mini-instruct", Plain, None),
        ("GLM-4.6", Plain, think),
        ("MiniMax-M2", Plain, think),
        ("CohereForAI-c4ai-command-r-plus-tool_use", Plain, None),
    ] {
        let path = std::path::Path::new(&dir).join(format!("{file}.jinja"));
        let template = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let format = Format::of(&template);
        assert_eq!((format.family, format.thinking.map(|(open, _)| open)), (family, open), "{file}");
    }
}
