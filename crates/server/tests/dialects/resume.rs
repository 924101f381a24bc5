//! Streams that are taken up again where the connection broke.

use crate::common::*;
use alula_server::models::Task;
use alula_server::{App, Config};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ASK: (&str, &str) = ("x-alula-resume", "1");

/// Requests of three endpoints that stream.
fn requests() -> [(&'static str, Value); 3] {
    let messages = json!([{"role": "user", "content": "Once"}]);
    [
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_tokens": 30, "seed": 5, "stream": true, "ignore_eos": true}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "Once", "max_tokens": 20, "temperature": 0, "stream": true, "ignore_eos": true}),
        ),
        ("/v1/responses", json!({"input": "Once", "max_output_tokens": 20, "temperature": 0, "stream": true})),
    ]
}

/// Each event's number and its data, without what differs from one answer to the next.
fn numbered(text: &str) -> Vec<(u64, String)> {
    let event = |event: &str| {
        let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name));
        let number = field("id: ")?.rsplit_once(':')?.1.parse().ok()?;
        let data = field("data: ")?;
        let data = serde_json::from_str::<Value>(data).map_or_else(
            |_| data.to_owned(),
            |v| {
                let text = [
                    &v["choices"],
                    &v["delta"],
                    &v["type"],
                    &v["response"]["output"][0]["content"],
                    &v["sequence_number"],
                ];
                json!(text).to_string()
            },
        );
        Some((number, data))
    };
    text.split("\n\n").filter_map(event).collect()
}

/// Reads so many events, then goes. What came, and the stream's name.
async fn cut(app: &Arc<App>, path: &str, ask: &Value, headers: &[(&str, &str)], events: usize) -> (String, String) {
    let response = send_with(app, "POST", path, headers, ask.to_string()).await;
    assert_eq!(response.status(), 200);
    let name = response.headers()["x-alula-stream"].to_str().unwrap().to_owned();
    let (mut body, mut came) = (response.into_body(), String::new());
    while came.matches("\n\n").count() < events {
        let Some(frame) = body.frame().await else { break };
        came += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    (came, name)
}

#[tokio::test]
async fn no_event_is_lost_or_repeated_wherever_it_is_cut() {
    let app = writer();
    for (path, ask) in requests() {
        let whole = numbered(&cut(&app, path, &ask, &[ASK], usize::MAX).await.0);
        assert!(whole.len() > 8 && (1..).zip(&whole).all(|(n, event)| event.0 == n), "{whole:?}");
        for events in [0, 1, 2, 5, whole.len() / 2, whole.len() - 1] {
            let (came, name) = cut(&app, path, &ask, &[ASK], events).await;
            let mut got = numbered(&came);
            // A second cut on the way, and the rest with the request once more.
            for (turn, more) in [2, usize::MAX].into_iter().enumerate() {
                let last = format!("{name}:{}", got.last().map_or(0, |e| e.0));
                let headers = [("last-event-id", last.as_str())];
                let response = match turn {
                    0 => send_with(&app, "GET", &format!("/v1/streams/{name}"), &headers, "").await,
                    _ => send_with(&app, "POST", path, &headers, ask.to_string()).await,
                };
                assert_eq!(response.status(), 200);
                let (mut body, mut rest) = (response.into_body(), String::new());
                while rest.matches("\n\n").count() < more {
                    let Some(frame) = body.frame().await else { break };
                    rest += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
                }
                got.extend(numbered(&rest));
            }
            assert_eq!(got, whole, "{path} cut behind {events}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_its_owners_and_can_be_ended() {
    let config = Config { api_keys: vec!["one".into(), "two".into()], ..Config::default() };
    let app = configured(config, &[("builtin", Task::Generate)]);
    let (path, ask) = &requests()[0];
    let (one, two) = (("authorization", "Bearer one"), ("authorization", "Bearer two"));
    let (_, name) = cut(&app, path, ask, &[ASK, one], 1).await;
    let (stream, last) = (format!("/v1/streams/{name}"), format!("{name}:1"));
    let status = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        send_with(&app, method, path, headers, ask.to_string()).await.status().as_u16()
    };
    for (method, path) in [("GET", stream.as_str()), ("DELETE", &stream), ("POST", path)] {
        assert_eq!(status(method, path, &[two, ("last-event-id", &last)]).await, 404, "{method}");
    }
    assert_eq!(status("GET", "/v1/streams/other", &[one]).await, 404);
    assert_eq!(status("GET", &stream, &[one, ("last-event-id", "other:1")]).await, 400);
    assert_eq!(status("GET", &stream, &[one, ("last-event-id", &format!("{name}:x"))]).await, 400);
    assert_eq!(status("GET", &stream, &[one, ("last-event-id", &format!("{name}:9999"))]).await, 400);
    assert_eq!(status("GET", &stream, &[one, ("last-event-id", &last)]).await, 200);
    assert_eq!(status("DELETE", &stream, &[one]).await, 204);
}

#[tokio::test]
async fn an_answer_that_nobody_takes_up_ends_after_a_while() {
    let config = Config { resume_grace: Duration::from_millis(300), ..Config::default() };
    let app = configured(config, &[("builtin", Task::Generate)]);
    let (path, ask) = &requests()[0];
    let (came, name) = cut(&app, path, ask, &[ASK], 2).await;
    let status = async || send(&app, "GET", &format!("/v1/streams/{name}"), "").await.status().as_u16();
    assert_eq!((numbered(&came).len(), status().await), (2, 200));
    let mut waited = 0;
    while status().await == 200 {
        // Asking is reading, so there is a longer pause each time.
        waited += 1;
        assert!(waited < 20, "it never ends");
        tokio::time::sleep(Duration::from_millis(100 * waited)).await;
    }
    assert_eq!(status().await, 404);
    // Without the header nothing is held.
    let response = send(&app, "POST", path, ask.to_string()).await;
    assert!(response.headers().get("x-alula-stream").is_none());
}
