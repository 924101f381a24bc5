//! Models as files: `list`, `show`, `tokenize`, `detokenize`; and what is made from the flags.

use crate::common::*;
use serde_json::json;

const TEXT: &str = "Hello, Wörld!\n\tdef f(x): return x**2  # 你好 🦉 e\u{301}\r\n";

/// A vocabulary without a model: bytes and one merge.
fn vocabulary() -> Vec<u8> {
    let tokens: Vec<String> = ('!'..='~').map(String::from).chain(["ab".to_owned(), "<|end|>".to_owned()]).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut types = vec![1; tokens.len()];
    types[tokens.len() - 1] = 3;
    gguf(&[
        ("general.architecture", Kv::Str("llama")),
        ("llama.context_length", Kv::U32(77)),
        ("tokenizer.ggml.model", Kv::Str("gpt2")),
        ("tokenizer.ggml.pre", Kv::Str("gpt-2")),
        ("tokenizer.ggml.tokens", Kv::Strs(&tokens)),
        ("tokenizer.ggml.token_type", Kv::I32s(&types)),
        ("tokenizer.ggml.merges", Kv::Strs(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Kv::U32(tokens.len() as u32 - 1)),
    ])
}

#[test]
fn the_models_directory_is_listed() {
    let dir = folder("models");
    std::fs::copy(builtin_file(), dir.join("feather.gguf")).unwrap();
    std::fs::write(dir.join("broken.gguf"), b"GGUF and no more").unwrap();
    std::fs::write(dir.join("words.gguf"), vocabulary()).unwrap();
    std::fs::write(dir.join("strange.gguf"), gguf(&[("general.architecture", Kv::Str("hippogriff"))])).unwrap();
    std::fs::write(dir.join("notes.txt"), b"not a model").unwrap();
    let listed = |args: &[&str]| {
        let mut c = command(args);
        c.env("ALULA_MODELS", &dir);
        run_with(c, b"")
    };
    let list = listed(&["list", "--json"]).json();
    assert_eq!(list["directory"], dir.to_str().unwrap());
    let names: Vec<&str> = list["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["builtin", "broken", "feather", "strange", "words"]);
    let (builtin, broken, feather) = (&list["models"][0], &list["models"][1], &list["models"][2]);
    for key in ["bytes", "type", "architecture", "parameters", "supported", "format"] {
        assert_eq!(builtin[key], feather[key], "{key}");
    }
    assert_eq!((&builtin["architecture"], &builtin["supported"]), (&json!("llama"), &json!(true)));
    assert!(broken["error"].as_str().unwrap().contains("broken.gguf"), "{broken}");
    assert_eq!(list["models"][4]["type"], "vocabulary");
    let text = listed(&["list"]).ok();
    assert!(text.lines().nth(1).unwrap().starts_with("builtin "), "{text}");
    assert!(text.lines().any(|l| l.starts_with("broken ") && !l.contains("broken.gguf")), "{text}");
    assert!(text.trim_end().ends_with(dir.to_str().unwrap()), "{text}");
    // A name is enough.
    let args = ["run", "feather", "Once upon a time", "--temp", "0", "-n", "4"];
    assert_eq!(listed(&args).ok(), alula(&["run", "Once upon a time", "--temp", "0", "-n", "4"]).ok());
    let none = alula(&["list", "--json"]).json();
    assert_eq!(none["models"].as_array().unwrap().len(), 1, "a directory that is not there is empty");
}

#[test]
fn models_are_shown() {
    let all = alula(&["show", "builtin", "--json"]).json();
    assert_eq!((&all["model"], &all["runs"], &all["why_not"]), (&json!("builtin"), &json!(true), &json!(null)));
    let sum: u64 = all["tensor_types"].as_array().unwrap().iter().map(|t| t["elements"].as_u64().unwrap()).sum();
    assert_eq!(all["parameters"], sum); // it has no other tensors
    assert_eq!(all["shape"]["vocabulary"], all["tokenizer"]["vocabulary"]);
    assert!(all["chat_template"].as_str().unwrap().contains("<|im_start|>"));
    assert_eq!(all["metadata"]["general.architecture"], all["architecture"]);
    for key in ["context", "weights", "cache", "work", "total"] {
        assert!(all["memory"][key].as_u64().is_some_and(|n| n > 0), "{key}: {}", all["memory"]);
    }
    let at =
        |ctx: &str| alula(&["show", "builtin", "--json", "--ctx", ctx]).json()["memory"]["cache"].as_u64().unwrap();
    assert_eq!(at("512"), 8 * at("64"), "the cache grows with the context");
    alula(&["show", "builtin", "--ctx", "18446744073709551615"]).ok();
    let text = alula(&["show"]).ok();
    for word in ["architecture  llama", "tokenizer", "chat template", "memory", "licence"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

/// A plan for little memory and for enough of it; too little is refused before anything is loaded.
#[test]
fn plans_are_shown_and_kept() {
    let mixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/mixtral");
    let plan = alula(&["show", mixture, "--json", "--plan", "--memory", "2GiB"]).json()["plan"].clone();
    let number = |key: &str| plan[key].as_f64().unwrap_or_else(|| panic!("{key}: {plan}"));
    assert!(number("within") > 1e9 && number("within") < 2.0 * 1024.0 * 1024.0 * 1024.0);
    assert!(number("fetched") == 0.0 && number("token_weights") > 0.0 && number("memory_bytes_per_second") > 1e6);
    assert!(number("tokens_per_second") > 0.0);
    let text = alula(&["show", mixture, "--memory", "2GiB"]).ok();
    assert!(text.contains("all of it") && text.contains("tokens/s"), "{text}");
    assert_eq!(alula(&["show", mixture, "--json"]).json()["plan"], json!(null));
    for command in [&["show"][..], &["eval", "greedy", "--ids", "1"]] {
        let why = alula(&[command, &[mixture, "--memory", "1MB"]].concat()).refused();
        assert!(why.contains("bytes of memory are needed"), "{why}");
        let why = alula(&[command, &[mixture, "--memory", "much"]].concat()).usage();
        assert!(why.contains("--memory") && why.contains("12GB"), "{why}");
    }
    let ids = |more: &[&str]| alula(&[&["eval", "greedy", mixture, "--ids", "1,2", "-n", "5"], more].concat()).ok();
    assert_eq!(ids(&["--memory", "1GB"]), ids(&[]));
}

#[test]
fn what_cannot_run_is_shown_too() {
    let dir = folder("shown");
    let file = |name: &str, bytes: Vec<u8>| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let words = file("words.gguf", vocabulary());
    let all = alula(&["show", &words, "--json"]).json();
    assert_eq!((&all["runs"], &all["parameters"]), (&json!(false), &json!(0)));
    assert_eq!(all["tokenizer"]["eos"]["token"], "<|end|>");
    assert!(alula(&["show", &words]).ok().contains("context_length = 77"));
    let strange = file(
        "strange.gguf",
        gguf(&[("general.architecture", Kv::Str("hippogriff")), ("hippogriff.wings", Kv::U32(2))]),
    );
    let text = alula(&["show", &strange]).ok();
    assert!(text.contains("hippogriff") && text.contains("wings = 2") && text.contains("runs          no"), "{text}");
    // A vocabulary is enough to tokenize with.
    assert_eq!(alula(&["tokenize", &words, "ab!", "--ids"]).ok(), "94,0\n");
    assert_eq!(alula(&["detokenize", &words, "94,0"]).ok(), "ab!");
}

#[test]
fn texts_come_back_from_their_ids() {
    let dir = folder("tokens");
    let file = dir.join("text.txt");
    std::fs::write(&file, TEXT).unwrap();
    let ids = alula(&["tokenize", "builtin", "--file", file.to_str().unwrap(), "--ids"]).ok();
    assert!(ids.ends_with('\n') && ids.trim().split(',').all(|id| id.parse::<u32>().is_ok()), "{ids}");
    assert_eq!(alula(&["detokenize", "builtin", ids.trim(), "--no-special"]).ok(), TEXT);
    assert_eq!(with_input(&["detokenize", "builtin", "--no-special"], ids.as_bytes()).ok(), TEXT);
    // Standard input loses the line end at its end, and nothing else.
    let from_stdin = with_input(&["tokenize", "builtin", "--ids"], TEXT.as_bytes()).ok();
    assert_eq!(alula(&["detokenize", "builtin", from_stdin.trim(), "--no-special"]).ok(), TEXT.trim_end());
    let special = alula(&["tokenize", "builtin", "<|im_end|>", "--ids"]).ok();
    let plain = alula(&["tokenize", "builtin", "<|im_end|>", "--ids", "--no-special"]).ok();
    assert!(plain.split(',').count() > special.split(',').count(), "{special} {plain}");
    assert_eq!(alula(&["detokenize", "builtin", plain.trim()]).ok(), "<|im_end|>");
}

#[test]
fn help_completions_and_manuals() {
    for shell in ["bash", "zsh", "fish"] {
        let script = alula(&["completions", shell]).ok();
        assert!(script.contains("max-tokens") && script.contains("detokenize"), "{shell}");
    }
    let dir = folder("man");
    let pages = dir.join("man1");
    alula(&["man", pages.to_str().unwrap()]).ok();
    let page = std::fs::read_to_string(pages.join("alula-run.1")).unwrap();
    assert!(page.contains("ALULA_MAX_TOKENS") && page.contains("Examples"), "{page}");
    for sub in ["alula.1", "alula-chat.1", "alula-eval-logits.1"] {
        assert!(pages.join(sub).is_file(), "{sub}");
    }
    let help = alula(&["--help"]).ok();
    for word in ["run", "chat", "list", "show", "tokenize", "detokenize", "eval", "bench", "Examples"] {
        assert!(help.contains(word), "{word}");
    }
    assert!(alula(&["run", "--help"]).ok().contains("[env: ALULA_MAX_TOKENS="));
    assert!(alula(&["--version"]).ok().starts_with("alula "));
}
