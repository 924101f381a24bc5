//! Spans of requests as a collector gets them.

mod common;

use alula_server::models::{Models, Task};
use alula_server::trace::Traces;
use alula_server::{App, Config, Server};
use common::{Size, entry};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A collector that keeps what it is sent and answers with this status.
async fn collector(status: u16) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&got);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut text, mut part) = (String::new(), [0; 65536]);
            loop {
                let n = stream.read(&mut part).await.unwrap();
                text += std::str::from_utf8(&part[..n]).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if n == 0 || length == Some(body.len()) {
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                    kept.lock().unwrap().push(serde_json::from_str(body).unwrap());
                    break;
                }
            }
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (format!("http://{address}"), got)
}

async fn get(address: std::net::SocketAddr, path: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut out = String::new();
    stream.read_to_string(&mut out).await.unwrap();
    out
}

/// A server that sends its spans there, until `stop`.
async fn traced(
    endpoint: String,
) -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let config = Config { port: 0, otlp_endpoint: Some(endpoint), ..Config::default() };
    let entries = vec![entry("builtin", "builtin", Task::Generate, Size::default())];
    let mut app = App::new(config, Models::new(entries, 1).unwrap());
    app.traces = Traces::new(app.config.otlp_endpoint.as_deref()).unwrap();
    let server = Server::bind(app).await.unwrap();
    let address = server.address().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    (address, stop, tokio::spawn(server.run(Box::pin(async move { _ = stopped.await }))))
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|a| a["key"] == key);
    &found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_say_what_happened_and_nothing_that_was_written() {
    let (endpoint, got) = collector(200).await;
    let (address, stop, over) = traced(endpoint).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = r#"{"model":"builtin","prompt":"Once upon a secret","max_tokens":5}"#;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let ask = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntraceparent: {parent}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    get(address, "/v1/none", "").await;
    // Whoever asked says that this trace is not recorded.
    get(address, "/v1/models", &format!("traceparent: {}\r\n", parent.replace("-01", "-00"))).await;
    _ = stop.send(());
    tokio::time::timeout(Duration::from_secs(20), over).await.unwrap().unwrap();

    let messages = got.lock().unwrap().clone();
    let service = &messages[0]["resourceSpans"][0]["resource"];
    assert_eq!(attribute(service, "service.name")["stringValue"], "alula");
    let spans: Vec<&Value> =
        messages.iter().flat_map(|m| m["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()).collect();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let span = spans.iter().find(|s| s["name"] == "text_completion builtin").unwrap();
    assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
    let nanos = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(nanos("startTimeUnixNano") < nanos("endTimeUnixNano"));
    assert_eq!(attribute(span, "gen_ai.usage.output_tokens")["intValue"], "5");
    assert_eq!(attribute(span, "gen_ai.response.finish_reasons")["arrayValue"]["values"][0]["stringValue"], "length");
    assert_eq!(attribute(span, "http.response.status_code")["intValue"], "200");
    assert!(!serde_json::to_string(&messages).unwrap().contains("secret"));
    let other = spans.iter().find(|s| s["name"] == "GET (none)").unwrap();
    assert_ne!(other["traceId"], span["traceId"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_holds_up_nobody() {
    let (endpoint, _got) = collector(503).await;
    let (address, _stop, _over) = traced(endpoint).await;
    for _ in 0..100 {
        let metrics = get(address, "/metrics", "").await;
        let dropped = metrics.lines().find_map(|l| l.strip_prefix("alula_spans_dropped_total ")?.parse().ok());
        if dropped.unwrap_or(0) > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("nobody counts the spans that were refused");
}
