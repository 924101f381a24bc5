//! `/metrics`: every line parses, and the numbers are those of what was asked.

mod common;

use alula_server::Config;
use common::{app, ask, builtin};
use std::collections::HashMap;

/// Series by name and labels; panics where Prometheus' parser would refuse.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut out = HashMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
            family = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&family), "{line} is not of {family}");
            assert!(out.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    out
}

#[tokio::test]
async fn counts_are_those_of_known_requests() {
    let app = app(Config { metrics_per_key: true, ..Config::default() }, vec![builtin(2, 8)]);
    let body = r#"{"prompt":[1,2,3,4,5],"max_tokens":4,"ignore_eos":true,"seed":1}"#;
    for _ in 0..3 {
        assert_eq!(ask(&app, "POST", "/v1/completions", &[], body).await.status, 200);
    }
    assert_eq!(ask(&app, "POST", "/v1/completions", &[], "{").await.status, 400);
    let answer = ask(&app, "GET", "/metrics", &[], "").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    if let Some(path) = std::env::var_os("ALULA_METRICS_OUT") {
        std::fs::write(path, &answer.text).unwrap();
    }
    let seen = parse(&answer.text);
    let get = |name: &str| *seen.get(name).unwrap_or_else(|| panic!("no {name} in\n{}", answer.text));
    let (own, vllm) = ("model=\"m\"", "model_name=\"m\",engine=\"0\"");
    for (name, value) in [("time_to_first_token_seconds", 3.0), ("request_prompt_tokens", 3.0)] {
        assert_eq!(get(&format!("alula_{name}_count{{{own}}}")), value);
        assert_eq!(get(&format!("vllm:{name}_count{{{vllm}}}")), value);
    }
    assert_eq!(get(&format!("alula_request_prompt_tokens_sum{{{own}}}")), 15.0);
    assert_eq!(get(&format!("alula_request_generated_tokens_sum{{{own}}}")), 12.0);
    assert_eq!(get(&format!("alula_request_generated_tokens_bucket{{{own},le=\"2\"}}")), 0.0);
    assert_eq!(get(&format!("alula_request_generated_tokens_bucket{{{own},le=\"5\"}}")), 3.0);
    assert_eq!(get(&format!("alula_request_generated_tokens_bucket{{{own},le=\"+Inf\"}}")), 3.0);
    assert_eq!(get(&format!("alula_inter_token_seconds_count{{{own}}}")), 9.0);
    assert_eq!(get(&format!("vllm:generation_tokens_total{{{vllm}}}")), 12.0);
    assert_eq!(get(&format!("vllm:prefix_cache_queries_total{{{vllm}}}")), 15.0);
    assert_eq!(get(&format!("vllm:request_success_total{{{vllm},finished_reason=\"length\"}}")), 3.0);
    assert_eq!(get(&format!("vllm:num_requests_running{{{vllm}}}")), 0.0);
    assert_eq!(get(&format!("vllm:num_requests_waiting{{{vllm}}}")), 0.0);
    assert_eq!(get(&format!("vllm:kv_cache_usage_perc{{{vllm}}}")), 0.0);
    assert_eq!(get("alula_http_requests_total{route=\"/v1/completions\",status=\"200\"}"), 3.0);
    assert_eq!(get("alula_http_requests_total{route=\"/v1/completions\",status=\"400\"}"), 1.0);
    assert_eq!(get("alula_key_generated_tokens_total{key=\"\"}"), 12.0);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let app = app(Config::default(), vec![builtin(1, 1)]);
    let body = r#"{"prompt":[1,2,3],"max_tokens":200,"ignore_eos":true,"n":8}"#;
    let full = ask(&app, "POST", "/v1/completions", &[], body).await;
    assert_eq!((full.status.as_u16(), full.json()["error"]["code"].as_str()), (429, Some("queue_full")));
    assert!(full.headers.contains_key("retry-after"));
    let seen = parse(&ask(&app, "GET", "/metrics", &[], "").await.text);
    assert_eq!(seen["alula_queue_refusals_total{model=\"m\"}"], 1.0);
}
