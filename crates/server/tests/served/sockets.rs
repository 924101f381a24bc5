//! Answers over WebSocket.

use crate::common::Served;
use alula_server::Config;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(served: &Served, path: &str) -> Socket {
        let stream = TcpStream::connect(served.address).await.unwrap();
        Socket(client_async(format!("ws://{}{path}", served.address), stream).await.unwrap().0)
    }

    async fn send(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message that is no ping.
    async fn next(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), self.0.next()).await.expect("a message");
            match next.expect("open").unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    async fn json(&mut self) -> Value {
        let message = self.next().await;
        serde_json::from_str(message.to_text().unwrap()).unwrap_or_else(|e| panic!("{e}: {message:?}"))
    }

    /// Messages up to the last one of an answer.
    async fn all(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.json().await;
            let kind = message["type"].as_str().unwrap_or_default();
            let last =
                matches!(kind, "done" | "error" | "response.completed" | "response.incomplete" | "response.failed");
            all.push(message);
            if last {
                return all;
            }
        }
    }
}

fn chat(fields: &Value) -> Value {
    let mut ask = json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 12, "temperature": 0, "ignore_eos": true});
    ask.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    ask
}

fn content(messages: &[Value]) -> String {
    messages.iter().filter_map(|m| m["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_requests_and_answers_their_events() {
    let served = Served::start(Config::default(), 2, None).await;
    let (_, whole) = served.post("/v1/chat/completions", &chat(&json!({}))).await;
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let mut socket = Socket::open(&served, "/ws").await;
    socket.send(&chat(&json!({}))).await;
    let all = socket.all().await;
    assert_eq!((content(&all), &all.last().unwrap()["type"]), (whole.clone(), &json!("done")));
    // Several at a time, told apart by their names; and one that is asked for whole.
    for id in ["a", "b"] {
        socket.send(&chat(&json!({"request_id": id}))).await;
    }
    let (mut a, mut b, mut done) = (Vec::new(), Vec::new(), 0);
    while done < 2 {
        let message = socket.json().await;
        done += usize::from(message["type"] == "done");
        if message["request_id"] == "a" { a.push(message) } else { b.push(message) }
    }
    assert!(b.iter().all(|m| m["request_id"] == "b"));
    assert_eq!((content(&a), content(&b)), (whole.clone(), whole.clone()));
    socket.send(&chat(&json!({"stream": false}))).await;
    assert_eq!(socket.json().await["choices"][0]["message"]["content"], json!(whole));
    socket.send(&json!({"type": "ping"})).await;
    assert_eq!(socket.json().await, json!({"type": "pong"}));
    served.over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_answer_says_no_more_and_is_not_computed() {
    let served = Served::start(Config::default(), 1, None).await;
    let mut socket = Socket::open(&served, "/ws").await;
    socket.send(&chat(&json!({"request_id": "long", "max_tokens": 450}))).await;
    assert_eq!(socket.json().await["request_id"], "long");
    // The name is taken while it runs.
    socket.send(&chat(&json!({"request_id": "long"}))).await;
    let busy = loop {
        let message = socket.json().await;
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(busy["error"]["code"], "request_under_way");
    socket.send(&json!({"type": "cancel", "request_id": "long"})).await;
    let last = loop {
        let message = socket.json().await;
        if message["type"] == "cancelled" {
            break message;
        }
        assert_ne!(message["type"], "done", "it ended before it was cancelled");
    };
    assert_eq!(last["request_id"], "long");
    // Only one runs at a time, so this one waits until the other has left the engine.
    socket.send(&chat(&json!({"request_id": "next"}))).await;
    let all = socket.all().await;
    assert!(all.iter().all(|m| m["request_id"] == "next") && all.last().unwrap()["type"] == "done", "{all:?}");
    for id in ["long", "never"] {
        socket.send(&json!({"type": "cancel", "request_id": id})).await;
        assert_eq!(socket.json().await["error"]["code"], "request_not_found");
    }
    served.over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_others_go_on() {
    let served = Served::start(Config { max_body: 4000, ..Config::default() }, 1, None).await;
    let mut socket = Socket::open(&served, "/ws").await;
    socket.0.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(socket.json().await["type"], "error");
    for (text, status, code) in [
        ("{", 400, Some("invalid_json")),
        ("[1]", 400, Some("invalid_json")),
        ("\"x\"", 400, Some("invalid_json")),
        ("{\"type\": \"dance\"}", 400, Some("unknown_type")),
        ("{\"type\": 3}", 400, None),
        ("{\"request_id\": 3}", 400, None),
        ("{\"type\": \"resume\", \"event_id\": \"stream_0:1\"}", 404, Some("stream_not_found")),
        ("{\"messages\": []}", 400, None),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"dance\": 1}", 400, Some("unknown_field")),
        (
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"model\": \"other\"}",
            404,
            Some("model_not_found"),
        ),
    ] {
        socket.0.send(Message::text(text)).await.unwrap();
        let e = socket.json().await;
        assert_eq!((&e["type"], &e["status"]), (&json!("error"), &json!(status)), "{text}: {e}");
        assert!(code.is_none_or(|code| e["error"]["code"] == code), "{text}: {e}");
    }
    socket.send(&chat(&json!({}))).await;
    assert_eq!(socket.all().await.last().unwrap()["type"], "done");
    // A message over the limit closes the connection, and says why.
    socket.send(&chat(&json!({"user": "x".repeat(5000)}))).await;
    let Message::Close(Some(close)) = socket.next().await else { panic!("it stays open") };
    assert_eq!(close.code, CloseCode::Size);
    let mut other = Socket::open(&served, "/ws").await;
    other.send(&chat(&json!({}))).await;
    assert_eq!(other.all().await.last().unwrap()["type"], "done");
    served.over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connections_answer_goes_on_in_another() {
    let served = Served::start(Config::default(), 1, None).await;
    let mut socket = Socket::open(&served, "/ws").await;
    socket.send(&chat(&json!({"resume": true, "max_tokens": 40}))).await;
    let whole = content(&socket.all().await);
    for cut in [1, 3, 17] {
        let mut first = Socket::open(&served, "/ws").await;
        first.send(&chat(&json!({"resume": true, "max_tokens": 40}))).await;
        let mut got = Vec::new();
        while got.len() < cut {
            got.push(first.json().await);
        }
        drop(first);
        let mut second = Socket::open(&served, "/ws").await;
        second.send(&json!({"type": "resume", "event_id": got.last().unwrap()["event_id"]})).await;
        got.extend(second.all().await);
        assert_eq!(content(&got), whole, "cut behind {cut}");
    }
    served.over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_in_turn_over_one_connection() {
    let served = Served::start(Config::default(), 1, None).await;
    let mut socket = Socket::open(&served, "/v1/responses").await;
    let create = |fields: Value| {
        let mut ask = json!({"type": "response.create", "input": "Once", "store": false, "max_output_tokens": 8, "temperature": 0});
        ask.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ask
    };
    // Both are sent at once, and the second waits for the first.
    socket.send(&create(json!({}))).await;
    let first = socket.all().await;
    assert!((0..).zip(&first).all(|(n, e)| e["sequence_number"] == n));
    assert_eq!(first[0]["type"], "response.created");
    let id = &first.last().unwrap()["response"]["id"];
    socket.send(&create(json!({"previous_response_id": id, "input": "And then?"}))).await;
    socket.send(&create(json!({}))).await;
    let (second, third) = (socket.all().await, socket.all().await);
    let tokens = |all: &[Value]| all.last().unwrap()["response"]["usage"]["input_tokens"].as_u64().unwrap();
    assert!(tokens(&second) > tokens(&first) && tokens(&third) == tokens(&first));
    // What is not kept is known to its own connection alone.
    let mut other = Socket::open(&served, "/v1/responses").await;
    let last = &second.last().unwrap()["response"]["id"];
    other.send(&create(json!({"previous_response_id": last}))).await;
    assert_eq!(other.json().await["error"]["code"], "previous_response_not_found");
    socket.send(&create(json!({"previous_response_id": last}))).await;
    assert!(tokens(&socket.all().await) > tokens(&second));
    // One that is being written (258 tokens with that seed) ends with what there is.
    socket.send(&create(json!({"max_output_tokens": 400, "temperature": 1.0, "seed": 53}))).await;
    let id = socket.json().await["response"]["id"].clone();
    socket.send(&json!({"type": "response.cancel", "response_id": id})).await;
    let all = socket.all().await;
    assert_eq!(all.last().unwrap()["response"]["status"], "cancelled");
    for wrong in [
        json!({"type": "response.cancel"}),
        json!({"type": "response.cancel", "response_id": "x"}),
        json!({"type": "response.create", "request_id": "x"}),
    ] {
        socket.send(&wrong).await;
        assert_eq!(socket.json().await["type"], "error", "{wrong}");
    }
    served.over().await;
}
