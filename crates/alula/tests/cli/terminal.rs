//! `alula chat` at a terminal, which `script` plays.

use crate::common::*;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A terminal with the binary in it.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// `None`, with a word about it, where there is no `script`.
    fn start(line: &str) -> Option<Terminal> {
        if Command::new("script").arg("--version").output().is_err() {
            println!("skipped: there is no `script` to play a terminal");
            return None;
        }
        // Whatever is in this process's environment that `command` takes away, it takes away here too.
        let like = command(&[]);
        let mut c = Command::new("script");
        for (name, value) in like.get_envs() {
            match value {
                Some(value) => c.env(name, value),
                None => c.env_remove(name),
            };
        }
        let line = format!("stty cols 60 rows 20; exec '{}' {line}", env!("CARGO_BIN_EXE_alula"));
        c.args(["-q", "-e", "-c", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env("SHELL", "/bin/sh");
        let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Some(Terminal { child, keys, screen, seen: String::new() })
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for a text that has not been waited for before, and gives what came before it.
    #[track_caller]
    fn wait(&mut self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("{text:?} never came; on the screen: {:?}", self.seen),
            }
        }
    }

    fn code(mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        drop(self.keys);
        code
    }
}

#[test]
fn ctrl_c_stops_the_answer_and_ctrl_d_the_program() {
    let Some(mut t) = Terminal::start("chat --temp 0 --logit-bias 1=-inf,3=-inf") else { return };
    t.wait(">>> ");
    t.keys("Tell me a story.\r");
    t.wait("\r\n");
    t.wait(" "); // a first word
    t.keys("\x03");
    t.wait("alula: stopped");
    t.wait(">>> ");
    t.keys("\x03");
    t.wait("/exit leaves");
    t.wait(">>> ");
    t.keys("\x1b[A"); // the line before
    t.wait("Tell me a story.");
    t.keys("\x15/stats\r");
    t.wait("turns    1\r");
    t.wait(">>> ");
    t.keys("\x04");
    assert_eq!(t.code(), Some(0));
}

#[test]
fn lines_are_edited() {
    let file = folder("terminal").join("talk.json");
    let Some(mut t) = Terminal::start("chat --temp 0 -n 3") else { return };
    t.wait(">>> ");
    t.keys("ello\x01H\x05!\r"); // to the beginning, to the end
    t.wait(">>> ");
    t.keys("\"\"\"\rone\rtwo\r\"\"\"\r");
    t.wait("... ");
    t.wait(">>> ");
    t.keys("\x1b[200~pasted\nlines\x1b[201~\r");
    t.wait(">>> ");
    t.keys(&format!("/save {}\r", file.display()));
    t.wait("3 turns written");
    t.keys("/exit\r");
    assert_eq!(t.code(), Some(0));
    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let said: Vec<&str> =
        saved["messages"].as_array().unwrap().iter().step_by(2).map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["Hello!", "one\ntwo", "pasted\nlines"]);
}
