//! What was computed for one request serves the next, with the same bits.

use crate::common::Served;
use alula_server::Config;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_request_finds_what_the_first_has_computed() {
    let server = Served::start(Config::default(), 4, None).await;
    let text = "Once upon a time, there was a small bird who could not fly. ".repeat(12);
    let body = json!({"prompt": text, "max_tokens": 24, "temperature": 0, "logprobs": 3});
    let (_, first) = server.post("/v1/completions", &body).await;
    let (_, second) = server.post("/v1/completions", &body).await;
    let cached = |v: &serde_json::Value| v["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let tokens = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(cached(&first), 0);
    assert!(cached(&second) + 64 >= tokens && cached(&second) < tokens, "{} of {tokens}", cached(&second));
    assert_eq!(first["choices"], second["choices"]);
    server.over().await;
}
