//! `alula serve` as whoever runs it sees it.

use crate::common::command;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server on a free port, what it says, and its address.
fn start() -> (Child, BufReader<std::process::ChildStderr>, String) {
    let mut child = command(&["serve", "--port", "0"]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended");
    }
    let address = line.trim_end().rsplit_once("http://").expect("its address").1.to_owned();
    (child, said, address)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill").success());
}

#[test]
fn a_second_signal_ends_all_answers_at_once() {
    let (mut child, mut said, address) = start();
    let body = r#"{"prompt": "a", "max_tokens": 500, "ignore_eos": true, "n": 128, "stream": true}"#;
    let mut stream = TcpStream::connect(&address).expect("a connection");
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    let mut first = [0; 600];
    stream.read_exact(&mut first).expect("an answer begins");
    signal(&child, "-INT");
    let mut line = String::new();
    while !line.contains("SIGINT") {
        line.clear();
        assert!(said.read_line(&mut line).expect("text") > 0, "it ended");
    }
    assert!(child.try_wait().expect("its state").is_none(), "answers under way may end");
    let began = Instant::now();
    signal(&child, "-INT");
    let mut rest = String::new();
    _ = stream.read_to_string(&mut rest);
    assert!(child.wait().expect("its end").success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(rest.contains("the server is shutting down"), "{}", &rest[rest.len().saturating_sub(300)..]);
}
