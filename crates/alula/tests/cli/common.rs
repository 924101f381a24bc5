//! Runs the binary, and makes files for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Standard output of a run that succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// A run that failed as it should: exit code 1, one sentence, nothing on standard output.
    #[track_caller]
    pub fn refused(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.err.starts_with("alula: ") && self.err.lines().count() == 1, "{self:?}");
        self.err
    }

    /// A command line that makes no sense.
    #[track_caller]
    pub fn usage(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(2), ""), "{self:?}");
        self.err
    }

    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }
}

/// A folder for one test, empty.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// The binary, apart from the person's own settings; only the instruction set may be chosen from outside.
pub fn command(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_alula"));
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nowhere");
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("ALULA_") && n != "ALULA_ISA") {
        c.env_remove(name);
    }
    c.args(args).env("ALULA_MODELS", &nowhere).env("XDG_STATE_HOME", &nowhere).env_remove("NO_COLOR");
    c.env("ALULA_NO_CACHE", "1");
    c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// Runs a command with this on standard input.
pub fn run_with(mut c: Command, input: &[u8]) -> Ran {
    let mut child = c.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // It may end without reading all of it.
    let writer = std::thread::spawn(move || _ = stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    let text = |b: Vec<u8>| String::from_utf8(b).expect("UTF-8");
    let ran = Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!ran.err.contains("panicked") && !ran.err.contains("RUST_BACKTRACE"), "{ran:?}");
    ran
}

/// Runs the binary with this on standard input.
pub fn with_input(args: &[&str], input: &[u8]) -> Ran {
    run_with(command(args), input)
}

/// Runs the binary with nothing on standard input.
pub fn alula(args: &[&str]) -> Ran {
    with_input(args, b"")
}

/// The built-in model as a file.
pub fn builtin_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/builtin.gguf")
}

/// A file beside the workspace that a fresh clone lacks; says so and gives nothing if it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !file.exists() {
        println!("skipped: ../shared/{path} is not there");
        return None;
    }
    Some(file)
}

/// A value of GGUF metadata.
pub enum Kv<'a> {
    U32(u32),
    F32(f32),
    Str(&'a str),
    Strs(&'a [&'a str]),
    I32s(&'a [i32]),
}

/// Name, dimensions with the innermost first, `ggml_type`, bytes.
pub type Tensor = (String, Vec<u64>, u32, Vec<u8>);

/// A GGUF file without tensors.
pub fn gguf(pairs: &[(&str, Kv<'_>)]) -> Vec<u8> {
    gguf_with(pairs, &[])
}

/// A GGUF file.
pub fn gguf_with(pairs: &[(&str, Kv<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, s: &str) {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    }
    fn array(out: &mut Vec<u8>, kind: u32, len: usize) {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((len as u64).to_le_bytes());
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut out, key);
        match value {
            Kv::U32(n) => {
                out.extend(4u32.to_le_bytes());
                out.extend(n.to_le_bytes());
            }
            Kv::F32(x) => {
                out.extend(6u32.to_le_bytes());
                out.extend(x.to_le_bytes());
            }
            Kv::Str(s) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, s);
            }
            Kv::Strs(all) => {
                array(&mut out, 8, all.len());
                all.iter().for_each(|s| text(&mut out, s));
            }
            Kv::I32s(all) => {
                array(&mut out, 5, all.len());
                all.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
    let mut at = 0u64;
    for (name, dims, kind, bytes) in tensors {
        text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(at.to_le_bytes());
        at = (at + bytes.len() as u64).next_multiple_of(32);
    }
    for (.., bytes) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(bytes);
    }
    out
}
