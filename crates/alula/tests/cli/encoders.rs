//! `alula embed` and `alula rerank` against transformers (`testdata/encoders`, made by `tools/parity/encoders.py`).

use crate::common::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/encoders").join(name).to_str().unwrap().to_owned()
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(&model(name)).join("golden.json")).unwrap()).unwrap()
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn texts(golden: &Value, key: &str) -> Vec<String> {
    golden[key].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap().to_owned()).collect()
}

/// The objects of an output of one a line.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn close(got: &[f32], want: &[f32]) {
    let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-5 * most, "{g}, not {w}; the largest is {most}");
    }
}

/// A copy of a model, to be changed.
fn copy(name: &str, to: &str) -> PathBuf {
    let folder = folder(to);
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json"] {
        let from = Path::new(&model(name)).join(file);
        if from.exists() {
            std::fs::copy(from, folder.join(file)).unwrap();
        }
    }
    folder
}

#[test]
fn vectors_equal_those_of_transformers() {
    for name in ["mean", "cls", "last"] {
        let golden = golden(name);
        let texts = texts(&golden, "texts");
        let ran = with_input(&["embed", &model(name)], (texts.join("\n") + "\n").as_bytes());
        let (all, err) = (lines(&ran.out), ran.err.clone());
        ran.ok();
        assert_eq!(all.len(), texts.len());
        let mut cut = 0;
        for (i, (got, want)) in all.iter().zip(golden["texts"].as_array().unwrap()).enumerate() {
            assert_eq!((&got["index"], &got["tokens"]), (&json!(i), &json!(want["ids"].as_array().unwrap().len())));
            close(&floats(&got["embedding"]), &floats(&want["vector"]));
            cut += usize::from(got["cut"] != 0);
        }
        assert!(
            cut > 0 && err.contains(&format!("{cut} of {} texts", texts.len())) && err.contains("longer than"),
            "{err}"
        );
        // The bits of a text's vector do not depend on the others, the threads, or where the text comes from.
        for (text, want) in texts.iter().zip(&all).filter(|(t, _)| !t.is_empty()) {
            let one = alula(&["embed", &model(name), "--threads", "2", "--", text]).ok();
            assert_eq!(lines(&one)[0]["embedding"], want["embedding"], "{name}: {text:?}");
        }
        let many: Vec<String> = texts.iter().cycle().take(300).cloned().collect();
        let again = lines(&with_input(&["embed", &model(name)], many.join("\n").as_bytes()).ok());
        assert_eq!(again.len(), 300);
        assert!(again.iter().zip(all.iter().cycle()).all(|(got, want)| got["embedding"] == want["embedding"]));
    }
}

/// `pooling_type` and the tokenizer of a GGUF file; the longest text is no part of it.
#[test]
fn a_gguf_file_gives_the_same_vectors() {
    let golden = golden("mean");
    let file = model("mean/model.gguf");
    let input = texts(&golden, "texts").join("\n") + "\n";
    let all = lines(&with_input(&["embed", &file, "--ctx", "24"], input.as_bytes()).ok());
    for (got, want) in all.iter().zip(golden["texts"].as_array().unwrap()) {
        close(&floats(&got["embedding"]), &floats(&want["vector"]));
    }
    assert_eq!(alula(&["embed", &file, "x", "--json"]).json()["pooling"], "mean");
}

#[test]
fn vectors_are_made_as_asked() {
    let (mean, text) = (model("mean"), "the bird flies over the sea");
    let vector =
        |args: &[&str]| floats(&lines(&alula(&[&["embed", &mean, text][..], args].concat()).ok())[0]["embedding"]);
    let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let (whole, plain, short) = (vector(&[]), vector(&["--no-normalize"]), vector(&["--dimensions", "5"]));
    assert!((length(&whole) - 1.0).abs() < 1e-6 && (length(&short) - 1.0).abs() < 1e-6);
    let scaled: Vec<f32> = plain.iter().map(|x| (f64::from(*x) / length(&plain)) as f32).collect();
    assert_eq!(scaled, whole);
    let cut: Vec<f32> = plain[..5].iter().map(|x| (f64::from(*x) / length(&plain[..5])) as f32).collect();
    assert_eq!(cut, short);
    let (cls, last) = (vector(&["--pooling", "cls"]), vector(&["--pooling", "last"]));
    assert!(cls != whole && last != whole && cls != last);
    assert_eq!(vector(&["--pooling", "mean"]), whole);
    // One object says how it was made.
    let all = alula(&["embed", &mean, text, "x", "--json", "--pooling", "last", "--dimensions", "3"]).json();
    assert_eq!((&all["pooling"], &all["normalized"], &all["dimensions"]), (&json!("last"), &json!(true), &json!(3)));
    assert_eq!(all["embeddings"].as_array().unwrap().len(), 2);
    assert_eq!(all["embeddings"][1]["index"], 1);
    // Nothing to embed is no error.
    assert_eq!(alula(&["embed", &mean]).ok(), "");
    // A longest text of one's own.
    let ran = alula(&["embed", &mean, text, "--ctx", "4"]);
    assert!(ran.err.contains("longer than 4 tokens"), "{ran:?}");
    assert_eq!(lines(&ran.ok())[0]["tokens"], 4);
    // A decoder gives its last token's hidden state.
    let builtin = alula(&["embed", "builtin", text, "--json"]).json();
    assert_eq!(builtin["pooling"], "last");
    assert!((length(&floats(&builtin["embeddings"][0]["embedding"])) - 1.0).abs() < 1e-6);
}

#[test]
fn scores_equal_those_of_transformers() {
    for name in ["cross_bert", "cross_roberta"] {
        let golden = golden(name);
        let (query, documents) = (golden["query"].as_str().unwrap(), texts(&golden, "documents"));
        let longest = golden["longest"].to_string();
        let path = model(name);
        let args = ["rerank", &path, query, "--json", "--ctx", &longest];
        let all = with_input(&args, (documents.join("\n") + "\n").as_bytes()).json();
        let results = all["results"].as_array().unwrap();
        let (mut got, mut want) = (vec![f32::NAN; documents.len()], Vec::new());
        for r in results {
            let i = r["index"].as_u64().unwrap() as usize;
            got[i] = r["score"].as_f64().unwrap() as f32;
            assert_eq!(r["document"], json!(documents[i]));
        }
        for d in golden["documents"].as_array().unwrap() {
            want.push(d["score"].as_f64().unwrap() as f32);
        }
        close(&got, &want);
        let scores: Vec<f64> = results.iter().map(|r| r["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b));
        let some = [0, 2, 3].map(|i| documents[i].as_str());
        let two = alula(&[&args[..], &["--top", "2", "--threads", "2", "--"][..], &some[..]].concat()).json();
        let best = two["results"].as_array().unwrap();
        assert_eq!(best.len(), 2);
        for r in best {
            let score = &results.iter().find(|all| all["document"] == r["document"]).unwrap()["score"];
            assert_eq!(&r["score"], score, "with other company, on other threads");
        }
        let text = alula(&["rerank", &model(name), query, &documents[0], &documents[2]]).ok();
        assert!(text.lines().count() == 2 && text.contains(&documents[2]), "{text}");
    }
}

#[test]
fn what_is_no_encoder_and_what_is_one_is_said() {
    let (mean, cross, roberta) = (model("mean"), model("cross_bert"), model("cross_roberta"));
    for (args, word) in [
        (&["run", &mean, "x"][..], "writes no text"),
        (&["chat", &mean], "writes no text"),
        (&["bench", &cross], "writes no text"),
        (&["eval", "greedy", &mean, "--ids", "1,2"], "writes no text"),
        (&["eval", "perplexity", &mean, "Cargo.toml"], "writes no text"),
        (&["rerank", "builtin", "a", "b"], "no head that scores"),
        (&["rerank", &mean, "a", "b"], "no head that scores"),
        (&["embed", &mean, "x", "--dimensions", "0"], "--dimensions"),
        (&["embed", &mean, "x", "--dimensions", "33"], "1 to 32"),
        (&["embed", &mean, "x", "--ctx", "65"], "1 to 64"),
        (&["embed", &mean, "x", "--ctx", "1"], "room for 1 tokens, but the model adds 2"),
        (&["rerank", &roberta, "x", "y", "--ctx", "3"], "room for 3 tokens, but the model adds 4"),
        (&["rerank", &cross, "x", "y", "--ctx", "0"], "1 to 64"),
        (&["embed", "./nope", "x"], "nope"),
    ] {
        let err = alula(args).refused();
        assert!(err.contains(word), "{args:?} should say {word}: {err}");
    }
    alula(&["embed", &mean, "x", "--pooling", "max"]).usage();
    // A classifier is an encoder all the same.
    assert_eq!(lines(&alula(&["embed", &cross, "a bird"]).ok())[0]["embedding"].as_array().unwrap().len(), 32);
    assert!(alula(&["show", &mean]).ok().contains("vectors of texts"));
    assert!(alula(&["show", &cross, "--json"]).json()["shape"]["makes"].as_str().unwrap().contains("scores"));
    let out = folder("encoder-logits").join("x.safetensors");
    alula(&["eval", "logits", &mean, "--ids", "2,8,9,3", "--out", out.to_str().unwrap()]).ok();
    assert!(std::fs::metadata(out).unwrap().len() > 4 * 32 * 4);
}

/// Each text has states of its own, in one step with others or alone.
#[test]
fn state_spaces_make_vectors_too() {
    let folder = copy("mean", "recurrent");
    std::fs::remove_file(folder.join("modules.json")).unwrap();
    let path = folder.to_str().unwrap();
    for case in ["mamba", "jamba", "granite_hybrid"] {
        for file in ["config.json", "model.safetensors"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity").join(case).join(file);
            std::fs::copy(from, folder.join(file)).unwrap();
        }
        let texts = ["a b c", "x", "a long text of letters a b c d e f g"];
        let all = lines(&alula(&[&["embed", path][..], &texts].concat()).ok());
        assert_eq!(all.len(), texts.len());
        for (got, text) in all.iter().zip(texts) {
            let alone = lines(&alula(&["embed", path, text]).ok());
            assert_eq!(got["embedding"], alone[0]["embedding"], "{case}: {text}");
        }
    }
}

#[test]
fn modules_that_cannot_be_computed_are_refused() {
    let folder = copy("mean", "modules");
    let path = folder.to_str().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    };
    let modules = std::fs::read_to_string(folder.join("modules.json")).unwrap();
    for (modules, pooling, word) in [
        (modules.replace("Normalize", "Dense"), r#"{"pooling_mode_mean_tokens": true}"#, "`Dense`"),
        (modules.clone(), r#"{"pooling_mode_max_tokens": true}"#, "is max"),
        (modules.clone(), r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#, "one at a time"),
        (modules.replace("1_Pooling", "../1_Pooling"), "{}", "inside the folder"),
        (modules.clone(), "[", "1_Pooling"),
        ("{".to_owned(), "{}", "modules.json"),
    ] {
        write("modules.json", &modules);
        write("1_Pooling/config.json", pooling);
        let err = alula(&["embed", path, "x"]).refused();
        assert!(err.contains(word), "{word}: {err}");
    }
    // Without modules, the mean of length 1.
    std::fs::remove_file(folder.join("modules.json")).unwrap();
    let plain = alula(&["embed", path, "the bird"]).ok();
    assert_eq!(plain, alula(&["embed", &model("mean"), "the bird"]).ok());
}

/// A real model, all-MiniLM-L6-v2, where `ALULA_MINILM` names its folder (`tools/parity/minilm.py` says where to get it).
#[test]
fn the_vectors_of_minilm_equal_those_of_sentence_transformers() {
    let Some(folder) = std::env::var_os("ALULA_MINILM") else {
        println!("skipped: ALULA_MINILM does not name the folder of all-MiniLM-L6-v2");
        return;
    };
    let golden = golden("minilm");
    let golden = golden.as_array().unwrap();
    let input: Vec<&str> = golden.iter().map(|t| t["text"].as_str().unwrap()).collect();
    let ran = with_input(&["embed", folder.to_str().unwrap()], (input.join("\n") + "\n").as_bytes());
    let all = lines(&ran.ok());
    assert_eq!(all.len(), golden.len());
    for (got, want) in all.iter().zip(golden) {
        let (got, want) = (floats(&got["embedding"]), floats(&want["vector"]));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
        assert!(cosine >= 0.99999, "{cosine}");
    }
}
