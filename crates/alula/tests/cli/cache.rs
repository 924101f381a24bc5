//! Packed weights that are kept: the same text with and without them, whatever happens to their files.

use crate::common::*;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A model of random weights, large enough to be kept. Another seed gives another model of the same size and header.
pub fn model(path: &Path, seed: u64) {
    model_of(path, seed, false);
}

/// The same with matrices of floats, or of quantised blocks.
pub fn model_of(path: &Path, seed: u64, floats: bool) {
    const WIDTH: u64 = 256;
    const HIDDEN: u64 = 3072;
    const LAYERS: u32 = 4;
    let tokens: Vec<String> = ('!'..='~').map(String::from).chain(["<|end|>".to_owned()]).collect();
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let types = vec![1; tokens.len()];
    let pairs = [
        ("general.architecture", Kv::Str("llama")),
        ("llama.block_count", Kv::U32(LAYERS)),
        ("llama.context_length", Kv::U32(128)),
        ("llama.embedding_length", Kv::U32(WIDTH as u32)),
        ("llama.feed_forward_length", Kv::U32(HIDDEN as u32)),
        ("llama.attention.head_count", Kv::U32(4)),
        ("llama.attention.layer_norm_rms_epsilon", Kv::F32(1e-5)),
        ("tokenizer.ggml.model", Kv::Str("gpt2")),
        ("tokenizer.ggml.pre", Kv::Str("gpt-2")),
        ("tokenizer.ggml.tokens", Kv::Strs(&tokens)),
        ("tokenizer.ggml.token_type", Kv::I32s(&types)),
        ("tokenizer.ggml.merges", Kv::Strs(&["a b"])),
    ];
    let mut state = seed;
    // Q8_0: a scale near 2^-10 and any codes. F32: ones.
    let mut q8 = |n: u64| -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..n / 32 {
            out.extend(0x1400u16.to_le_bytes());
            for _ in 0..4 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                out.extend((state ^ state >> 29).to_le_bytes());
            }
        }
        out
    };
    let mut tensors = Vec::new();
    // Codes as halves are as large as their values: a few bits of the exponent are cut off.
    let half = |q8: Vec<u8>| -> Vec<u8> {
        let codes = q8.chunks_exact(34).flat_map(|block| &block[2..]);
        codes.flat_map(|c| (u16::from(c & 0x80) << 8 | 0x2000 | u16::from(c & 0x7f) << 4).to_le_bytes()).collect()
    };
    let mut matrix = |name: String, cols: u64, rows: u64| {
        let (kind, bytes) = if floats { (1, half(q8(cols * rows))) } else { (8, q8(cols * rows)) };
        tensors.push((name, vec![cols, rows], kind, bytes));
    };
    matrix("token_embd.weight".into(), WIDTH, tokens.len() as u64);
    for i in 0..LAYERS {
        for part in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            matrix(format!("blk.{i}.{part}.weight"), WIDTH, WIDTH);
        }
        for part in ["ffn_gate", "ffn_up"] {
            matrix(format!("blk.{i}.{part}.weight"), WIDTH, HIDDEN);
        }
        matrix(format!("blk.{i}.ffn_down.weight"), HIDDEN, WIDTH);
    }
    let norms = (0..LAYERS).flat_map(|i| ["attn_norm", "ffn_norm"].map(|n| format!("blk.{i}.{n}.weight")));
    for name in norms.chain(["output_norm.weight".to_owned()]) {
        tensors.push((name, vec![WIDTH], 0, 1f32.to_le_bytes().repeat(WIDTH as usize)));
    }
    std::fs::write(path, gguf_with(&pairs, &tensors)).unwrap();
}

/// A models directory with one model, which is not in it.
pub struct Place {
    pub models: PathBuf,
    pub model: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> Place {
        let folder = folder(name);
        let place = Place { models: folder.join("models"), model: folder.join("some.gguf") };
        model(&place.model, 1);
        place
    }

    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut c = command(args);
        c.env("ALULA_MODELS", &self.models).env_remove("ALULA_NO_CACHE");
        c
    }

    fn alula(&self, args: &[&str]) -> Ran {
        run_with(self.command(args), b"")
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let model = self.model.to_str().unwrap();
        [&["run", model, "ab", "-n", "3", "--temp", "0", "--ctx", "16", "--logprobs", "3"][..], more].concat()
    }

    /// What the model says, with probabilities to four digits.
    pub fn say(&self, more: &[&str]) -> (String, String) {
        let ran = self.alula(&self.args(more));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        (ran.out, ran.err)
    }

    pub fn files(&self) -> Vec<PathBuf> {
        let Ok(read) = std::fs::read_dir(self.models.join(".packed")) else { return Vec::new() };
        let mut all: Vec<_> = read.map(|f| f.unwrap().path()).filter(|f| !f.ends_with("CACHEDIR.TAG")).collect();
        all.sort();
        all
    }

    /// The one file.
    #[track_caller]
    pub fn file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

/// What tells that a file was written anew.
pub fn stamp(path: &Path) -> (u64, std::time::SystemTime) {
    let m = path.metadata().unwrap();
    (m.len(), m.created().or(m.modified()).unwrap())
}

#[test]
fn the_second_start_says_the_same() {
    let place = Place::new("cache");
    let want = place.say(&["--no-cache"]);
    assert!(!place.models.exists(), "nothing is written");
    assert_eq!(place.say(&[]), want);
    let (file, first) = (place.file(), stamp(&place.file()));
    for more in [&[][..], &["-t", "1"], &["--cache-type", "f16"]] {
        assert_eq!(place.say(more), want);
    }
    assert_eq!(stamp(&file), first, "it is not written again");
    let isa = |name: &str| {
        let mut c = place.command(&place.args(&[]));
        c.env("ALULA_ISA", name);
        run_with(c, b"")
    };
    let scalar = isa("scalar");
    assert_eq!((scalar.out, scalar.err), want);
    let mut off = place.command(&place.args(&[]));
    off.env("ALULA_NO_CACHE", "1");
    std::fs::write(&file, b"broken").unwrap();
    assert_eq!(run_with(off, b"").ok(), want.0);
    assert_eq!(std::fs::read(&file).unwrap(), b"broken", "neither read nor written");
    assert_eq!(place.say(&[]), want);
    assert_eq!(stamp(&file).0, first.0, "it is made again");
    // Small models and the one in the binary are not kept.
    let builtin = builtin_file();
    place.alula(&["run", builtin.to_str().unwrap(), "x", "-n", "1"]).ok();
    place.alula(&["run", "x", "-n", "1"]).ok();
    assert_eq!(place.files(), [file]);
}

#[test]
fn broken_files_are_made_again() {
    let place = Place::new("cache-broken");
    let want = place.say(&[]);
    let (file, good) = (place.file(), std::fs::read(place.file()).unwrap());
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    for round in 0..8 {
        let mut bad = good.clone();
        match round {
            0 => bad.truncate(next(good.len())),
            1 => bad.clear(),
            2 => bad.extend(b"more"),
            3 => bad[good.len() - 100..].fill(0),
            _ => bad[next(good.len())] ^= 1 << next(8),
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &bad).unwrap();
        assert_eq!(place.say(&[]), want, "round {round}");
        assert_eq!(std::fs::read(place.file()).unwrap(), good, "round {round}");
    }
}

#[test]
fn another_model_in_the_same_place_is_another() {
    let place = Place::new("cache-other");
    let first = place.say(&[]);
    let old = place.file();
    let written = place.model.metadata().unwrap().modified().unwrap();
    // Over the same file, of the same size, with the same time: as `cp --preserve` does.
    model(&place.model, 2);
    std::fs::File::options().write(true).open(&place.model).unwrap().set_modified(written).unwrap();
    let second = place.say(&["--no-cache"]);
    assert_ne!(second, first);
    if cfg!(unix) {
        assert_eq!(place.say(&[]), second);
        assert_ne!(place.file(), old, "the old one is gone");
    }
    // Put in its place, with the time of the one before.
    let beside = place.model.with_extension("new");
    model(&beside, 3);
    std::fs::File::options().write(true).open(&beside).unwrap().set_modified(written).unwrap();
    std::fs::rename(&beside, &place.model).unwrap();
    let third = place.say(&["--no-cache"]);
    assert!(third != second && third != first);
    if cfg!(unix) {
        assert_eq!(place.say(&[]), third);
    }
    place.file();
    // A model of the same name elsewhere.
    let elsewhere = folder("cache-elsewhere").join("some.gguf");
    model(&elsewhere, 1);
    let other = Place { models: place.models.clone(), model: elsewhere };
    assert_eq!(other.say(&[]), first);
    assert_eq!((other.say(&[]), place.say(&[])), (first, third));
    assert_eq!(place.files().len(), 2);
}

#[test]
fn killed_writers_leave_nothing_that_loads_wrongly() {
    let place = Place::new("cache-killed");
    let want = place.say(&["--no-cache"]);
    let start = Instant::now();
    place.say(&[]);
    let whole = start.elapsed().max(Duration::from_millis(20));
    std::fs::remove_file(place.file()).unwrap();
    let (mut with, mut without) = (0, 0);
    for round in 0..24 {
        let mut c = place.command(&place.args(&[]));
        let mut child = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * round / 20);
        _ = child.kill();
        child.wait().unwrap();
        let packed = place.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "packed"));
        if round % 6 == 5 {
            assert_eq!(place.say(&[]), want, "round {round}");
            // What the killed ones left was taken away before a new file was made.
            let file = place.files().into_iter().find(|f| f.extension().is_some_and(|e| e == "packed")).unwrap();
            std::fs::remove_file(file).unwrap();
        } else if let Some(file) = packed {
            with += 1;
            assert_eq!(place.say(&[]), want, "round {round}");
            std::fs::remove_file(file).unwrap();
        } else {
            without += 1;
        }
    }
    assert!(without > 0, "{with} {without}");
    place.say(&[]);
    place.file(); // and nothing else
}

#[test]
fn processes_that_start_at_once_agree() {
    let place = Place::new("cache-raced");
    let want = place.say(&["--no-cache"]);
    for _ in 0..3 {
        let args = place.args(&[]);
        let children: Vec<_> = (0..4).map(|_| place.command(&args).stdin(Stdio::null()).spawn().unwrap()).collect();
        for child in children {
            let out = child.wait_with_output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), want.0);
        }
        assert_eq!(place.say(&[]), want);
        std::fs::remove_file(place.file()).unwrap();
    }
}

#[test]
fn a_place_that_cannot_be_written_does_no_harm() {
    let place = Place::new("cache-nowhere");
    std::fs::write(&place.models, b"a file, not a folder").unwrap();
    let want = place.say(&["--no-cache"]);
    assert_eq!((place.say(&[]), place.say(&[])), (want.clone(), want.clone()));
    std::fs::remove_file(&place.models).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let packed = place.models.join(".packed");
        std::fs::create_dir_all(&packed).unwrap();
        let mode = |m| std::fs::set_permissions(&packed, std::fs::Permissions::from_mode(m)).unwrap();
        mode(0o555);
        assert_eq!(place.say(&[]), want);
        mode(0o755);
        // Who may write everywhere has written.
        for file in place.files() {
            std::fs::remove_file(file).unwrap();
        }
        // What is there is used where nothing can be written.
        assert_eq!(place.say(&[]), want);
        let file = place.file();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
        mode(0o555);
        assert_eq!(place.say(&[]), want);
        mode(0o755);
    }
}

#[test]
fn files_are_listed_and_removed() {
    let place = Place::new("cache-list");
    let list = || place.alula(&["cache", "list", "--json"]).json();
    assert_eq!((list()["files"].as_array().unwrap().len(), list()["bytes"].as_u64()), (0, Some(0)));
    assert!(place.alula(&["cache", "rm", "some"]).refused().contains("alula cache list"));
    place.alula(&["cache", "rm", "--all"]).ok();
    place.say(&[]);
    let all = list();
    let (row, file) = (&all["files"][0], place.file());
    assert_eq!(row["name"], "some");
    assert_eq!(row["source"], place.model.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(row["file"], file.to_str().unwrap());
    assert_eq!((&row["bytes"], &all["bytes"]), (&file.metadata().unwrap().len().into(), &row["bytes"]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(row["last_use"].as_u64().unwrap().abs_diff(now) < 600, "{row}");
    let text = place.alula(&["cache", "list"]).ok();
    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with("some ") && line.contains("just now") && line.contains("some.gguf"), "{text}");
    assert!(!place.alula(&["list"]).ok().contains("packed"), "they are no models");
    // A broken one is shown and can be removed.
    let broken = file.with_file_name("broken.packed");
    std::fs::write(&broken, b"?").unwrap();
    assert!(place.alula(&["cache", "list"]).ok().contains("(broken)"));
    assert_eq!(place.alula(&["cache", "rm", "broken.packed"]).ok(), "broken.packed  1 B\n");
    for name in ["some", place.model.to_str().unwrap()] {
        assert!(place.alula(&["cache", "rm", name]).ok().starts_with("some "));
        assert!(place.files().is_empty());
        place.say(&[]);
    }
    std::fs::write(file.with_extension("1-1.part"), b"left behind").unwrap();
    place.alula(&["cache", "rm", "--all"]).ok();
    assert!(place.files().is_empty());
    for args in [&["cache", "rm"][..], &["cache", "rm", "some", "--all"], &["cache"], &["cache", "rm", "--no"]] {
        place.alula(args).usage();
    }
    std::fs::remove_dir_all(place.models.join(".packed")).unwrap();
    std::fs::write(place.models.join(".packed"), b"no folder").unwrap();
    assert!(place.alula(&["cache", "list"]).refused().contains(".packed"));
}
