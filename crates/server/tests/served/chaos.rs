//! Many requests, of which some go away, some are wrong, and some meet the end of the server: every one has exactly one end,
//! what it says is what it says alone, and nothing is kept of it.

use crate::common::{Served, connect, post, whole};
use alula_server::Config;
use alula_server::models::Kind;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It was answered, rightly.
    Answered,
    /// Its client went away.
    Left,
    /// It was wrong, and refused for that.
    Refused,
    /// The server was full or stopping, and said so.
    Unavailable,
    /// The server takes no more connections.
    Closed,
}

/// Numbers that look random, the same ones every time (Steele et al. 2014).
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}

const PROMPTS: [&str; 4] = ["Once upon a time", "The bird said", "One day, a girl named", "In the garden there was"];

/// The body of a kind of request.
fn body(kind: u64, stream: bool) -> Value {
    let (prompt, seed) = (PROMPTS[(kind % 4) as usize], kind / 4 % 3);
    let mut body = json!({"prompt": prompt, "max_tokens": 8 + kind % 5 * 6, "seed": seed, "stream": stream});
    if kind.is_multiple_of(7) {
        // Long enough to share pages, and to be cut in pieces.
        body["prompt"] = PROMPTS.join(". ").repeat(9).into();
    }
    body
}

/// Kinds of requests that there are.
const KINDS: u64 = 420;

/// The text of a stream of events, and whether it has its end.
fn said(bytes: &[u8]) -> (String, Option<Value>, bool) {
    let (mut text, mut error, mut done) = (String::new(), None, 0);
    for line in std::str::from_utf8(bytes).unwrap().lines().filter_map(|l| l.strip_prefix("data: ")) {
        assert_eq!(done, 0, "nothing comes after the end");
        if line == "[DONE]" {
            done += 1;
            continue;
        }
        let event: Value = serde_json::from_str(line).unwrap();
        if event.get("error").is_some() {
            error = Some(event);
            done += 1;
            continue;
        }
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
    }
    (text, error, done == 1)
}

async fn one(address: SocketAddr, n: u64, expected: &BTreeMap<u64, String>) -> Fate {
    let mut random = random(n);
    let (kind, stream) = (random(KINDS), random(2) == 0);
    let Ok(mut connection) = connect(address).await else { return Fate::Closed };
    let (what, text) = match random(10) {
        0 => (
            0,
            ["{", "{\"prompt\": 3}", "{\"prompt\": \"x\", \"foo\": 1}", "[]", "\"\u{0}\""][random(5) as usize]
                .to_owned(),
        ),
        1..=3 => (1, body(kind, stream).to_string()),
        _ => (2, body(kind, stream).to_string()),
    };
    let request = connection.send_request(post("/v1/completions", text));
    if what == 1 {
        // Leaves before, at or after the first bytes.
        let patience = Duration::from_millis(random(40));
        if let Ok(Ok(response)) = tokio::time::timeout(patience, request).await {
            let mut body = response.into_body();
            for _ in 0..random(4) {
                _ = tokio::time::timeout(patience, body.frame()).await;
            }
        }
        return Fate::Left;
    }
    let Ok(response) = request.await else { return Fate::Closed };
    let status = response.status().as_u16();
    let bytes = whole(response).await.expect("an answer that began has an end");
    if what == 0 {
        assert!(matches!(status, 400 | 503), "{status}");
        return if status == 400 { Fate::Refused } else { Fate::Unavailable };
    }
    match status {
        200 if stream => {
            let (text, error, done) = said(&bytes);
            assert!(done, "a stream without an end: {text}");
            if error.is_some() {
                assert!(expected[&kind].starts_with(&text));
                return Fate::Unavailable;
            }
            assert_eq!(text, expected[&kind], "kind {kind}");
            Fate::Answered
        }
        200 => {
            let answer: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(answer["choices"][0]["text"], expected[&kind].as_str(), "kind {kind}");
            Fate::Answered
        }
        429 | 503 => Fate::Unavailable,
        _ => panic!("status {status}: {}", String::from_utf8_lossy(&bytes)),
    }
}

/// 300 requests; `ALULA_REQUESTS` asks for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_end() {
    let requests: u64 = std::env::var("ALULA_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let config = Config { drain_timeout: Duration::from_millis(300), ..Config::default() };
    // Twelve pages are fewer than the requests that run want: some give way and come back.
    let mut server = Served::start(config, 8, Some(12)).await;
    let mut expected = BTreeMap::new();
    for kind in 0..KINDS.min(requests * 2) {
        let (status, answer) = server.post("/v1/completions", &body(kind, false)).await;
        assert_eq!(status, 200, "{answer}");
        expected.insert(kind, answer["choices"][0]["text"].as_str().unwrap().to_owned());
    }
    let (expected, address) = (Arc::new(expected), server.address);
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let (next, expected) = (Arc::clone(&next), Arc::clone(&expected));
            tokio::spawn(async move {
                let mut fates = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if n >= requests {
                        return fates;
                    }
                    fates.push(one(address, n, &expected).await);
                }
            })
        })
        .collect();
    while (next.load(Ordering::Relaxed) as u64) < requests * 9 / 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Before the end, everybody who is left is served, and what others had is free again.
    server.stop();
    let mut fates = BTreeMap::new();
    for client in clients {
        for fate in client.await.unwrap() {
            *fates.entry(fate).or_insert(0u64) += 1;
        }
    }
    assert_eq!(fates.values().sum::<u64>(), requests, "{fates:?}");
    for fate in [Fate::Answered, Fate::Left, Fate::Refused, Fate::Closed] {
        assert!(fates.contains_key(&fate), "{fates:?}");
    }
    let app = Arc::clone(&server.app);
    server.over().await;
    let found = app.models.find(None).await.unwrap();
    let Kind::Writer(writer) = &found.model.kind else { panic!("it writes") };
    let load = writer.worker.load().await.unwrap();
    assert_eq!((load.running, load.waiting, load.pages.used), (0, 0, 0), "{load:?}");
    assert_eq!(load.pages.cached + load.pages.free, load.pages.total);
}
