//! Clients that mean harm: memory stays bounded, they are dropped, and others are served.

mod common;

use alula_server::models::{Entry, Facts};
use alula_server::{App, Config};
use common::listen;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Short times, so that the test is short.
fn config() -> Config {
    let short = Duration::from_millis(500);
    Config { header_timeout: short, body_timeout: short, write_timeout: short, max_body: 1 << 20, ..Config::default() }
}

/// Models that are never loaded, whose list is about `kilobytes` long.
fn names(kilobytes: usize) -> Vec<Entry> {
    let load = || Box::new(|| Err("never".into()));
    (0..kilobytes)
        .map(|i| Entry::new(format!("{i}-{}", "x".repeat(1000)), Vec::new(), Facts::default(), load()))
        .collect()
}

/// What comes back until the other side ends or `limit` passes; none if it did not end.
async fn converse(address: SocketAddr, bytes: &[u8], limit: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Who is refused while still writing may find the door shut.
    _ = stream.write_all(bytes).await;
    let mut out = Vec::new();
    match tokio::time::timeout(limit, stream.read_to_end(&mut out)).await {
        Ok(_) => Some(out),
        Err(_) => None,
    }
}

/// The status of an answer's first line; 0 if there was none.
fn status(answer: &[u8]) -> u16 {
    std::str::from_utf8(answer.get(9..12).unwrap_or(b"0")).unwrap().parse().unwrap()
}

async fn well(address: SocketAddr) {
    let began = Instant::now();
    let ask = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = converse(address, ask, Duration::from_secs(5)).await.expect("others are served");
    assert_eq!(status(&answer), 200);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// Resident bytes of this process.
fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

async fn closed(app: &Arc<App>, before: usize) {
    // A request that is over is counted when its last part is dropped.
    for _ in 0..100 {
        if Arc::strong_count(app) <= before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} still hold the app", Arc::strong_count(app));
}

#[tokio::test]
async fn slow_heads_and_bodies_end() {
    let (address, _app, _stop) = listen(config(), Vec::new()).await;
    let began = Instant::now();
    let limit = Duration::from_secs(5);
    let body =
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let (nothing, half, slow) = tokio::join!(
        converse(address, b"", limit),
        converse(address, b"GET /v1/models HTTP/1.1\r\nhost: loc", limit),
        converse(address, body, limit),
    );
    assert!(nothing.is_some() && half.is_some(), "half-open sockets are closed");
    assert_eq!(status(&slow.expect("a slow body ends")), 408);
    assert!(began.elapsed() < Duration::from_secs(4));
    // A byte now and then does not help.
    let mut drip = TcpStream::connect(address).await.unwrap();
    let mut sent = 0;
    for byte in
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy".iter()
    {
        if drip.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(sent < 40, "{sent} bytes of a slow head were taken");
}

#[tokio::test]
async fn many_slow_clients_leave_room_for_others() {
    let config = Config { max_connections: 50, ..config() };
    let (address, _app, _stop) = listen(config, Vec::new()).await;
    let before = memory();
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ").await;
        held.push(stream);
    }
    let ask = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer =
        converse(address, ask, Duration::from_secs(20)).await.expect("served after those before have timed out");
    assert_eq!(status(&answer), 200);
    assert!(memory().saturating_sub(before) < 64 << 20);
}

#[tokio::test]
async fn large_heads_are_refused() {
    let (address, _app, _stop) = listen(config(), Vec::new()).await;
    let before = memory();
    let limit = Duration::from_secs(5);
    let one = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(20_000));
    let path = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "z".repeat(100_000));
    let mut long = b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ".to_vec();
    long.resize(32 << 20, b'y');
    for head in [one.as_bytes(), many.as_bytes(), path.as_bytes(), &long] {
        let answer = converse(address, head, limit).await.expect("it is ended");
        assert!([0, 400, 414, 431].contains(&status(&answer)), "{}", status(&answer));
    }
    well(address).await;
    assert!(memory().saturating_sub(before) < 100 << 20, "32 MB of them are this test's own");
}

#[tokio::test]
async fn large_and_compressed_bodies_are_refused() {
    let (address, _app, _stop) = listen(config(), Vec::new()).await;
    let limit = Duration::from_secs(5);
    let head = |more: &str| {
        format!(
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{more}\r\n"
        )
    };
    let mut chunks = head("transfer-encoding: chunked\r\n").into_bytes();
    for _ in 0..64 {
        chunks.extend(format!("10000\r\n{}\r\n", " ".repeat(0x10000)).bytes());
    }
    for (request, want) in [
        (head("content-encoding: gzip\r\ncontent-length: 3\r\n").into_bytes(), 415),
        (head("content-encoding: br\r\ncontent-length: 3\r\n").into_bytes(), 415),
        (head("content-length: 9999999999\r\n").into_bytes(), 413),
        (chunks, 413),
    ] {
        let answer = converse(address, &request, limit).await.expect("it is ended");
        // A reset may overtake the answer to who still writes.
        assert!([want, 0].contains(&status(&answer)), "{want}: {}", String::from_utf8_lossy(&answer));
    }
    well(address).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let (address, _app, _stop) = listen(config(), Vec::new()).await;
    for (request, most) in [
        (&b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"[..], 499),
        (b"GET /v1/models/%ff%fe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 499),
        (b"GET /v1/models/%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", 499),
        (b"GET /v1/models HTTP/1.1\r\nhost: \xff\r\nconnection: close\r\n\r\n", 499),
        (b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer \xff\xfe\r\nconnection: close\r\n\r\n", 200),
        (b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-request-id: \xff\r\nconnection: close\r\n\r\n", 200),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 499),
        (b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 4\r\nconnection: close\r\n\r\n\"\xff\xff\"", 499),
        (b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n", 499),
    ] {
        let answer = converse(address, request, Duration::from_secs(5)).await.expect("it is ended");
        assert!(status(&answer) <= most, "{}: {}", String::from_utf8_lossy(request), String::from_utf8_lossy(&answer));
        well(address).await;
    }
}

/// Each answer is 2 MB and would be made 1,000 times; nobody reads.
#[tokio::test]
async fn who_does_not_read_is_dropped() {
    let (address, app, _stop) = listen(config(), names(2000)).await;
    well(address).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (before, quiet) = (memory(), Arc::strong_count(&app));
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let ask = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
        _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(ask.as_bytes())).await;
        idle.push(stream);
    }
    well(address).await;
    assert!(memory().saturating_sub(before) < 256 << 20, "{}", memory() - before);
    closed(&app, quiet).await;
    well(address).await;
}

#[tokio::test]
async fn connections_outlive_refusals_or_say_that_they_end() {
    let (address, _app, _stop) = listen(config(), Vec::new()).await;
    for (length, stays) in [(10, true), (40_000, true), (200_000, false)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The body comes when its refusal may already be on its way.
        tokio::time::sleep(Duration::from_millis(100)).await;
        _ = stream.write_all(&vec![b'x'; length]).await;
        let mut answer = vec![0; 4096];
        let n = stream.read(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..n]).to_lowercase();
        assert!(text.starts_with("http/1.1 415"), "{text}");
        assert_eq!(text.contains("connection: close"), !stays, "{text}");
        if stays {
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let n = stream.read(&mut answer).await.unwrap();
            assert_eq!(status(&answer[..n]), 200);
        }
    }
}
