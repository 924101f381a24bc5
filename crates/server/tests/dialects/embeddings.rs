//! `/v1/embeddings`, `/v1/rerank`, and what `/v1/models` says of models.

use crate::common::*;
use alula_server::Config;
use alula_server::limits::Limits;
use alula_server::models::Task;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

fn close(got: &[f32], want: &[f32]) {
    let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-5 * most, "{g}, not {w}");
    }
}

fn short(golden: &Value, key: &str) -> Vec<Value> {
    let longest = golden["longest"].as_u64().unwrap() as usize;
    let all = golden[key].as_array().unwrap().iter();
    all.filter(|t| t["ids"].as_array().unwrap().len() < longest && t["text"] != "").cloned().collect()
}

#[tokio::test]
async fn vectors_equal_those_of_transformers() {
    // The last one is a decoder, pooled.
    let app = server(&[("mean", Task::Embed), ("cls", Task::Embed), ("last", Task::Embed)]);
    for name in ["mean", "cls", "last"] {
        let golden = golden(name);
        let want = short(&golden, "texts");
        assert!(want.len() > 3);
        let texts: Vec<&Value> = want.iter().map(|t| &t["text"]).collect();
        let ids: Vec<&Value> = want.iter().map(|t| &t["ids"]).collect();
        let got = good(&app, "/v1/embeddings", &json!({"model": name, "input": texts})).await;
        let by_ids = good(&app, "/v1/embeddings", &json!({"model": name, "input": ids})).await;
        assert_eq!((&got["object"], &got["model"]), (&json!("list"), &json!(name)));
        let tokens: usize = ids.iter().map(|i| i.as_array().unwrap().len()).sum();
        assert_eq!(got["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
        for (i, want) in want.iter().enumerate() {
            let one = &got["data"][i];
            assert_eq!((&one["index"], &one["object"]), (&json!(i), &json!("embedding")));
            close(&floats(&one["embedding"]), &floats(&want["vector"]));
            assert_eq!(by_ids["data"][i]["embedding"], one["embedding"]);
            // The company makes no difference, not to a bit.
            let alone = good(&app, "/v1/embeddings", &json!({"model": name, "input": want["text"]})).await;
            assert_eq!(alone["data"][0]["embedding"], one["embedding"]);
            let alone = good(&app, "/v1/embeddings", &json!({"model": name, "input": want["ids"]})).await;
            assert_eq!(alone["data"][0]["embedding"], one["embedding"]);
        }
    }
}

#[tokio::test]
async fn numbers_in_base64_and_fewer_of_them() {
    let app = server(&[("mean", Task::Embed)]);
    let ask = json!({"input": "the bird flies over the sea", "user": "me"});
    let plain = good(&app, "/v1/embeddings", &ask).await;
    let plain = floats(&plain["data"][0]["embedding"]);
    let with = |key: &str, value: Value| {
        let mut ask = ask.clone();
        ask[key] = value;
        ask
    };
    let coded = good(&app, "/v1/embeddings", &with("encoding_format", json!("base64"))).await;
    let bytes = BASE64_STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let coded: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(coded, plain);
    let few = good(&app, "/v1/embeddings", &with("dimensions", json!(4))).await;
    let few = floats(&few["data"][0]["embedding"]);
    let length = plain[..4].iter().map(|v| v * v).sum::<f32>().sqrt();
    close(&few, &plain[..4].iter().map(|v| v / length).collect::<Vec<_>>());
    for wrong in [0, plain.len() + 1] {
        let (status, e) = post(&app, "/v1/embeddings", &with("dimensions", json!(wrong))).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("dimensions")), "{e}");
    }
}

#[tokio::test]
async fn long_texts_are_refused_or_cut_openly() {
    let app = server(&[("mean", Task::Embed)]);
    let longest = golden("mean")["longest"].as_u64().unwrap();
    let long = "the bird flies over the sea ".repeat(50);
    let (status, e) = post(&app, "/v1/embeddings", &json!({"input": ["a", long]})).await;
    let message = e["error"]["message"].as_str().unwrap();
    assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("input[1]")));
    assert_eq!(e["error"]["code"], "context_length_exceeded");
    assert!(message.contains(&format!("reads {longest}")) && message.contains("has 3"), "{message}");
    for (cut, tokens) in [(-1, longest), (9, 9)] {
        let ask = json!({"input": long, "truncate_prompt_tokens": cut});
        assert_eq!(good(&app, "/v1/embeddings", &ask).await["usage"]["prompt_tokens"], tokens);
    }
    let (status, e) = post(&app, "/v1/embeddings", &json!({"input": vec![5; 400]})).await;
    assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("input")), "{e}");
    for (key, ask) in [
        ("truncate_prompt_tokens", json!({"input": "a", "truncate_prompt_tokens": 0})),
        ("truncate_prompt_tokens", json!({"input": "a", "truncate_prompt_tokens": longest + 1})),
        ("input[1]", json!({"input": [1, 99_999]})),
        ("input", json!({"input": vec!["a"; 2049]})),
        ("input", json!({"input": []})),
        ("inputs", json!({"input": "a", "inputs": "b"})),
        ("model", json!({"input": "a", "model": "other"})),
    ] {
        let (status, e) = post(&app, "/v1/embeddings", &ask).await;
        assert!(status.is_client_error(), "{e}");
        assert_eq!(e["error"]["param"], key, "{e}");
    }
}

#[tokio::test]
async fn documents_are_ranked_as_transformers_ranks_them() {
    let app = server(&[("cross_bert", Task::Rerank), ("cross_roberta", Task::Rerank)]);
    for name in ["cross_bert", "cross_roberta"] {
        let golden = golden(name);
        let want = short(&golden, "documents");
        let texts: Vec<Value> = want
            .iter()
            .enumerate()
            .map(|(i, d)| if i % 2 == 0 { d["text"].clone() } else { json!({"text": d["text"]}) })
            .collect();
        let mut ask = json!({"model": name, "query": golden["query"], "documents": texts});
        let got = good(&app, "/v1/rerank", &ask).await;
        let results = got["results"].as_array().unwrap();
        assert_eq!(results.len(), want.len());
        let mut last = 1.0;
        for r in results {
            let score = r["relevance_score"].as_f64().unwrap();
            let logit = want[r["index"].as_u64().unwrap() as usize]["score"].as_f64().unwrap();
            assert!((score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5, "{score}, of the logit {logit}");
            assert!(score <= last && r.get("document").is_none());
            last = score;
        }
        let tokens: usize = want.iter().map(|d| d["ids"].as_array().unwrap().len()).sum();
        assert_eq!(got["usage"]["total_tokens"], tokens);
        ask["top_n"] = json!(2);
        ask["return_documents"] = json!(true);
        let best = good(&app, "/rerank", &ask).await;
        assert_eq!(best["results"].as_array().unwrap().len(), 2);
        for (got, all) in best["results"].as_array().unwrap().iter().zip(results) {
            assert_eq!((&got["index"], &got["relevance_score"]), (&all["index"], &all["relevance_score"]));
            assert_eq!(got["document"]["text"], want[all["index"].as_u64().unwrap() as usize]["text"]);
        }
        ask["documents"] = json!(["a", "the bird flies over the sea ".repeat(60)]);
        let (status, e) = post(&app, "/v1/rerank", &ask).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("documents[1]")), "{e}");
        ask["truncate_prompt_tokens"] = json!(-1);
        good(&app, "/v1/rerank", &ask).await;
    }
    for (key, ask) in [
        ("documents", json!({"query": "a", "documents": []})),
        ("documents[0].title", json!({"query": "a", "documents": [{"text": "a", "title": "b"}]})),
        ("top_n", json!({"query": "a", "documents": ["b"], "top_n": 0})),
        ("query", json!({"documents": ["b"]})),
    ] {
        let (status, e) = post(&app, "/v1/rerank", &ask).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!(key)), "{e}");
    }
}

#[tokio::test]
async fn models_say_what_they_are_for() {
    let app = server(&[("builtin", Task::Generate), ("cls", Task::Embed), ("cross_bert", Task::Rerank)]);
    let list = get(&app, "/v1/models").await;
    let tasks: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["task"].as_str().unwrap()).collect();
    assert_eq!(tasks, ["generate", "embed", "rerank"]);
    let chat = json!([{"role": "user", "content": "a"}]);
    for (path, ask, says) in [
        ("/v1/embeddings", json!({"model": "cross_bert", "input": "a"}), "/v1/rerank"),
        ("/v1/rerank", json!({"model": "cls", "query": "a", "documents": ["b"]}), "/v1/embeddings"),
        ("/v1/chat/completions", json!({"model": "cls", "messages": chat}), "/v1/embeddings"),
    ] {
        let (status, e) = post(&app, path, &ask).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("model")), "{e}");
        assert!(e["error"]["message"].as_str().unwrap().contains(says), "{e}");
    }
}

#[tokio::test]
async fn models_are_loaded_and_let_go_by_name() {
    let app = server(&[("cls", Task::Embed)]);
    let loaded = async || get(&app, "/v1/models").await["data"][0]["loaded"].clone();
    assert_eq!(loaded().await, false);
    let (status, _) = post(&app, "/models/unload", &json!({"model": "cls"})).await;
    assert_eq!((status.as_u16(), loaded().await), (400, json!(false)));
    assert_eq!(good(&app, "/models/load", &json!({"model": "cls"})).await["success"], true);
    assert_eq!(loaded().await, true);
    assert_eq!(good(&app, "/models/unload", &json!({"model": "cls"})).await["success"], true);
    assert_eq!(loaded().await, false);
    assert_eq!(post(&app, "/models/load", &json!({"model": "other"})).await.0, 404);
}

#[tokio::test]
async fn a_model_that_writes_gives_the_vectors_that_it_would_give_alone() {
    let (writes, embeds) = (writer(), server(&[("builtin", Task::Embed)]));
    let long = "the bird flies over the sea and sings ".repeat(12);
    let texts = json!(["Once upon a time", "", "a", long, "Once upon a time there was"]);
    let ask = json!({"input": texts, "dimensions": 8});
    let (got, want) = (good(&writes, "/v1/embeddings", &ask).await, good(&embeds, "/v1/embeddings", &ask).await);
    assert_eq!(got, want, "to the bit");
    let ask = json!({"input": texts});
    let all = good(&writes, "/v1/embeddings", &ask).await;
    assert_eq!(all, good(&embeds, "/v1/embeddings", &ask).await);
    let vectors: Vec<Vec<f32>> = all["data"].as_array().unwrap().iter().map(|d| floats(&d["embedding"])).collect();
    for vector in &vectors {
        let length = vector.iter().map(|v| v * v).sum::<f32>();
        assert!((length - 1.0).abs() < 1e-5 && vectors.iter().filter(|v| *v == vector).count() == 1);
    }
    // Beside answers, behind prompts that are in the cache, and where a text just fits.
    let chat = json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 40, "ignore_eos": true});
    let (answer, again) =
        tokio::join!(good(&writes, "/v1/chat/completions", &chat), good(&writes, "/v1/embeddings", &ask));
    assert_eq!((&again, answer["usage"]["completion_tokens"].as_u64()), (&all, Some(40)));
    for (tokens, status) in [(CONTEXT, 200), (CONTEXT + 1, 400)] {
        let ask = json!({"input": vec![7; tokens]});
        let (got, want) = (post(&writes, "/v1/embeddings", &ask).await, post(&embeds, "/v1/embeddings", &ask).await);
        assert_eq!((got.0.as_u16(), got), (status, want));
    }
    let ollama = good(&writes, "/api/embed", &json!({"model": "builtin", "input": "a"})).await;
    assert_eq!(floats(&ollama["embeddings"][0]), vectors[2]);
}

#[tokio::test]
async fn tokens_that_are_only_read_are_charged_too() {
    let ids = |n: usize| json!(vec![5; n]);
    for (name, task, path, ask) in [
        ("mean", Task::Embed, "/v1/embeddings", json!({"input": ids(20)})),
        ("builtin", Task::Generate, "/v1/embeddings", json!({"input": ids(20)})),
        ("mean", Task::Embed, "/api/embed", json!({"model": "mean", "input": "a bird flies over the sea"})),
        ("mean", Task::Embed, "/api/embeddings", json!({"model": "mean", "prompt": "a bird flies over the sea"})),
        (
            "cross_bert",
            Task::Rerank,
            "/v1/rerank",
            json!({"query": "a bird", "documents": ["the sea", "a bird flies"]}),
        ),
    ] {
        let limits = Limits { tokens_per_minute: Some(25), ..Limits::default() };
        let app = configured(Config { limits, ..Config::default() }, &[(name, task)]);
        let (mut served, mut refused) = (0, None);
        // More than the allowance is let through once, and then owed.
        for _ in 0..30 {
            let response = send(&app, "POST", path, ask.to_string()).await;
            let left = response.headers().get("x-ratelimit-remaining-tokens").unwrap().to_str().unwrap().to_owned();
            assert_eq!(response.headers()["x-ratelimit-limit-tokens"], "25");
            match response.status().as_u16() {
                200 => {
                    assert_ne!(left, "25", "{path}");
                    served += 1;
                }
                _ => {
                    assert!(response.headers().contains_key("retry-after"));
                    refused = Some((response.status().as_u16(), text(response).await));
                    break;
                }
            }
        }
        let (status, body) = refused.unwrap_or_else(|| panic!("{path} is never refused"));
        assert!(status == 429 && (1..25).contains(&served), "{path}: {served} served, then {status} {body}");
    }
}
