//! `/v1/messages`.

use crate::common::*;
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";

fn ask() -> Value {
    json!({
        "model": "builtin", "max_tokens": 24, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell me a story."}],
    })
}

fn with(fields: Value) -> Value {
    let mut ask = ask();
    for (key, value) in fields.as_object().unwrap() {
        ask[key] = value.clone();
    }
    ask
}

fn weather() -> Value {
    json!({
        "name": "get_weather", "description": "Weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}},
                         "required": ["city"], "additionalProperties": false},
    })
}

/// The events of a stream: names as in `event:`, and data.
async fn events(ask: &Value) -> Vec<Value> {
    let mut ask = ask.clone();
    ask["stream"] = json!(true);
    let response = send(&writer(), "POST", MESSAGES, ask.to_string()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = text(response).await;
    let events = text.split("\n\n").filter(|e| !e.is_empty() && !e.starts_with(':')).map(|e| {
        let (name, data) = e.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: ").unwrap(), data["type"].as_str().unwrap());
        data
    });
    events.collect()
}

/// What a stream comes to: content blocks, stop reason, stop sequence, usage. Checks the order of events.
fn fold(events: &[Value]) -> (Vec<Value>, Value, Value) {
    let types: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(types[..2], ["message_start", "ping"]);
    assert_eq!(types[types.len() - 2..], ["message_delta", "message_stop"]);
    assert_eq!(events[0]["message"]["content"], json!([]));
    let (mut blocks, mut open, mut input) = (Vec::<Value>::new(), None, String::new());
    for e in &events[2..events.len() - 2] {
        match e["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(open.is_none() && e["index"] == blocks.len());
                open = Some(e["index"].clone());
                input.clear();
                blocks.push(e["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(Some(&e["index"]), open.as_ref());
                let (block, delta) = (blocks.last_mut().unwrap(), &e["delta"]);
                let more = |key: &str| json!(block[key].as_str().unwrap().to_owned() + delta[key].as_str().unwrap());
                match delta["type"].as_str().unwrap() {
                    "text_delta" => block["text"] = more("text"),
                    "thinking_delta" => block["thinking"] = more("thinking"),
                    "signature_delta" => block["signature"] = more("signature"),
                    "input_json_delta" => input.push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(Some(&e["index"]), open.take().as_ref());
                let block = blocks.last_mut().unwrap();
                if block["type"] == "tool_use" && !input.is_empty() {
                    block["input"] = serde_json::from_str(&input).unwrap();
                }
            }
            other => panic!("{other}"),
        }
    }
    assert!(open.is_none());
    let end = &events[events.len() - 2];
    (blocks, end["delta"].clone(), end["usage"].clone())
}

#[tokio::test]
async fn a_stream_says_what_the_whole_says() {
    let app = writer();
    let whole = good(&app, MESSAGES, &ask()).await;
    assert!(whole["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["model"]),
        (&json!("message"), &json!("assistant"), &json!("builtin"))
    );
    assert_eq!((&whole["stop_reason"], &whole["stop_sequence"]), (&json!("max_tokens"), &Value::Null));
    assert_eq!(whole["usage"]["output_tokens"], 24);
    let (blocks, end, usage) = fold(&events(&ask()).await);
    assert_eq!(json!(blocks), whole["content"]);
    assert_eq!((&end["stop_reason"], &end["stop_sequence"]), (&whole["stop_reason"], &Value::Null));
    assert_eq!(usage, whole["usage"]);
    // The same text as in OpenAI's words.
    let chat = json!({"messages": ask()["messages"], "temperature": 0, "max_tokens": 24});
    let chat = good(&app, "/v1/chat/completions", &chat).await;
    assert_eq!(chat["choices"][0]["message"]["content"], whole["content"][0]["text"]);
    let again = good(&app, MESSAGES, &ask()).await;
    let sum = |u: &Value| u["input_tokens"].as_u64().unwrap() + u["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!((sum(&again["usage"]), &again["content"]), (sum(&whole["usage"]), &whole["content"]));
    let mut count = ask();
    for key in ["max_tokens", "temperature"] {
        count.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(good(&app, "/v1/messages/count_tokens", &count).await["input_tokens"], sum(&whole["usage"]));
}

#[tokio::test]
async fn stop_sequences_are_named() {
    let app = writer();
    let text = good(&app, MESSAGES, &ask()).await["content"][0]["text"].as_str().unwrap().to_owned();
    let word = text.split(' ').nth(3).unwrap();
    let ask = with(json!({"stop_sequences": ["never in it", word]}));
    let got = good(&app, MESSAGES, &ask).await;
    assert_eq!((&got["stop_reason"], &got["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
    assert_eq!(got["content"][0]["text"].as_str().unwrap(), text.split(word).next().unwrap());
    let (_, end, _) = fold(&events(&ask).await);
    assert_eq!(end, json!({"stop_reason": "stop_sequence", "stop_sequence": word}));
}

#[tokio::test]
async fn tools_are_called() {
    let app = writer();
    for choice in
        [json!({"type": "any", "disable_parallel_tool_use": true}), json!({"type": "tool", "name": "get_weather"})]
    {
        let ask = with(json!({"tools": [weather()], "tool_choice": choice, "max_tokens": 120}));
        let got = good(&app, MESSAGES, &ask).await;
        assert_eq!(got["stop_reason"], "tool_use", "{got}");
        let call = got["content"].as_array().unwrap().iter().find(|b| b["type"] == "tool_use").unwrap();
        assert_eq!(call["name"], "get_weather");
        assert!(call["input"]["city"].is_string() && !call["id"].as_str().unwrap().is_empty());
        let (blocks, end, _) = fold(&events(&ask).await);
        let streamed = blocks.iter().find(|b| b["type"] == "tool_use").unwrap();
        assert_eq!((&streamed["name"], &streamed["input"]), (&call["name"], &call["input"]));
        assert_eq!(end["stop_reason"], "tool_use");
        // The answer goes back, with what the tool said.
        let mut next = ask.clone();
        let result = json!([
            {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "rain"}], "is_error": false},
            {"type": "text", "text": "So?", "cache_control": {"type": "ephemeral"}},
        ]);
        let said = next["messages"].as_array_mut().unwrap();
        said.push(json!({"role": "assistant", "content": got["content"]}));
        said.push(json!({"role": "user", "content": result}));
        next["tool_choice"] = json!({"type": "none"});
        let got = good(&app, MESSAGES, &next).await;
        assert!(got["content"].as_array().unwrap().iter().all(|b| b["type"] == "text"), "{got}");
    }
}

#[tokio::test]
async fn answers_have_a_form() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
                        "required": ["n"], "additionalProperties": false});
    let ask = with(json!({"max_tokens": 120, "output_config": {"format": {"type": "json_schema", "schema": schema}}}));
    let got = good(&writer(), MESSAGES, &ask).await;
    let value: Value = serde_json::from_str(got["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!((1..=9).contains(&value["n"].as_i64().unwrap()), "{value}");
}

#[tokio::test]
async fn all_fields_are_taken() {
    let ask = with(json!({
        "system": [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "user", "content": [{"type": "text", "text": "there"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Yes?", "citations": null}]},
            {"role": "user", "content": "Go on."},
        ],
        "metadata": {"user_id": "me"}, "service_tier": "auto", "top_p": 0.9, "top_k": 5, "temperature": 0.7,
        "tools": [weather()], "tool_choice": {"type": "none"}, "stop_sequences": [], "stream": false,
        "cache_control": {"type": "ephemeral"},
    }));
    good(&writer(), MESSAGES, &ask).await;
}

#[tokio::test]
async fn errors_are_anthropics() {
    let app = writer();
    let long = "word ".repeat(2000);
    for (status, kind, says, ask) in [
        (404, "not_found_error", "`other`", with(json!({"model": "other"}))),
        (400, "invalid_request_error", "`max_tokens`", with(json!({"max_tokens": 0}))),
        (400, "invalid_request_error", "`frequency_penalty`", with(json!({"frequency_penalty": 1}))),
        (400, "invalid_request_error", "`temperature`", with(json!({"temperature": 9}))),
        (400, "invalid_request_error", "`stop_sequences[0]`", with(json!({"stop_sequences": [""]}))),
        (400, "invalid_request_error", "`messages`", with(json!({"messages": []}))),
        (400, "invalid_request_error", "512", with(json!({"messages": [{"role": "user", "content": long}]}))),
        (
            400,
            "invalid_request_error",
            "the assistant's",
            with(json!({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})),
        ),
        (
            400,
            "invalid_request_error",
            "`image`",
            with(json!({"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "http://x"}}]}]})),
        ),
        (400, "invalid_request_error", "budget", with(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}))),
        (400, "invalid_request_error", "does not think", with(json!({"thinking": {"type": "adaptive"}}))),
        (
            400,
            "invalid_request_error",
            "tools[0].input_schema",
            with(json!({"tool_choice": {"type": "any"}, "tools": [
            {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "stringg"}}}}]})),
        ),
        (
            400,
            "invalid_request_error",
            "tools[0].max_uses",
            with(json!({"tools": [
            {"type": "custom", "name": "f", "input_schema": {}, "max_uses": 1}]})),
        ),
        (
            400,
            "invalid_request_error",
            "web_search",
            with(json!({"tools": [
            {"type": "web_search_20250305", "name": "f", "input_schema": {}}]})),
        ),
    ] {
        let (got, e) = post(&app, MESSAGES, &ask).await;
        assert_eq!((got.as_u16(), &e["type"], &e["error"]["type"]), (status, &json!("error"), &json!(kind)), "{e}");
        assert!(e["error"]["message"].as_str().unwrap().contains(says), "{e}");
        assert_eq!(e["error"].as_object().unwrap().len(), 2);
    }
    // What never reaches a handler.
    let refused = [("GET", MESSAGES, 405), ("POST", "/v1/messages/batches", 404)];
    for (method, path, status) in refused {
        let response = send(&app, method, path, "{}").await;
        assert_eq!(response.status(), status);
        let e: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(e["type"], "error", "{path}");
    }
    let response = send(&app, "POST", MESSAGES, "{").await;
    assert_eq!(response.status(), 400);
    assert!(text(response).await.contains("not valid JSON"));
    let mut missing = ask();
    missing.as_object_mut().unwrap().remove("max_tokens");
    let (_, e) = post(&app, MESSAGES, &missing).await;
    assert!(e["error"]["message"].as_str().unwrap().contains("`max_tokens` is missing"), "{e}");
}
