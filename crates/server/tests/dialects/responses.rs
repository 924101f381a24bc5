//! `/v1/responses`: what is kept, what continues it, and its events.

use crate::common::*;
use alula_server::models::Task;
use alula_server::{App, Config};
use serde_json::{Value, json};
use std::sync::Arc;

const PATH: &str = "/v1/responses";

fn ask(fields: &Value) -> Value {
    let mut ask = json!({"input": "Once", "max_output_tokens": 12, "temperature": 0});
    ask.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    ask
}

fn said(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

async fn status(app: &Arc<App>, method: &str, path: &str) -> u16 {
    send(app, method, path, "").await.status().as_u16()
}

#[tokio::test]
async fn what_is_kept_is_found_continued_and_forgotten() {
    let app = writer();
    let first = good(&app, PATH, &ask(&json!({"instructions": "Be brief.", "metadata": {"a": "b"}}))).await;
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        (&first["status"], &first["store"], &first["metadata"]),
        (&json!("incomplete"), &json!(true), &json!({"a": "b"}))
    );
    assert_eq!(first["incomplete_details"]["reason"], "max_output_tokens");
    let own = format!("{PATH}/{id}");
    assert_eq!(get(&app, &own).await, first);
    // What continues it reads what came before, but not its instructions.
    let second = good(&app, PATH, &ask(&json!({"previous_response_id": id, "input": "And then?"}))).await;
    let spelled = json!([
        {"role": "user", "content": "Once"}, {"role": "assistant", "content": said(&first)}, {"role": "user", "content": "And then?"},
    ]);
    let same = good(&app, PATH, &ask(&json!({"input": spelled}))).await;
    assert_eq!((said(&second), &second["usage"]["input_tokens"]), (said(&same), &same["usage"]["input_tokens"]));
    assert!(second["usage"]["input_tokens"].as_u64() > first["usage"]["input_tokens"].as_u64());
    let items = get(&app, &format!("{PATH}/{}/input_items?order=asc", second["id"].as_str().unwrap())).await;
    let texts: Vec<&Value> = items["data"].as_array().unwrap().iter().map(|i| &i["content"][0]["text"]).collect();
    assert_eq!(texts, [&json!("And then?")], "those that were sent with it");
    // An item by its name, out of a response that is kept.
    let named =
        json!([{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "And then?"}]);
    let named = good(&app, PATH, &ask(&json!({"input": named}))).await;
    assert!(named["usage"]["input_tokens"].as_u64() < second["usage"]["input_tokens"].as_u64());
    let gone: Value = serde_json::from_str(&text(send(&app, "DELETE", &own, "").await).await).unwrap();
    assert_eq!(gone, json!({"id": id, "object": "response", "deleted": true}));
    for (method, path) in [
        ("GET", own.clone()),
        ("DELETE", own.clone()),
        ("GET", format!("{own}/input_items")),
        ("POST", format!("{own}/cancel")),
    ] {
        assert_eq!(status(&app, method, &path).await, 404, "{method} {path}");
    }
    let (code, e) = post(&app, PATH, &ask(&json!({"previous_response_id": id}))).await;
    assert_eq!((code.as_u16(), &e["error"]["param"]), (400, &json!("previous_response_id")), "{e}");
    // The one after it has all that it needs.
    let third = ask(&json!({"previous_response_id": second["id"], "input": "Why?"}));
    assert!(
        good(&app, PATH, &third).await["usage"]["input_tokens"].as_u64() > second["usage"]["input_tokens"].as_u64()
    );
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not() {
    let app = writer();
    let lost = good(&app, PATH, &ask(&json!({"store": false}))).await;
    assert_eq!(status(&app, "GET", &format!("{PATH}/{}", lost["id"].as_str().unwrap())).await, 404);
    let none = configured(Config { store_size: 0, ..Config::default() }, &[("builtin", Task::Generate)]);
    let lost = good(&none, PATH, &ask(&json!({}))).await;
    assert_eq!(lost["store"], false);
    assert_eq!(status(&none, "GET", &format!("{PATH}/{}", lost["id"].as_str().unwrap())).await, 404);
}

#[tokio::test]
async fn responses_are_their_owners() {
    let config = Config { api_keys: vec!["one".into(), "two".into()], ..Config::default() };
    let app = configured(config, &[("builtin", Task::Generate)]);
    let by = |key: &'static str, method: &'static str, path: String, body: Value| {
        let app = Arc::clone(&app);
        async move {
            let response = send_with(&app, method, &path, &[("authorization", key)], body.to_string()).await;
            (response.status().as_u16(), serde_json::from_str::<Value>(&text(response).await).unwrap())
        }
    };
    let (code, kept) = by("Bearer one", "POST", PATH.into(), ask(&json!({}))).await;
    assert_eq!(code, 200, "{kept}");
    let own = format!("{PATH}/{}", kept["id"].as_str().unwrap());
    for (method, path) in [
        ("GET", own.clone()),
        ("DELETE", own.clone()),
        ("GET", format!("{own}/input_items")),
        ("POST", format!("{own}/cancel")),
    ] {
        assert_eq!(by("Bearer two", method, path, json!(null)).await.0, 404, "{method}");
    }
    let more = ask(&json!({"previous_response_id": kept["id"]}));
    assert_eq!(by("Bearer two", "POST", PATH.into(), more.clone()).await.0, 400);
    assert_eq!(by("Bearer one", "POST", PATH.into(), more).await.0, 200);
    assert_eq!(by("Bearer one", "GET", own, json!(null)).await, (200, kept));
}

/// The names of events, repetitions left out.
fn names(events: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    names.dedup();
    names
}

#[tokio::test]
async fn events_come_in_order_and_say_what_the_whole_says() {
    let app = writer();
    let whole = good(&app, PATH, &ask(&json!({}))).await;
    let stream = async |fields: Value| {
        let response = send(&app, "POST", PATH, ask(&fields).to_string()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = text(response).await;
        assert!(text.ends_with("data: [DONE]\n\n"));
        let events = events(&text);
        // The event's own name is the one in its data.
        let heads: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
        assert_eq!(heads, events.iter().map(|e| e["type"].as_str().unwrap()).collect::<Vec<_>>());
        assert!((0..).zip(&events).all(|(n, e)| e["sequence_number"] == n), "numbered without gaps");
        events
    };
    let events = stream(json!({"stream": true})).await;
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete",
        ]
    );
    let deltas: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(deltas, said(&whole));
    let last = &events.last().unwrap()["response"];
    assert_eq!((said(last), &last["usage"]["output_tokens"]), (said(&whole), &whole["usage"]["output_tokens"]));
    assert_eq!(
        &get(&app, &format!("{PATH}/{}", last["id"].as_str().unwrap())).await,
        last,
        "who is told can ask for it"
    );
    // A call.
    let parameters = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false});
    let tools = json!([{"type": "function", "name": "count", "parameters": parameters}]);
    let fields = json!({"stream": true, "tools": tools, "tool_choice": "required", "parallel_tool_calls": false, "max_output_tokens": 200});
    let events = stream(fields).await;
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let deltas: String = events
        .iter()
        .filter(|e| e["type"] == "response.function_call_arguments.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    let call = &events.last().unwrap()["response"]["output"][0];
    assert_eq!((&call["name"], &call["arguments"]), (&json!("count"), &json!(deltas)));
    // Its result goes back beside its call.
    let output = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "3"}]);
    let previous = events.last().unwrap()["response"]["id"].clone();
    let more = ask(&json!({"previous_response_id": previous, "input": output, "tools": tools}));
    assert_eq!(good(&app, PATH, &more).await["output"][0]["type"], "message");
}

#[tokio::test]
async fn a_response_that_is_written_can_be_cancelled() {
    use http_body_util::BodyExt;
    let app = writer();
    let long = ask(&json!({"stream": true, "max_output_tokens": 400, "temperature": 1.0, "seed": 53}));
    let mut body = send(&app, "POST", PATH, long.to_string()).await.into_body();
    let mut all = String::new();
    let mut cancelled = false;
    while let Some(frame) = body.frame().await {
        all += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
        if !std::mem::replace(&mut cancelled, true) {
            let id = events(&all)[0]["response"]["id"].as_str().unwrap().to_owned();
            assert_eq!(status(&app, "POST", &format!("{PATH}/{id}/cancel")).await, 200);
        }
    }
    let events = events(&all);
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.incomplete"), &json!("cancelled")));
    let id = last["response"]["id"].as_str().unwrap();
    assert_eq!(status(&app, "POST", &format!("{PATH}/{id}/cancel")).await, 400, "it is over");
}

#[tokio::test]
async fn what_finds_no_room_is_answered_unless_it_had_to_be_kept() {
    let app = configured(Config { store_size: 64, ..Config::default() }, &[("builtin", Task::Generate)]);
    let whole = good(&app, PATH, &ask(&json!({}))).await;
    assert_eq!((whole["store"].as_bool(), said(&whole).is_empty()), (Some(false), false));
    assert_eq!(status(&app, "GET", &format!("{PATH}/{}", whole["id"].as_str().unwrap())).await, 404);
    let stream = text(send(&app, "POST", PATH, ask(&json!({"stream": true})).to_string()).await).await;
    let last = events(&stream).pop().unwrap();
    assert_eq!((&last["type"], &last["response"]["store"]), (&json!("response.incomplete"), &json!(false)));
    let (code, refused) = post(&app, PATH, &ask(&json!({"store": true}))).await;
    assert_eq!((code.as_u16(), &refused["error"]["code"]), (507, &json!("storage_full")));
    let stream = text(send(&app, "POST", PATH, ask(&json!({"stream": true, "store": true})).to_string()).await).await;
    assert_eq!(events(&stream).pop().unwrap()["type"], "response.failed");
}
