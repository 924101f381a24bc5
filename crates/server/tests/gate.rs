//! Who may come in, and for how much.

mod common;

use alula_server::keys::{Entry, KeyFile};
use alula_server::limits::Limits;
use alula_server::routes::{ROUTES, Scope};
use alula_server::{App, Config, models::Models};
use base64::prelude::{BASE64_STANDARD, Engine};
use common::{app, ask, builtin};
use std::path::PathBuf;

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":3,"seed":1}"#;

/// Whether an error says this, in a dialect whose errors have codes.
fn is(answer: &common::Answer, code: &str) -> bool {
    let error = &answer.json()["error"];
    error["code"].as_str().map_or(!error.is_null(), |c| c == code)
}

/// A key file and the keys in it: one for each scope, in order `infer`, `metrics`.
struct Folder(PathBuf, Vec<String>);

impl Folder {
    fn new(limits: Limits) -> Folder {
        let path =
            std::env::temp_dir().join(format!("alula-gate-{:?}-{}", std::thread::current().id(), std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let mut file = KeyFile::default();
        let mut key = |name: &str, scope| {
            let (name, sha256, scopes) = (name.to_owned(), String::new(), vec![scope]);
            file.create(Entry { name, sha256, scopes, created: 0, expires: None, priority: 0, limits }).unwrap()
        };
        let keys = vec![key("user", Scope::Infer), key("prometheus", Scope::Metrics)];
        file.write(&path.join("keys.toml")).unwrap();
        Folder(path, keys)
    }

    fn config(&self) -> Config {
        Config { keys: Some(self.0.join("keys.toml")), ..Config::default() }
    }

    fn bearer(&self, at: usize) -> String {
        format!("Bearer {}", self.1[at])
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn every_route_needs_a_key_of_its_scope() {
    let folder = Folder::new(Limits::default());
    let app = app(folder.config(), Vec::new());
    for &(path, scope, _) in ROUTES {
        let path =
            path.replace("{*model}", "x").replace("{file}", "app.js").replace("{id}", "x").replace("{name}", "x");
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let nobody = ask(&app, method, &path, &[], "{}").await;
            if scope == Scope::Open {
                assert_ne!(nobody.status, 401, "{method} {path}");
                continue;
            }
            assert_eq!(nobody.status, 401, "{method} {path}");
            let challenge = nobody.headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with(if scope == Scope::Page { "Basic" } else { "Bearer" }), "{challenge}");
            assert!(is(&nobody, "missing_api_key"), "{}", nobody.text);
            let wrong = ask(&app, method, &path, &[("authorization", "Bearer alula-nonsense")], "{}").await;
            assert!(wrong.status == 401 && is(&wrong, "invalid_api_key"), "{}", wrong.text);
        }
        for (at, own) in [(0, Scope::Infer), (1, Scope::Metrics)] {
            let one = ask(&app, "GET", &path, &[("authorization", &folder.bearer(at))], "").await;
            assert_eq!(
                one.status == 403,
                !matches!(scope, Scope::Open | Scope::Page) && scope != own,
                "{path} {own:?}: {}",
                one.text
            );
            assert_ne!(one.status, 401, "{path}");
        }
    }
    for path in ["/nothing", "/v1/nothing", "/v1/models/../../metrics", "//metrics"] {
        assert_eq!(ask(&app, "GET", path, &[], "").await.status, 401, "{path}");
    }
    // As a browser sends what its user typed, from this server's own page and from another.
    let basic = |key: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("me:{key}")));
    let typed = basic(&folder.1[0]);
    assert_eq!(ask(&app, "GET", "/", &[("authorization", &typed), ("host", "h:1")], "").await.status, 200);
    for (origin, status) in [("http://h:1", 200), ("http://evil.example", 401), ("null", 401)] {
        let headers = [("authorization", typed.as_str()), ("host", "h:1"), ("origin", origin)];
        assert_eq!(ask(&app, "GET", "/v1/models", &headers, "").await.status, status, "{origin}");
    }
    for wrong in [basic("x"), "Basic %%".to_owned(), "Basic".to_owned()] {
        assert_eq!(ask(&app, "GET", "/", &[("authorization", &wrong)], "").await.status, 401, "{wrong}");
    }
    assert_eq!(ask(&app, "GET", "/nothing", &[("x-api-key", &folder.1[0])], "").await.status, 404);
    assert_eq!(ask(&app, "GET", "/v1/models", &[("X-Api-Key", &folder.1[0])], "").await.status, 200);
    assert_eq!(
        ask(&app, "GET", "/v1/models", &[("authorization", &format!("bearer  {}", folder.1[0]))], "").await.status,
        200
    );
}

#[tokio::test]
async fn every_limited_route_answers_429() {
    let limits = Limits { requests_per_minute: Some(1), ..Limits::default() };
    for &(path, scope, _) in ROUTES.iter().filter(|r| r.1 == Scope::Infer) {
        let folder = Folder::new(limits);
        let app = app(folder.config(), Vec::new());
        let path =
            path.replace("{*model}", "x").replace("{file}", "app.js").replace("{id}", "x").replace("{name}", "x");
        let key = folder.bearer(0);
        let first = ask(&app, "GET", &path, &[("authorization", &key)], "").await;
        assert_ne!(first.status, 429, "{path} {scope:?}");
        assert_eq!(first.headers["x-ratelimit-limit-requests"], "1");
        assert_eq!(first.headers["x-ratelimit-remaining-requests"], "0");
        let second = ask(&app, "GET", &path, &[("authorization", &key)], "").await;
        assert_eq!(second.status, 429, "{path}");
        let wait: u64 = second.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((50..=60).contains(&wait), "{wait}");
        assert!(is(&second, "rate_limit_exceeded"), "{}", second.text);
    }
}

#[tokio::test]
async fn tokens_are_charged_as_they_come() {
    let folder = Folder::new(Limits { tokens_per_minute: Some(60), ..Limits::default() });
    let app = app(folder.config(), vec![builtin(2, 8)]);
    let key = folder.bearer(0);
    let ask = async || ask(&app, "POST", CHAT, &[("authorization", &key)], HELLO).await;
    let first = ask().await;
    assert_eq!(first.status, 200, "{}", first.text);
    let prompt = first.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let all = first.json()["usage"]["total_tokens"].as_u64().unwrap();
    let left = app.keys().all()[0].account.prompt.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(left, prompt);
    assert_eq!(app.keys().all()[0].account.generated.load(std::sync::atomic::Ordering::Relaxed), all - prompt);
    let mut refused = None;
    for _ in 0..60 {
        let answer = ask().await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.headers["x-ratelimit-limit-tokens"], "60");
}

#[tokio::test]
async fn without_keys_only_this_machine_is_served() {
    let app = app(Config::default(), Vec::new());
    for (headers, status) in [
        (vec![("host", "localhost:8080")], 200),
        (vec![("host", "127.0.0.1")], 200),
        (vec![("host", "[::1]:1")], 200),
        (vec![("host", "evil.example")], 403),
        (vec![("host", "localhost"), ("host", "evil.example")], 400),
        (vec![("host", "127.0.0.1.evil.example:8080")], 403),
        (vec![("host", "localhost:8080"), ("origin", "http://localhost:8080")], 200),
        (vec![("host", "localhost:8080"), ("origin", "http://evil.example")], 403),
        (vec![("host", "localhost:8080"), ("origin", "null")], 403),
    ] {
        assert_eq!(ask(&app, "GET", "/v1/models", &headers, "").await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn pages_may_ask_when_allowed() {
    let open = app(Config { cors_origins: vec!["http://chat.example".into()], ..Config::default() }, Vec::new());
    let from = |origin| {
        [
            ("host", "localhost"),
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ]
    };
    let yes = ask(&open, "OPTIONS", CHAT, &from("http://chat.example"), "").await;
    assert_eq!(yes.status, 204);
    assert_eq!(yes.headers["access-control-allow-origin"], "http://chat.example");
    assert_eq!(yes.headers["access-control-allow-headers"], "authorization");
    let no = ask(&open, "OPTIONS", CHAT, &from("http://evil.example"), "").await;
    assert!(no.status == 403 && !no.headers.contains_key("access-control-allow-origin"));
    let get = ask(&open, "GET", "/v1/models", &from("http://chat.example")[..2], "").await;
    assert!(get.status == 200 && get.headers["access-control-allow-origin"] == "http://chat.example");
    let closed = app(Config::default(), Vec::new());
    let none = ask(&closed, "GET", "/v1/models", &[("host", "localhost"), ("origin", "http://localhost")], "").await;
    assert!(none.status == 200 && !none.headers.contains_key("access-control-allow-origin"));
}

#[test]
fn other_addresses_need_keys() {
    let any = Config { host: "0.0.0.0".parse().unwrap(), ..Config::default() };
    let fits = |config: &Config| {
        let app = App::new(config.clone(), Models::new(Vec::new(), 1).unwrap());
        app.reload(config).map(|_| ())
    };
    assert!(fits(&any).unwrap_err().to_string().contains("--insecure"));
    fits(&Config { insecure: true, ..any.clone() }).unwrap();
    fits(&Config { api_keys: vec!["k".into()], ..any.clone() }).unwrap();
    fits(&Config::default()).unwrap();
    // Keys that were not read yet let nobody in.
    let app = App::new(Config { api_keys: vec!["k".into()], ..any }, Models::new(Vec::new(), 1).unwrap());
    assert!(app.keys().needed() && app.keys().find("k").is_none());
}

#[tokio::test]
async fn reloading_changes_keys_or_nothing() {
    let folder = Folder::new(Limits::default());
    let app = app(folder.config(), Vec::new());
    let status =
        async |at: usize| ask(&app, "GET", "/v1/models", &[("x-api-key", &folder.1[at])], "").await.status.as_u16();
    assert_eq!(status(0).await, 200);
    let path = folder.0.join("keys.toml");
    let good = KeyFile::read(&path).unwrap();
    std::fs::write(&path, "[[key]]\nname = 1").unwrap();
    assert!(app.reload(&app.config).is_err());
    assert_eq!(status(0).await, 200, "a broken file changes nothing");
    let mut fewer = good.clone();
    fewer.remove("user").unwrap();
    fewer.write(&path).unwrap();
    assert_eq!(app.reload(&app.config).unwrap(), ["key `user` removed"]);
    assert_eq!((status(0).await, status(1).await), (401, 403));
    KeyFile::default().write(&path).unwrap();
    app.reload(&app.config).unwrap();
    assert_eq!(status(0).await, 401, "a file without keys opens nothing");
}

#[tokio::test]
async fn requests_have_names() {
    let app = app(Config::default(), Vec::new());
    let given = ask(&app, "GET", "/v1/models", &[("x-request-id", "mine-1")], "").await;
    assert_eq!(given.headers["x-request-id"], "mine-1");
    let long = "x".repeat(500);
    let made = ask(&app, "GET", "/v1/models", &[("x-request-id", &long)], "").await;
    assert!(made.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
}
