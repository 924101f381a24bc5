//! `/api/*`.

use crate::common::*;
use alula_server::models::Task;
use serde_json::{Value, json};
use std::time::Duration;

fn chat(fields: Value) -> Value {
    let mut ask = json!({
        "model": "builtin:latest", "options": {"temperature": 0, "num_predict": 16, "repeat_penalty": 1.0},
        "messages": [{"role": "user", "content": "Tell me a story."}],
    });
    for (key, value) in fields.as_object().unwrap() {
        ask[key] = value.clone();
    }
    ask
}

/// The lines of a stream.
async fn lines(path: &str, ask: &Value) -> Vec<Value> {
    let response = send(&writer(), "POST", path, ask.to_string()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    text(response).await.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn lines_say_what_the_whole_says() {
    let app = writer();
    let whole = good(&app, "/api/chat", &chat(json!({"stream": false}))).await;
    assert_eq!(
        (&whole["model"], &whole["done"], &whole["done_reason"]),
        (&json!("builtin:latest"), &json!(true), &json!("length"))
    );
    assert_eq!((&whole["eval_count"], &whole["message"]["role"]), (&json!(16), &json!("assistant")));
    for key in ["total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_duration"] {
        assert!(whole[key].as_u64().unwrap() > 0, "{key}");
    }
    assert!(whole["total_duration"].as_u64() >= whole["eval_duration"].as_u64());
    let date = whole["created_at"].as_str().unwrap();
    assert!(date.len() == 30 && date.ends_with('Z'), "{date}");
    // A stream is the default.
    let lines = lines("/api/chat", &chat(json!({}))).await;
    let (last, first) = lines.split_last().unwrap();
    assert!(first.len() > 3 && first.iter().all(|l| l["done"] == false && l.get("done_reason").is_none()));
    let text: String = lines.iter().map(|l| l["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(json!(text), whole["message"]["content"]);
    assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("length"), &json!(16)));
    let openai = json!({"messages": chat(json!({}))["messages"], "temperature": 0, "max_tokens": 16});
    let openai = good(&app, "/v1/chat/completions", &openai).await;
    assert_eq!(openai["choices"][0]["message"]["content"], json!(text));
}

#[tokio::test]
async fn texts_are_answered_or_continued() {
    let app = writer();
    let options = json!({"temperature": 0, "num_predict": 12, "repeat_penalty": 1.0});
    let ask = json!({"model": "builtin", "prompt": "Tell me a story.", "options": options, "stream": false});
    let answered = good(&app, "/api/generate", &ask).await;
    let same = good(&app, "/api/chat", &chat(json!({"stream": false, "options": options}))).await;
    assert_eq!(answered["response"], same["message"]["content"]);
    let raw = json!({"model": "builtin", "prompt": "Once upon", "raw": true, "options": options});
    let streamed: String =
        lines("/api/generate", &raw).await.iter().map(|l| l["response"].as_str().unwrap().to_owned()).collect();
    let openai = json!({"prompt": "Once upon", "temperature": 0, "max_tokens": 12});
    let openai = good(&app, "/v1/completions", &openai).await;
    assert_eq!(openai["choices"][0]["text"], json!(streamed));
    let mut system = ask.clone();
    system["system"] = json!("Be short.");
    let system = good(&app, "/api/generate", &system).await;
    assert!(system["prompt_eval_count"].as_u64() > answered["prompt_eval_count"].as_u64());
}

#[tokio::test]
async fn answers_have_a_form_and_call_tools() {
    let app = writer();
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
                        "required": ["n"], "additionalProperties": false});
    let got = good(
        &app,
        "/api/chat",
        &chat(json!({"stream": false, "format": schema, "options": {"temperature": 0, "num_predict": 120}})),
    )
    .await;
    let value: Value = serde_json::from_str(got["message"]["content"].as_str().unwrap()).unwrap();
    assert!((1..=9).contains(&value["n"].as_i64().unwrap()));
    let ask = json!({"model": "builtin", "prompt": "a", "stream": false, "format": schema});
    let got = good(&app, "/api/generate", &ask).await;
    serde_json::from_str::<Value>(got["response"].as_str().unwrap()).unwrap();
    // A conversation with calls in it is read; whether the model calls something is its own business.
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}});
    let messages = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "thinking": "t", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "b", "tool_name": "f"},
    ]);
    let got = good(&app, "/api/chat", &chat(json!({"stream": false, "tools": [tool], "messages": messages}))).await;
    assert_eq!(got["done"], true);
}

#[tokio::test]
async fn errors_name_the_field() {
    let app = writer();
    for (status, says, ask) in [
        (404, "`other`", chat(json!({"model": "other"}))),
        (400, "512", chat(json!({"options": {"num_ctx": 513}}))),
        (400, "`options.num_ctx` is 4", chat(json!({"options": {"num_ctx": 4}}))),
        (400, "`options.num_gpu`", chat(json!({"options": {"num_gpu": 1}}))),
        (400, "`options.temperature`", chat(json!({"options": {"temperature": -1}}))),
        (400, "`options.num_predict`", chat(json!({"options": {"num_predict": 0}}))),
        (400, "`format`", chat(json!({"format": "xml"}))),
        (400, "`think`", chat(json!({"think": true}))),
        (400, "`think`", chat(json!({"think": "high"}))),
        (400, "images", chat(json!({"messages": [{"role": "user", "content": "a", "images": ["AAAA"]}]}))),
        (400, "keep_alive", chat(json!({"keep_alive": "soon"}))),
        (400, "`template`", chat(json!({"template": "x"}))),
        (400, "512", chat(json!({"messages": [{"role": "user", "content": "word ".repeat(2000)}]}))),
    ] {
        let (got, e) = post(&app, "/api/chat", &ask).await;
        assert_eq!((got.as_u16(), e.as_object().unwrap().len()), (status, 1), "{e}");
        assert!(e["error"].as_str().unwrap().contains(says), "{e}");
    }
    let (status, e) = post(&app, "/api/pull", &json!({"model": "x"})).await;
    assert!(status == 404 && e["error"].is_string(), "{e}");
    for field in ["context", "images", "template"] {
        let (status, e) = post(&app, "/api/generate", &json!({"model": "builtin", "prompt": "a", field: []})).await;
        assert!(status == 400 && e["error"].as_str().unwrap().contains(field), "{e}");
    }
    let gap = json!({"model": "builtin", "prompt": "a", "suffix": "b"});
    let (status, e) = post(&app, "/api/generate", &gap).await;
    assert!(status == 400 && e["error"].as_str().unwrap().contains("gaps"), "{e}");
}

#[tokio::test]
async fn a_shorter_context_is_kept() {
    let app = writer();
    let prompt = good(&app, "/api/chat", &chat(json!({"stream": false}))).await["prompt_eval_count"].as_u64().unwrap();
    let options = json!({"temperature": 0, "num_ctx": prompt + 5});
    let got = good(&app, "/api/chat", &chat(json!({"stream": false, "options": options}))).await;
    assert_eq!((&got["eval_count"], &got["done_reason"]), (&json!(5), &json!("length")));
}

#[tokio::test]
async fn models_are_listed_loaded_and_let_go() {
    let app = server(&[("builtin", Task::Generate), ("cls", Task::Embed)]);
    let tags = get(&app, "/api/tags").await;
    let names: Vec<&str> = tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["builtin:latest", "cls:latest"]);
    assert_eq!(tags["models"][0]["details"]["parameter_size"], "2.5M");
    assert_eq!(get(&app, "/api/ps").await["models"], json!([]));
    let load = good(&app, "/api/chat", &json!({"model": "builtin"})).await;
    assert_eq!((&load["done"], &load["done_reason"]), (&json!(true), &json!("load")));
    assert_eq!(get(&app, "/api/ps").await["models"][0]["name"], "builtin:latest");
    let show = good(&app, "/api/show", &json!({"model": "builtin"})).await;
    assert_eq!(
        (&show["capabilities"][0], &show["model_info"]["llama.context_length"]),
        (&json!("completion"), &json!(CONTEXT))
    );
    assert!(!show["template"].as_str().unwrap().is_empty());
    assert_eq!(get(&app, "/api/version").await["version"], env!("CARGO_PKG_VERSION"));
    // A request in between keeps the model.
    good(&app, "/api/generate", &json!({"model": "builtin", "keep_alive": "300ms"})).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    good(&app, "/api/generate", &json!({"model": "builtin"})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(get(&app, "/api/ps").await["models"].as_array().unwrap().len(), 1);
    let ask = chat(json!({"keep_alive": 0, "stream": false}));
    assert!(good(&app, "/api/chat", &ask).await["eval_count"] == 16);
    for _ in 0..100 {
        if get(&app, "/api/ps").await["models"] == json!([]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the model stays");
}

#[tokio::test]
async fn vectors_are_of_length_1() {
    let app = server(&[("mean", Task::Embed)]);
    let texts = ["the bird flies over the sea", "a feather"];
    let got = good(&app, "/api/embed", &json!({"model": "mean:latest", "input": texts, "keep_alive": "5m"})).await;
    let openai = good(&app, "/v1/embeddings", &json!({"input": texts})).await;
    for (i, got) in got["embeddings"].as_array().unwrap().iter().enumerate() {
        let length: f32 = floats(got).iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5);
        for (a, b) in floats(got).iter().zip(floats(&openai["data"][i]["embedding"])) {
            assert!((a - b).abs() < 1e-6);
        }
    }
    assert_eq!(got["prompt_eval_count"], openai["usage"]["prompt_tokens"]);
    let one = good(&app, "/api/embeddings", &json!({"model": "mean", "prompt": texts[0]})).await;
    assert_eq!(one["embedding"], openai["data"][0]["embedding"]);
    let long = "sea ".repeat(500);
    let (status, e) = post(&app, "/api/embed", &json!({"model": "mean", "input": long})).await;
    assert!(status == 400 && e["error"].as_str().unwrap().contains("`truncate`"), "{e}");
    good(&app, "/api/embed", &json!({"model": "mean", "input": long, "truncate": true})).await;
}
