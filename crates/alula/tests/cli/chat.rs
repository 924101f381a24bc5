//! `alula chat` through a pipe.

use crate::common::*;
use serde_json::{Value, json};

const GREEDY: [&str; 5] = ["chat", "--temp", "0", "-n", "12"];

fn greedy(input: &str) -> Ran {
    with_input(&GREEDY, input.as_bytes())
}

/// What `/save` writes after these lines.
fn saved(name: &str, lines: &str) -> (Value, Ran) {
    let file = folder(name).join("talk.json");
    let ran = greedy(&format!("{lines}\n/save {}\n", file.display()));
    (serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap(), ran)
}

#[test]
fn answers_and_nothing_else() {
    let one = alula(&["run", "--chat", "What is a byte?", "--temp", "0", "-n", "12"]).ok();
    let ran = greedy("What is a byte?\n");
    assert_eq!(ran.out, format!("{}\n", one.trim_end_matches('\n')));
    assert!(!format!("{}{}", ran.out, ran.err).contains('\x1b'), "no colours: {ran:?}");
    assert_eq!(greedy("").ok(), "");
    assert_eq!(greedy("\n  \n").ok(), "");
    assert_eq!(greedy("/help\n/stats\n/set\n/system\n/clear\n/exit\nWhat is a byte?\n").ok(), "");
    let system = alula(&["run", "--chat", "Hello", "--system", "You are kind.", "--temp", "0", "-n", "12"]).ok();
    for input in ["/system You are kind.\nHello\n", "/system \"\"\"\nYou are kind.\n\"\"\"\nHello"] {
        assert_eq!(greedy(input).ok().trim_end(), system.trim_end(), "{input:?}");
    }
}

#[test]
fn a_conversation_is_remembered() {
    let (file, ran) = saved("remembered", "Hello\n\"\"\"\nWhat is\na byte?\n\"\"\"\nAnd \\\na bit?");
    let messages = file["messages"].as_array().unwrap();
    let contents = |role: &str| -> Vec<&str> {
        messages.iter().filter(|m| m["role"] == role).map(|m| m["content"].as_str().unwrap()).collect()
    };
    assert_eq!(contents("user"), ["Hello", "What is\na byte?", "And \na bit?"]);
    let mut printed = String::new();
    for answer in contents("assistant") {
        printed += answer;
        if !answer.ends_with('\n') {
            printed.push('\n');
        }
    }
    assert_eq!(ran.ok(), printed);
    // Every prompt holds what was said before, until it is forgotten.
    let ran = greedy("Hello\n/stats\nHello\n/stats\n/clear\nHello\n/stats\n");
    let tokens = |l: &str| l.strip_prefix("prompt ")?.split_whitespace().next()?.parse::<usize>().ok();
    let prompts: Vec<usize> = ran.err.lines().filter_map(tokens).collect();
    assert!(prompts.len() == 3 && prompts[0] < prompts[1] && prompts[0] == prompts[2], "{ran:?}");
}

#[test]
fn settings_are_changed_and_checked() {
    let one = greedy("Hello\n").ok();
    let ran = with_input(&["chat"], b"/set temp 0\n/set max-tokens 12\n/set temp\nHello\n");
    assert!(ran.err.lines().any(|l| l == "0"), "{ran:?}");
    assert_eq!(ran.ok(), one);
    let bad =
        ["/set temp hot", "/set temp -1", "/set top-p 7", "/set colour red", "/set logit-bias 999999=1", "/fly", "/"];
    for line in bad {
        let ran = greedy(&format!("{line}\nHello\n"));
        let complaints = ran.err.lines().filter(|l| l.starts_with("alula: ") && !l.contains("max-tokens)")).count();
        assert_eq!(complaints, 1, "{line}: {ran:?}");
        assert_eq!(ran.ok(), one, "{line}");
    }
}

#[test]
fn answers_are_made_anew() {
    let out = greedy("Hello\n/regen\n").ok();
    let half = out.len() / 2;
    assert_eq!(out[..half], out[half..], "greedy says the same again");
    let seeded = |input: &str| with_input(&["chat", "--seed", "3", "-n", "20", "--temp", "1.5"], input.as_bytes()).ok();
    let three = seeded("Tell me a story\n/regen\n/regen\n");
    let lines: Vec<&str> = three.lines().collect();
    assert!(lines.iter().any(|l| *l != lines[0]), "another try, another answer: {three}");
    assert_eq!(seeded("Tell me a story\n/regen\n/regen\n"), three, "and the same ones next time");
    let ran = greedy("/regen\n");
    assert!(ran.err.contains("no answer"), "{ran:?}");
    // Only the new answer is kept.
    let (file, _) = saved("regen", "Hello\n/regen");
    assert_eq!(file["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn conversations_are_saved_and_loaded() {
    let (file, ran) = saved("saved", "/system You are kind.\n/set top-k 7\n/set seed 5\nHello\nWho are you?");
    ran.ok();
    assert_eq!((&file["system"], &file["model"]), (&json!("You are kind."), &json!("builtin")));
    let sampling = &file["sampling"];
    assert_eq!((&sampling["temp"], &sampling["top_k"], &sampling["seed"]), (&json!(0), &json!(7), &json!(5)));
    assert_eq!(sampling["max_tokens"], 12);
    let dir = folder("loaded");
    let (first, second) = (dir.join("first.json"), dir.join("second.json"));
    std::fs::write(&first, file.to_string()).unwrap();
    let talk = format!("/load {}\n/save {}\nHello\n", first.display(), second.display());
    let ran = with_input(&["chat"], talk.as_bytes());
    let again: Value = serde_json::from_slice(&std::fs::read(&second).unwrap()).unwrap();
    assert_eq!(again, file);
    let whole = greedy("/system You are kind.\nHello\nWho are you?\nHello\n").ok();
    let answers = greedy("/system You are kind.\nHello\nWho are you?\n").ok();
    assert_eq!(format!("{answers}{}", ran.ok()), whole, "the loaded conversation goes on as the first would have");
}

#[test]
fn files_that_are_no_conversation_change_nothing() {
    let dir = folder("hostile");
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let deep = format!("{{\"messages\": {}", "[".repeat(100_000));
    let bad = [
        dir.join("nope.json").display().to_string(),
        dir.display().to_string(),
        "/dev/zero".to_owned(),
        String::new(),
        file("empty.json", ""),
        file("text.json", "hello"),
        file("deep.json", &deep),
        file("list.json", "[]"),
        file("role.json", r#"{"messages": [{"role": "assistant", "content": "x"}]}"#),
        file("type.json", r#"{"messages": [{"role": "user", "content": 1}]}"#),
        file("hot.json", r#"{"messages": [], "sampling": {"temp": -1}}"#),
    ];
    let one = greedy("Hello\n/clear\nHello\n").ok();
    for path in bad {
        let ran = greedy(&format!("Hello\n/clear\n/load {path}\nHello\n"));
        let complaints: Vec<&str> =
            ran.err.lines().filter(|l| l.starts_with("alula: ") && !l.contains("max-tokens)")).collect();
        assert!(complaints.len() == 1 && complaints[0].contains(&path), "{path}: {ran:?}");
        assert_eq!(ran.ok(), one, "{path}");
    }
    let precious = file("precious.txt", "my only copy");
    let ran = greedy(&format!("/save {precious}\n"));
    assert!(ran.err.contains("another name"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "my only copy");
}

#[test]
fn what_no_longer_fits_is_left_out_with_a_word() {
    let args = ["chat", "--temp", "0", "-n", "10", "--ctx", "96"];
    let file = folder("left-out").join("talk.json");
    let talk = format!("{}/save {}\n", "What is a byte?\n".repeat(12), file.display());
    let ran = with_input(&args, talk.as_bytes());
    let told: Vec<&str> = ran.err.lines().filter(|l| l.contains("no longer sees")).collect();
    assert!(!told.is_empty() && told.iter().all(|l| l.contains("holds 96")), "{ran:?}");
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["messages"].as_array().unwrap().len(), 24, "every message is answered, and all are kept");
    let long = format!("{}\nWhat is a byte?\n", "word ".repeat(200));
    let ran = with_input(&args, long.as_bytes());
    assert!(ran.err.contains("holds 96") && ran.err.contains("shorten"), "{ran:?}");
    assert_eq!(ran.ok(), with_input(&args, b"What is a byte?\n").ok(), "the long one is not kept");
    let ran = with_input(&["chat", "--temp", "0", "--ctx", "40"], b"Tell me a long story about a fox\n");
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn a_model_without_a_template_speaks_chatml() {
    let Some(model) = shared("models/stories260k/stories260k.gguf") else { return };
    let ran = with_input(&["chat", model.to_str().unwrap(), "--temp", "0", "-n", "8"], b"Once upon a time\n");
    assert!(ran.err.contains("ChatML"), "{ran:?}");
    assert!(!ran.ok().trim().is_empty());
}
