//! `alula run`: the same text however it is computed, and every way to ask for it.

use crate::common::*;
use serde_json::Value;

const STORY: &str = "Once upon a time";

/// What `run` writes, without the line end that it puts behind a text.
#[track_caller]
fn text(args: &[&str]) -> String {
    alula(args).ok().strip_suffix('\n').expect("a line end").to_owned()
}

#[test]
fn the_same_text_whatever_computes_it() {
    let args = |threads| ["run", STORY, "--seed", "1", "-n", "24", "--threads", threads];
    let want = alula(&args("1")).ok();
    assert!(want.split_whitespace().count() > 8, "{want:?}");
    assert_eq!(alula(&args("2")).ok(), want);
    for isa in ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon", "dotprod", "i8mm"] {
        let mut c = command(&args("2"));
        c.env("ALULA_ISA", isa);
        let ran = run_with(c, b"");
        if ran.code == Some(0) {
            assert_eq!(ran.out, want, "{isa}");
        } else {
            println!("skipped: {}", ran.refused().trim_end());
        }
    }
    let other = alula(&["run", STORY, "--seed", "2", "-n", "24"]).ok();
    assert_ne!(other, want, "another seed, another text");
}

#[test]
fn smaller_caches_and_fast_numerics_still_tell_a_story() {
    let args = ["run", STORY, "--temp", "0", "-n", "24"];
    let want = alula(&[&args[..], &["--cache-type", "f32"]].concat()).ok();
    for flag in [["--cache-type", "bf16"], ["--cache-type", "q8_0"], ["--cache-type", "q4_0"], ["--numerics", "fast"]] {
        let got = alula(&[&args[..], &flag].concat()).ok();
        // The first words are the same; later ones may differ by rounding.
        let start: Vec<&str> = want.split_whitespace().take(3).collect();
        assert_eq!(got.split_whitespace().take(3).collect::<Vec<_>>(), start, "{flag:?}: {got}");
        assert!(got.split_whitespace().count() > 8, "{flag:?}: {got}");
    }
}

#[test]
fn stories260k_writes_what_others_write() {
    let Some(folder) = shared("models/stories260k") else { return };
    let expected = std::fs::read_to_string(folder.join("expected.txt")).unwrap();
    for model in ["stories260k.gguf", "hf"] {
        let model = folder.join(model);
        let args = ["run", model.to_str().unwrap(), STORY, "--temp", "0", "-n", "120"];
        let echoed = alula(&[&args[..], &["--echo"]].concat()).ok();
        assert_eq!(echoed, expected, "{model:?}");
        assert_eq!(format!("{STORY}{}", alula(&args).ok()), echoed, "{model:?}");
    }
}

#[test]
fn json_says_what_text_says() {
    let args = ["run", STORY, "--temp", "0", "-n", "12"];
    let text = text(&args);
    let report = alula(&[&args[..], &["--json", "--logprobs", "3"]].concat()).json();
    assert_eq!(report["text"], text.as_str());
    assert_eq!(report["finish_reason"], "length");
    assert_eq!(report["tokens"].as_array().unwrap().len(), 12);
    assert!(report["prompt_tokens"].as_array().is_some_and(|ids| ids.len() > 2));
    for time in ["load_ms", "first_token_ms", "prompt_ms", "generate_ms", "prompt_tps", "generate_tps"] {
        assert!(report["timings"][time].as_f64().is_some_and(|t| t > 0.0), "{time} in {report}");
    }
    // A token's text is what it adds to a text, blanks and all.
    let pieces = report["logprobs"].as_array().unwrap().iter().map(|l| l["token"].as_str().unwrap());
    assert_eq!(pieces.collect::<String>(), text);
    let chosen = report["logprobs"].as_array().unwrap();
    assert_eq!(chosen.len(), 12);
    for (one, id) in chosen.iter().zip(report["tokens"].as_array().unwrap()) {
        let top = one["top_logprobs"].as_array().unwrap();
        assert_eq!((&one["id"], top.len()), (id, 3));
        // Greedy takes the likeliest, and probabilities fall.
        assert_eq!((&one["id"], &one["logprob"]), (&top[0]["id"], &top[0]["logprob"]));
        let logs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(logs[0] <= 0.0 && logs.is_sorted_by(|a, b| a >= b), "{logs:?}");
    }
}

#[test]
fn seeds_are_told_and_give_the_text_again() {
    let first = alula(&["run", STORY, "-n", "8", "--json"]).json();
    let seed = first["seed"].as_u64().unwrap().to_string();
    let again = alula(&["run", STORY, "-n", "8", "--json", "--seed", &seed]).json();
    assert_eq!(first["tokens"], again["tokens"]);
}

#[test]
fn prompts_come_from_the_line_or_from_standard_input() {
    let want = alula(&["run", STORY, "--temp", "0", "-n", "8"]).ok();
    let file = builtin_file();
    let file = file.to_str().unwrap();
    for args in [
        &["run", "--temp", "0", "-n", "8"][..],
        &["run", "-", "--temp", "0", "-n", "8"],
        &["run", "builtin", "--temp", "0", "-n", "8"],
        &["run", "builtin", "-", "--temp", "0", "-n", "8"],
        &["run", file, "--temp", "0", "-n", "8"],
    ] {
        assert_eq!(with_input(args, format!("{STORY}\n").as_bytes()).ok(), want, "{args:?}");
    }
    assert_eq!(alula(&["run", file, STORY, "--temp", "0", "-n", "8"]).ok(), want);
    let mut c = command(&["run", STORY]);
    c.env("ALULA_TEMP", "0").env("ALULA_MAX_TOKENS", "8");
    assert_eq!(run_with(c, b"").ok(), want, "flags from the environment");
    for (value, json) in [("1", true), ("true", true), ("yes", true), ("0", false), ("off", false), ("", false)] {
        let mut c = command(&["run", STORY, "--temp", "0", "-n", "8"]);
        c.env("ALULA_JSON", value).env("ALULA_TOP_K", "");
        assert_eq!(run_with(c, b"").ok().starts_with('{'), json, "ALULA_JSON={value:?}");
    }
    assert_eq!(text(&["run", STORY, "-n", "0"]), "");
    // Nothing at all is the beginning of a text for a model that has a token for it.
    with_input(&["run", "-n", "4", "--seed", "1"], b"").ok();
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let whole = text(&["run", STORY, "--temp", "0", "-n", "40"]);
    let stop = whole.split_whitespace().nth(4).unwrap();
    let cut = text(&["run", STORY, "--temp", "0", "-n", "40", "--stop", stop]);
    assert_eq!(cut, whole[..whole.find(stop).unwrap()]);
    let report = alula(&["run", STORY, "--temp", "0", "-n", "40", "--stop", "¿", "--stop", stop, "--json"]).json();
    assert_eq!((report["text"].as_str(), report["finish_reason"].as_str()), (Some(cut.as_str()), Some("stop")));
}

#[test]
fn biases_forbid_and_force() {
    let tokens = |args: &[&str]| -> Vec<u64> {
        let report = alula(&[&["run", STORY, "--temp", "0", "-n", "6", "--json"], args].concat()).json();
        report["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect()
    };
    let first = tokens(&[])[0];
    assert_ne!(tokens(&["--logit-bias", &format!("{first}=-inf")])[0], first);
    let dashes = ["--stop", "--- no", "--logit-bias", &format!("{first}=-inf")];
    assert_ne!(tokens(&dashes)[0], first);
    let word = with_input(&["tokenize", "builtin", " cat", "--ids", "--no-special"], b"").ok();
    let id: u64 = word.trim().split(',').next().unwrap().parse().unwrap();
    assert_eq!(tokens(&["--logit-bias", &format!("{id}=1000")]), [id; 6]);
}

#[test]
fn statistics_go_to_standard_error() {
    let ran = alula(&["run", STORY, "--temp", "0", "-n", "4", "--stats"]);
    assert!(ran.err.contains("tokens/s"), "{ran:?}");
    assert_eq!(ran.ok(), alula(&["run", STORY, "--temp", "0", "-n", "4"]).ok());
}

/// 700 prompt tokens do not fit one step, and sequences are cut where a step ends.
#[test]
fn streams_decode_together_after_a_depth() {
    let args = ["bench", "--runs", "1", "--prompt", "100", "--gen", "3", "--json"];
    let report = alula(&[&args[..], &["--streams", "7", "--depth", "130"]].concat()).json();
    for (key, want) in [("prompt", 100), ("gen", 3), ("depth", 130), ("streams", 7)] {
        assert_eq!(report[key], want, "{key}: {report}");
    }
    assert_eq!(report["runs"].as_array().unwrap().len(), 1);
    for key in ["prefill_tps", "decode_tps"] {
        assert!(report[key].as_f64().unwrap() > 1.0, "{key}: {report}");
    }
    // From the environment; a decode of its own; without --depth it starts behind the prompt.
    let mut c = command(&["bench", "--runs", "1", "--prompt", "0", "--gen", "2"]);
    c.env("ALULA_DEPTH", "65").env("ALULA_STREAMS", "2");
    let text = run_with(c, b"").ok();
    assert!(text.starts_with("decode") && text.contains(" 2 tokens x 2 after 65: "), "{text}");
    let report = alula(&args).json();
    assert_eq!((&report["depth"], &report["streams"]), (&100.into(), &1.into()));
    // States of fixed size stand at one position: a decode that begins before the prompt's end has states of its own.
    for depth in ["0", "5", "130"] {
        let jamba = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/jamba");
        alula(&["bench", jamba, "--runs", "1", "--prompt", "20", "--gen", "2", "--streams", "2", "--depth", depth])
            .ok();
    }
    // More sequences than a step usually has rows.
    let many = ["bench", "--runs", "1", "--prompt", "2", "--gen", "1", "--streams", "600", "--ctx", "512"];
    assert!(alula(&many).refused().contains("600 streams"));
}

#[test]
fn the_machine_has_ceilings() {
    let report = alula(&["bench", "--machine", "--json", "--threads", "2"]).json();
    for what in ["read_bytes_per_second", "fma_flops", "dot_ops"] {
        for threads in ["one_thread", "all_threads"] {
            let rate = report[what][threads].as_f64().expect("a number");
            assert!(rate > 1e6 && rate < 1e16, "{what} {threads}: {rate}");
        }
    }
    assert_eq!(report["isa"][0], "scalar");
}

#[test]
fn ids_in_ids_out() {
    let ids = alula(&["tokenize", "builtin", STORY, "--ids"]).ok();
    assert_eq!(alula(&["eval", "greedy", "builtin", "--ids", "1, 2", "-n", "0"]).ok(), "\n");
    let greedy = alula(&["eval", "greedy", "builtin", "--ids", ids.trim(), "-n", "6", "--cache-type", "f16"]).ok();
    let report = alula(&["run", STORY, "--temp", "0", "-n", "6", "--json"]).json();
    let tokens: Vec<String> = report["tokens"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(greedy.trim(), tokens.join(","));
    let out = folder("logits").join("l.safetensors");
    alula(&["eval", "logits", "builtin", "--ids", ids.trim(), "--out", out.to_str().unwrap()]).ok();
    let file = alula_format::safetensors::SafeTensors::open(&out).unwrap();
    let logits = file.tensor("logits").unwrap();
    assert_eq!(logits.shape()[0], ids.trim().split(',').count());
    let (width, all) = (logits.shape()[1], logits.to_f32());
    let last = &all[all.len() - width..];
    let best = (0..width).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    assert_eq!(best.to_string(), tokens[0]);
}
