//! Chat completions, completions and responses: forms beside tools, log-probabilities of prompts, fields.

use crate::common::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A chat request with these fields.
fn chat(fields: &Value) -> Value {
    let mut ask =
        json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 300, "temperature": 1.5, "seed": 7});
    ask.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    ask
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": false});
    json!([{"type": "function", "function": {"name": "count", "description": "Counts.", "parameters": parameters}}])
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false})
}

/// Whether a text is an object of one of these values under this name.
fn is(text: &str, name: &str, values: &[Value]) -> bool {
    let object: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
    object.len() == 1 && object.get(name).is_some_and(|v| values.contains(v))
}

/// Whether a text has a form.
type Holds<'a> = &'a dyn Fn(&str) -> bool;

/// Checks whole answers, and counts those with calls and those without.
fn sorted(answer: &Value, holds: Holds<'_>) -> [usize; 2] {
    let mut counts = [0, 0];
    for choice in answer["choices"].as_array().unwrap() {
        let message = &choice["message"];
        assert_ne!(choice["finish_reason"], "length", "{choice}");
        match message["tool_calls"].as_array() {
            Some(calls) => {
                assert_eq!((&choice["finish_reason"], &message["content"]), (&json!("tool_calls"), &Value::Null));
                for call in calls {
                    let function = &call["function"];
                    assert_eq!(function["name"], "count");
                    assert!(is(function["arguments"].as_str().unwrap(), "n", &[json!(1), json!(2)]), "{function}");
                }
                counts[0] += 1;
            }
            None => {
                assert!(holds(message["content"].as_str().unwrap()), "{message}");
                counts[1] += 1;
            }
        }
    }
    counts
}

/// Makes tokens likely that begin with one of these letters.
fn bias(liked: &str) -> Value {
    let tokenizer = tokenizer("builtin");
    let first = |id: u32| tokenizer.token_bytes(id).first().copied();
    let liked =
        (0..tokenizer.vocab_size() as u32).filter(|&id| first(id).is_some_and(|b| liked.as_bytes().contains(&b)));
    liked.map(|id| (id.to_string(), json!(30))).collect::<Map<_, _>>().into()
}

#[tokio::test]
async fn forms_hold_beside_tools() {
    let app = writer();
    let is_ok = |text: &str| is(text, "ok", &[json!(true), json!(false)]);
    let is_object = |text: &str| serde_json::from_str::<Map<String, Value>>(text).is_ok();
    let json_schema = json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema()}});
    let lark = "start: (\"a\" | \"b\") \"/\" N\nN: /[0-9]/";
    let is_letter = |text: &str| text.len() == 3 && text.starts_with(['a', 'b']) && text.as_bytes()[1] == b'/';
    let forms: [(Value, Holds<'_>); 3] = [
        (json_schema, &is_ok),
        (json!({"type": "regex", "regex": "(a|b)/[0-9]"}), &is_letter),
        (json!({"type": "lark", "lark": lark}), &is_letter),
    ];
    for (form, holds) in forms {
        let auto = chat(&json!({"tools": tools(), "response_format": form, "n": 24, "parallel_tool_calls": false}));
        for (liked, want) in [("{\"n", [24, 0]), ("oab", [0, 24])] {
            let mut ask = auto.clone();
            ask["logit_bias"] = bias(liked);
            let got = sorted(&good(&app, "/v1/chat/completions", &ask).await, holds);
            assert_eq!(got, want, "the model has the choice");
        }
        for (choice, want) in [
            (json!("required"), [4, 0]),
            (json!({"type": "function", "function": {"name": "count"}}), [4, 0]),
            (json!("none"), [0, 4]),
        ] {
            let ask = chat(
                &json!({"tools": tools(), "tool_choice": choice, "response_format": form, "n": 4, "parallel_tool_calls": false}),
            );
            assert_eq!(sorted(&good(&app, "/v1/chat/completions", &ask).await, holds), want, "{choice}");
        }
    }
    let ask = chat(&json!({"tools": tools(), "tool_choice": "none", "response_format": {"type": "json_object"}}));
    assert_eq!(sorted(&good(&app, "/v1/chat/completions", &ask).await, &is_object), [0, 1]);
    // What cannot be enforced is refused by its place, whichever of the two it is in.
    let bad = json!({"type": "object", "properties": {"n": {"type": "string", "contentEncoding": 3, "format": 4}}});
    let bad_form = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": bad}});
    let mut bad_tools = tools();
    bad_tools[0]["function"]["parameters"] = bad;
    for (ask, param) in [
        (json!({"tools": tools(), "response_format": bad_form}), "response_format"),
        (
            json!({"tools": bad_tools, "response_format": {"type": "regex", "regex": "a"}}),
            "tools[0].function.parameters",
        ),
    ] {
        let (status, e) = post(&app, "/v1/chat/completions", &chat(&ask)).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!(param)), "{e}");
    }
}

#[tokio::test]
async fn forms_hold_beside_tools_in_other_dialects() {
    let app = writer();
    // This model prefers to answer, and what it answers has the form.
    let flat = &tools()[0]["function"];
    let flat = json!([{"type": "function", "name": flat["name"], "parameters": flat["parameters"]}]);
    for seed in 0..8 {
        let format = json!({"type": "json_schema", "name": "s", "schema": schema()});
        let ask = json!({"input": "Once", "tools": flat, "text": {"format": format}, "temperature": 1.5, "seed": seed,
            "max_output_tokens": 120, "parallel_tool_calls": false});
        let response = good(&app, "/v1/responses", &ask).await;
        let item = &response["output"][0];
        assert!(is(item["content"][0]["text"].as_str().unwrap(), "ok", &[json!(true), json!(false)]), "{item}");
        let mut forced = ask.clone();
        forced["tool_choice"] = json!("required");
        let item = good(&app, "/v1/responses", &forced).await["output"][0].take();
        assert_eq!(item["type"], "function_call");
        assert!(is(item["arguments"].as_str().unwrap(), "n", &[json!(1), json!(2)]), "{item}");
        let tool = json!([{"name": "count", "input_schema": tools()[0]["function"]["parameters"]}]);
        let config = json!({"format": {"type": "json_schema", "schema": schema()}});
        let ask = json!({"model": "builtin", "max_tokens": 120, "messages": [{"role": "user", "content": format!("Once {seed}")}],
            "tools": tool, "output_config": config});
        let block = good(&app, "/v1/messages", &ask).await["content"][0].take();
        assert!(is(block["text"].as_str().unwrap(), "ok", &[json!(true), json!(false)]), "{block}");
        let ask = json!({"model": "builtin", "stream": false, "messages": [{"role": "user", "content": "Once"}], "tools": tools(),
            "format": schema(), "options": {"temperature": 1.5, "seed": seed, "num_predict": 120}});
        let message = good(&app, "/api/chat", &ask).await["message"].take();
        assert!(is(message["content"].as_str().unwrap(), "ok", &[json!(true), json!(false)]), "{message}");
    }
}

/// The numbers of a choice's log-probabilities.
fn chosen(choice: &Value) -> Vec<Option<f64>> {
    choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().map(Value::as_f64).collect()
}

#[tokio::test]
async fn an_echo_has_the_log_probabilities_of_the_prompt() {
    let app = writer();
    let text = "Once upon a time there was a little girl. She had a red ball and a blue ball.";
    let ids = good(&app, "/tokenize", &json!({"prompt": text})).await["tokens"].take();
    let ids = ids.as_array().unwrap();
    let written = json!({"prompt": ids, "max_tokens": 20, "temperature": 0, "logprobs": 3, "ignore_eos": true});
    let written = good(&app, "/v1/completions", &written).await["choices"][0].take();
    let answer = written["text"].as_str().unwrap();
    // What was written has, read as a prompt, the very numbers that it had when it was written: all in a step or one by one.
    let all = good(&app, "/tokenize", &json!({"prompt": format!("{text}{answer}")})).await["tokens"].take();
    let all = all.as_array().unwrap();
    assert!(all.len() == ids.len() + 20 && all[..ids.len()] == ids[..], "the text gives its tokens again");
    let ask = |prompt: Value, more: Value| {
        let mut ask = json!({"prompt": prompt, "max_tokens": 0, "temperature": 0, "logprobs": 3, "echo": true});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask
    };
    let first = good(&app, "/v1/completions", &ask(json!(all), json!({}))).await;
    let read = &first["choices"][0];
    let numbers = chosen(read);
    assert_eq!((numbers.len(), numbers[0]), (all.len(), None));
    assert!(numbers[1..].iter().all(|n| n.is_some_and(|n| n < 0.0)));
    assert_eq!(numbers[ids.len()..], chosen(&written)[..], "to the bit");
    assert_eq!(read["logprobs"]["top_logprobs"][0], Value::Null);
    assert_eq!(read["logprobs"]["top_logprobs"][ids.len()], written["logprobs"]["top_logprobs"][0]);
    assert_eq!((&read["finish_reason"], &first["usage"]["completion_tokens"]), (&json!("length"), &json!(0)));
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "all positions were computed");
    // Where each token's text begins.
    let whole: Vec<char> = read["text"].as_str().unwrap().chars().collect();
    let (tokens, offsets) = (&read["logprobs"]["tokens"], &read["logprobs"]["text_offset"]);
    let mut found = 0;
    for (token, at) in tokens.as_array().unwrap().iter().zip(offsets.as_array().unwrap()) {
        let (token, at) = (token.as_str().unwrap(), at.as_u64().unwrap() as usize);
        found += usize::from(whole[at..].iter().collect::<String>().starts_with(token));
    }
    assert!(found + 2 >= all.len(), "{found} of {} tokens stand where they are said to", all.len());
    // As texts, as a stream, with an answer behind, several at once, and twice: always the same numbers.
    let same = |choice: &Value, n: usize| assert_eq!(chosen(choice)[..n], numbers[..n]);
    let echoed =
        good(&app, "/v1/completions", &ask(json!([text, all_text(&first)]), json!({"max_tokens": 4, "n": 2}))).await;
    assert_eq!(echoed["choices"].as_array().unwrap().len(), 4);
    for (i, n) in [(0, ids.len()), (1, ids.len()), (2, all.len()), (3, all.len())] {
        same(&echoed["choices"][i], n);
        assert_eq!(chosen(&echoed["choices"][i]).len(), n + 4);
    }
    assert!(echoed["choices"][0]["text"].as_str().unwrap().starts_with(text));
    for most in [0, 20] {
        let more = json!({"stream": true, "max_tokens": most, "ignore_eos": true});
        let response = send(&app, "POST", "/v1/completions", ask(json!(ids), more).to_string()).await;
        assert_eq!(response.status(), 200);
        let events = events(&crate::common::text(response).await);
        let (mut streamed, mut told) = (String::new(), Vec::new());
        for event in &events {
            let choice = &event["choices"][0];
            streamed += choice["text"].as_str().unwrap();
            told.extend(choice["logprobs"].is_object().then(|| chosen(choice)).into_iter().flatten());
        }
        assert_eq!(told, numbers[..ids.len() + most]);
        assert_eq!(streamed, format!("{text}{}", if most > 0 { answer } else { "" }));
    }
    let one = good(&app, "/v1/completions", &ask(json!([all[0]]), json!({"logprobs": 0}))).await;
    assert_eq!(chosen(&one["choices"][0]), [None]);
    // Log-probabilities of prompts are bounded.
    let many = vec![vec![json!(5); 300]; 128];
    let (status, e) = post(&app, "/v1/completions", &ask(json!(many), json!({"logprobs": 20}))).await;
    assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!("logprobs")), "{e}");
}

fn all_text(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn whole_numbers_may_have_a_fraction_of_zero() {
    let app = writer();
    for (path, base, fields) in [
        (
            "/v1/chat/completions",
            chat(&json!({})),
            json!({"max_tokens": 5.0, "n": 2.0, "seed": 1.0, "top_k": 4.0, "logprobs": true, "top_logprobs": 2.0}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "Once", "seed": 3}),
            json!({"max_tokens": 5.0, "seed": -1.0, "logprobs": 1.0, "best_of": 1.0}),
        ),
        ("/v1/completions", json!({"prompt": [5, 6], "seed": 3}), json!({"prompt": [5.0, 6.0], "max_tokens": 3e0})),
        ("/v1/responses", json!({"input": "Once"}), json!({"max_output_tokens": 5.0, "seed": 2.0})),
    ] {
        let (mut floats, mut wholes) = (base.clone(), base.clone());
        for (name, value) in fields.as_object().unwrap() {
            floats[name] = value.clone();
            wholes[name] = match value {
                Value::Array(_) => base[name].clone(),
                value => value.as_f64().map_or(value.clone(), |n| json!(n as i64)),
            };
        }
        assert!(floats.to_string().contains(".0"), "{floats}");
        let answer = |v: Value| (v["choices"].clone(), v["output"][0]["content"].clone());
        assert_eq!(answer(good(&app, path, &floats).await), answer(good(&app, path, &wholes).await));
    }
    for (name, value) in [
        ("max_tokens", json!(5.5)),
        ("n", json!(-1.0)),
        ("seed", json!(1e300)),
        ("top_k", json!("4")),
        ("max_tokens", json!(-3)),
    ] {
        let (status, e) = post(&app, "/v1/chat/completions", &chat(&json!({name: value}))).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!(name)), "{e}");
    }
}

#[tokio::test]
async fn fields_work_or_are_refused_by_name() {
    let app = writer();
    let good_ones =
        json!({"metadata": {"a": "b"}, "verbosity": "medium", "prompt_cache_retention": "in_memory", "max_tokens": 2});
    good(&app, "/v1/chat/completions", &chat(&good_ones)).await;
    let kept =
        good(&app, "/v1/responses", &json!({"input": "Once", "max_output_tokens": 2, "text": {"verbosity": "medium"}}))
            .await;
    assert_eq!(kept["text"]["verbosity"], "medium");
    let refuse = async |app: &Arc<_>, path: &str, ask: Value, param: &str| {
        let (status, e) = post(app, path, &ask).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!(param)), "{e}");
        assert!(e["error"]["message"].as_str().unwrap().contains(param), "{e}");
    };
    for (field, value) in [
        ("functions", json!([])),
        ("function_call", json!("auto")),
        ("audio", json!({"voice": "x"})),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("web_search_options", json!({})),
        ("verbosity", json!("high")),
        ("verbosity", json!("loud")),
        ("prompt_cache_retention", json!("24h")),
        ("no_such_field", json!(1)),
    ] {
        refuse(&app, "/v1/chat/completions", chat(&json!({field: value})), field).await;
    }
    refuse(&app, "/v1/chat/completions", chat(&json!({"metadata": {"a": "x".repeat(600)}})), "metadata.a").await;
    let padded = json!({"stream": true, "stream_options": {"include_obfuscation": true}});
    refuse(&app, "/v1/chat/completions", chat(&padded), "stream_options.include_obfuscation").await;
    for (field, value) in [
        ("conversation", json!("conv_1")),
        ("prompt", json!({"id": "x"})),
        ("context_management", json!([])),
        ("prompt_cache_retention", json!("24h")),
        ("background", json!(true)),
    ] {
        refuse(&app, "/v1/responses", json!({"input": "Once", field: value}), field).await;
    }
    refuse(&app, "/v1/responses", json!({"input": "Once", "text": {"verbosity": "low"}}), "text.verbosity").await;
}

#[tokio::test]
async fn some_of_the_tools_may_be_allowed() {
    let app = writer();
    let mut list = tools();
    let mut other = list[0].clone();
    other["function"]["name"] = json!("other");
    list.as_array_mut().unwrap().insert(0, other);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let choice = |mode: &str, name: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name)]}});
    let ask =
        |choice: Value| chat(&json!({"tools": list, "tool_choice": choice, "n": 8, "parallel_tool_calls": false}));
    let answer = good(&app, "/v1/chat/completions", &ask(choice("required", "count"))).await;
    assert_eq!(sorted(&answer, &|_| false), [8, 0], "all calls are of the tool that is allowed");
    good(&app, "/v1/chat/completions", &ask(choice("auto", "count"))).await;
    let none = json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}});
    for (choice, param) in [
        (choice("required", "third"), "tool_choice.allowed_tools.tools[0]"),
        (choice("none", "count"), "tool_choice.allowed_tools"),
        (none, "tool_choice.allowed_tools"),
        (json!({"type": "function", "allowed_tools": {"mode": "auto", "tools": [named("count")]}}), "tool_choice.type"),
    ] {
        let (status, e) = post(&app, "/v1/chat/completions", &ask(choice)).await;
        assert_eq!((status.as_u16(), &e["error"]["param"]), (400, &json!(param)), "{e}");
    }
    let flat: Vec<Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|t| json!({"type": "function", "name": t["function"]["name"], "parameters": t["function"]["parameters"]}))
        .collect();
    let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "count"}]});
    let ask = json!({"input": "Once", "tools": flat, "tool_choice": choice, "parallel_tool_calls": false});
    let response = good(&app, "/v1/responses", &ask).await;
    assert_eq!((&response["output"][0]["name"], &response["tool_choice"]), (&json!("count"), &choice));
}
