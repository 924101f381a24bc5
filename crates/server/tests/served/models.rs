//! Models are loaded once, no more at a time than was said, and none is forgotten while it writes.

use crate::base::{CONTEXT, Size, load};
use crate::common::{Served, post};
use alula_server::Config;
use alula_server::models::{Entry, Facts, Kind, Models, Task};
use http_body_util::BodyExt;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(150);
const LATE: Duration = Duration::from_secs(20);

/// Models of these names, of which `most` are loaded at a time, each in 50 ms; and how many loads began.
fn models(names: &[&str], most: usize) -> (Arc<Models>, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let entry = |name: &&str| {
        let loads = Arc::clone(&loads);
        let slow = move || {
            loads.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            Ok(load("builtin", Task::Generate, Size { running: 1, ..Size::default() }))
        };
        Entry::new((*name).to_owned(), Vec::new(), Facts { context: CONTEXT, ..Facts::default() }, Box::new(slow))
    };
    let models = Models::new(names.iter().map(entry).collect(), most).unwrap();
    (Arc::new(models), loads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_loaded_than_may_be_also_when_all_are_busy() {
    let (models, loads) = models(&["a", "b"], 1);
    let busy = models.find(Some("a")).await.unwrap();
    let other = tokio::spawn({
        let models = Arc::clone(&models);
        async move { models.find(Some("b")).await.map(|found| found.name) }
    });
    sleep(SOON).await;
    assert_eq!(loads.load(Ordering::Relaxed), 1, "the second waits until nobody has the first");
    drop(busy);
    assert_eq!(timeout(LATE, other).await.unwrap().unwrap().unwrap(), "b");
    let loaded: Vec<&str> = models.entries().iter().filter(|e| models.loaded(e)).map(|e| e.name.as_str()).collect();
    assert_eq!((loaded, loads.load(Ordering::Relaxed)), (vec!["b"], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_starts_no_second_load() {
    let (models, loads) = models(&["a"], 1);
    for _ in 0..10 {
        assert!(timeout(Duration::from_millis(2), models.find(Some("a"))).await.is_err());
    }
    models.find(Some("a")).await.unwrap();
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_reaches_answers_of_a_model_that_was_let_go() {
    let server = Served::start(Config::default(), 2, None).await;
    let body = json!({"prompt": "a", "max_tokens": 500, "ignore_eos": true, "stream": true});
    let mut connection = server.connect().await.unwrap();
    let mut response = connection.send_request(post("/v1/completions", body.to_string())).await.unwrap();
    response.frame().await.unwrap().unwrap();
    assert!(server.app.models.release(&server.app.models.entries()[0]));
    server.app.models.stop("all ends here");
    let text = crate::common::whole(response).await.unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(text.trim_end().ends_with('}') && text.contains("all ends here"), "{text}");
    server.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_grammars_are_made_ready_at_a_time_and_nobody_else_waits_for_them() {
    let server = Served::start(Config::default(), 4, None).await;
    let found = server.app.models.find(None).await.unwrap();
    let Kind::Writer(writer) = &found.model.kind else { panic!("it writes") };
    let places = writer.grammars.available_permits();
    assert!(places >= 1 && places <= std::thread::available_parallelism().unwrap().get());
    let all = Arc::clone(&writer.grammars).acquire_many_owned(places.try_into().unwrap()).await.unwrap();
    let ask = |body| server.post("/v1/chat/completions", body);
    let plain = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
    let mut held = plain.clone();
    held["response_format"] = json!({"type": "regex", "regex": "[0-9]{3}"});
    assert!(timeout(SOON, ask(&held)).await.is_err());
    assert_eq!(timeout(LATE, ask(&plain)).await.unwrap().0, 200);
    drop(all);
    assert_eq!(timeout(LATE, ask(&held)).await.unwrap().0, 200);
    drop(found);
    server.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grammar_that_cannot_be_held_is_the_askers_fault() {
    let server = Served::start(Config::default(), 2, None).await;
    // Arguments that hold themselves for ever have no end.
    let parameters = json!({"$ref": "#"});
    let body = json!({
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}],
        "tool_choice": "required", "max_tokens": 100, "seed": 1,
    });
    let (status, answer) = server.post("/v1/chat/completions", &body).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("constraint_failed")), "{answer}");
    server.over().await;
}
