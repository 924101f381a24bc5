//! `alula serve` as whoever runs it sees it.

use crate::cache::Place;
use crate::common::command;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server of a model on a free port, what it says, and its address.
fn start(model: &str) -> (Child, BufReader<std::process::ChildStderr>, String) {
    started(command(&["serve", model, "--port", "0"]))
}

fn started(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
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
    let (mut child, mut said, address) = start("builtin");
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

/// Sends a request for text and gives the connection.
fn ask(address: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    stream
}

#[test]
fn a_file_that_is_written_to_ends_answers_and_is_loaded_anew() {
    let whole = include_bytes!("../../assets/builtin.gguf");
    let path = std::env::temp_dir().join(format!("alula-written-{}.gguf", std::process::id()));
    std::fs::write(&path, whole).expect("a file");
    let (mut child, _said, address) = start(&format!("m={}", path.display()));
    let text = || {
        let mut answer = String::new();
        let body = r#"{"model": "m", "prompt": "Once", "temperature": 0, "max_tokens": 8}"#;
        ask(&address, body).read_to_string(&mut answer).expect("an answer");
        answer
    };
    let said = |answer: &str| {
        answer.split_once("\"text\":").map(|(_, text)| text.split_once("logprobs").expect("a choice").0.to_owned())
    };
    let first = said(&text()).expect("a text");
    let body = r#"{"model": "m", "prompt": "a", "max_tokens": 500, "ignore_eos": true, "n": 128, "stream": true}"#;
    let mut stream = ask(&address, body);
    let mut begun = [0; 600];
    stream.read_exact(&mut begun).expect("an answer begins");
    let file = File::options().write(true).open(&path).expect("the file");
    file.set_len(0).expect("it is cut");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("an end");
    assert!(rest.contains("was written to"), "{}", &rest[rest.len().saturating_sub(300)..]);
    let answer = text();
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("cannot be loaded"), "{answer}");
    std::fs::write(&path, whole).expect("the file");
    assert_eq!(said(&text()).as_ref(), Some(&first));
    assert!(child.try_wait().expect("its state").is_none(), "it serves on");
    std::fs::remove_file(&path).expect("removed");
    signal(&child, "-INT");
    assert!(child.wait().expect("its end").success());
}

#[test]
fn a_file_of_packed_weights_that_is_cut_is_made_anew() {
    let place = Place::new("packed-written");
    place.say(&[]);
    let packed = place.file();
    let whole = std::fs::read(&packed).expect("packed weights");
    let model = place.model.to_str().expect("a name");
    let mut first = None;
    for write in ["cut", "cut in the middle of answers"] {
        let (mut child, _said, address) = started(place.command(&["serve", model, "--port", "0"]));
        let mut text = || {
            let mut answer = String::new();
            let body = r#"{"prompt": "ab", "temperature": 0, "max_tokens": 8}"#;
            ask(&address, body).read_to_string(&mut answer).expect("an answer");
            let said = answer.split_once("\"text\":").expect("a text").1.split_once("logprobs").expect("a choice").0;
            assert_eq!(*first.get_or_insert(said.to_owned()), said, "{write}");
        };
        text();
        let body = r#"{"prompt": "a", "max_tokens": 100, "ignore_eos": true, "n": 128, "stream": true}"#;
        let stream = write.ends_with("answers").then(|| {
            let mut stream = ask(&address, body);
            stream.read_exact(&mut [0; 600]).expect("an answer begins");
            stream
        });
        File::options().write(true).open(&packed).and_then(|f| f.set_len(100)).expect("it is cut");
        if let Some(mut stream) = stream {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).expect("an end");
            assert!(rest.contains("packed weights was cut"), "{}", &rest[rest.len().saturating_sub(300)..]);
        }
        text();
        let began = Instant::now();
        while std::fs::read(&packed).expect("packed weights") != whole {
            assert!(began.elapsed() < Duration::from_secs(60), "{write}: it is not made anew");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(child.try_wait().expect("its state").is_none(), "it serves on");
        signal(&child, "-INT");
        assert!(child.wait().expect("its end").success());
    }
}
