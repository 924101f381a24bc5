//! What goes wrong is said in one sentence, with nothing on standard output, and never a panic.

use crate::common::*;
use std::io::Read;

#[test]
fn wrong_command_lines_end_with_2() {
    for args in [
        &[][..],
        &["fly"],
        &["run", "--wings"],
        &["run", "x", "--temp", "warm"],
        &["run", "x", "--threads", "0"],
        &["run", "x", "--threads", "99999999"],
        &["run", "x", "-n", "-1"],
        &["run", "x", "--ctx", "99999999999999999999999"],
        &["run", "x", "--logit-bias", "1"],
        &["run", "x", "--seed", "-1"],
        &["run", "x", "--logit-bias", "-1=1"],
        &["eval", "greedy", "builtin", "--ids", "-1"],
        &["eval", "greedy", "builtin", "--ids", ""],
        &["run", "a", "b", "c"],
        &["tokenize"],
        &["eval", "logits", "builtin"],
        &["completions", "csh"],
        &["bench", "--streams", "0"],
        &["bench", "--streams", "18446744073709551615"],
        &["bench", "--depth", "-1"],
    ] {
        let err = alula(args).usage();
        assert!(err.contains("error:") || err.contains("Usage"), "{args:?}: {err}");
        assert_eq!(
            err.contains("unexpected argument"),
            ["--wings", "c"].iter().any(|w| args.contains(w)),
            "{args:?}: {err}"
        );
    }
}

#[test]
fn what_cannot_be_done_ends_with_1() {
    let folder = folder("errors");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = std::fs::read(builtin_file()).unwrap();
    let strange = file("strange.gguf", &gguf(&[("general.architecture", Kv::Str("hippogriff"))]));
    let cut = file("cut.gguf", &whole[..whole.len() / 2]);
    let stub = file("stub.gguf", &whole[..100]);
    let empty = file("empty.gguf", b"");
    let text = file("text.gguf", b"This is no model.");
    let mamba = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/parity/mamba");
    let bare = folder.join("bare");
    std::fs::create_dir(&bare).unwrap();
    let bare = bare.to_str().unwrap();
    for (args, word) in [
        (&["run", "./nope.gguf", "x"][..], "nope.gguf"),
        (&["run", "./nope.gguf"], "nope.gguf"),
        (&["run", "nonesuch", "x"], "nonesuch"),
        (&["chat", "nonesuch"], "nonesuch"),
        (&["show", "nonesuch"], "nonesuch"),
        (&["tokenize", "nonesuch", "x"], "nonesuch"),
        (&["run", &strange, "x"], "hippogriff"),
        (&["run", &cut, "x"], "cut.gguf"),
        (&["show", &cut], "cut.gguf"),
        (&["run", &stub, "x"], "stub.gguf"),
        (&["run", &empty, "x"], "empty.gguf"),
        (&["tokenize", &text, "x"], "text.gguf"),
        (&["run", bare, "x"], "config.json"),
        (&["show", bare], "config.json"),
        (&["run", "x", "--ctx", "513"], "512"),
        (&["run", "x", "--ctx", "18446744073709551615"], "512"),
        (&["run", "x", "--ctx", "0"], "context"),
        (&["show", "builtin", "--ctx", "0"], "--ctx"),
        (&["run", "x", "--temp", "NaN"], "temp"),
        (&["run", "x", "--temp", "inf"], "temp"),
        (&["run", "x", "--temp=-1"], "temp"),
        (&["run", "x", "--temp", "-1"], "temp"),
        (&["run", "x", "--min-p", "-0.5"], "min_p"),
        (&["run", "x", "--presence-penalty", "-inf"], "presence_penalty"),
        (&["bench", "--prompt", "18446744073709551615"], "512"),
        (&["bench", "--depth", "18446744073709551615"], "512"),
        (&["bench", "--gen", "18446744073709551615", "--streams", "1024"], "1024 streams"),
        (&["bench", "--streams", "1024", "--prompt", "1", "--gen", "1"], "1024 streams"),
        (&["bench", "--depth", "60", "--gen", "5", "--ctx", "64"], "128 positions"),
        (&["bench", "--prompt", "0", "--depth", "60", "--gen", "5", "--ctx", "64"], "65 positions"),
        (&["bench", "--prompt", "0", "--gen", "0", "--depth", "9"], "at least one token"),
        (&["bench", mamba, "--gen", "18446744073709551615", "--depth", "3"], "more than there can be"),
        (&["eval", "greedy", "builtin", "--ids", "1,2", "-n", "18446744073709551615"], "memory"),
        (&["eval", "perplexity", "builtin", "Cargo.toml", "--ctx", "3"], "at least 4"),
        (&["eval", "perplexity", "builtin", "Cargo.toml", "--ctx", "8", "--chunks", "0"], "--chunks"),
        (&["run", "x", "--top-p", "0"], "top_p"),
        (&["run", "x", "--min-p", "2"], "min_p"),
        (&["run", "x", "--typical-p", "0"], "typical_p"),
        (&["run", "x", "--repeat-penalty", "0"], "repeat_penalty"),
        (&["run", "x", "--logit-bias", "999999=1"], "999999"),
        (&["run", "x", "--logit-bias", "1=NaN"], "logit_bias"),
        (&["run", "x", "--stop", ""], "stop"),
        (&["chat", "--temp", "NaN"], "temp"),
        (&["chat", "--ctx", "513"], "512"),
        (&["detokenize", "builtin", "999999"], "999999"),
        (&["detokenize", "builtin", "one"], "one"),
        (&["eval", "greedy", "builtin", "--ids", "999999"], "999999"),
        (&["eval", "logits", "builtin", "--ids", "1", "--out", "/nonexistent/x.safetensors"], "x.safetensors"),
        (&["eval", "perplexity", "builtin", "./nope.txt"], "nope.txt"),
        (&["tokenize", "builtin", "--file", "./nope.txt"], "nope.txt"),
        (&["man", &text], "text.gguf"),
    ] {
        let err = alula(args).refused();
        assert!(err.contains(word), "{args:?} should name {word}: {err}");
    }
    // What a template says when it refuses is one line too.
    let mut refusing = whole.clone();
    let key = b"tokenizer.chat_template";
    let at = whole.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 12;
    let len = u64::from_le_bytes(whole[at - 8..at].try_into().unwrap()) as usize;
    let template = format!("{:x<width$}#}}", "{{ raise_exception('no\\nway') }}{#", width = len - 2);
    refusing[at..at + len].copy_from_slice(template.as_bytes());
    let err = alula(&["run", &file("refuses.gguf", &refusing), "x", "--chat"]).refused();
    assert!(err.contains("no\\nway"), "{err}");
    let words = "word ".repeat(600);
    let err = alula(&["run", &words]).refused();
    assert!(err.contains("512") && err.contains("tokens"), "both numbers: {err}");
    let mut c = command(&["run", "x"]);
    c.env("ALULA_ISA", "mmx");
    assert!(run_with(c, b"").refused().contains("mmx"));
}

#[test]
fn input_that_is_no_text_is_refused() {
    for args in [&["run"][..], &["tokenize", "builtin"], &["detokenize", "builtin"]] {
        let err = with_input(args, b"caf\xe9 au lait").refused();
        assert!(err.contains("UTF-8") && err.contains("byte 3"), "{args:?}: {err}");
    }
    let err = with_input(&["chat"], b"caf\xe9\n").refused();
    assert!(err.contains("UTF-8") && err.contains("line 1"), "{err}");
}

#[test]
fn absurd_but_possible_numbers_are_taken() {
    let want = alula(&["run", "x", "--temp", "0", "-n", "3"]).ok();
    for args in [
        &["--top-k", "18446744073709551615"][..],
        &["--repeat-last-n", "18446744073709551615"],
        &["--threads", "64"],
        &["--ctx", "512"],
        &["--logit-bias", "1=0"],
        &["--presence-penalty", "0", "--frequency-penalty=-0"],
    ] {
        assert_eq!(alula(&[&["run", "x", "--temp", "0", "-n", "3"], args].concat()).ok(), want, "{args:?}");
    }
    let all = ["run", "x", "--temp", "0", "-n", "1", "--json", "--logprobs", "18446744073709551615"];
    let top = alula(&all).json()["logprobs"][0]["top_logprobs"].as_array().unwrap().len();
    assert!(top > 500, "the whole vocabulary: {top}");
    let full = alula(&["run", "x", "-n", "18446744073709551615", "--ignore-end", "--json", "--ctx", "32"]).json();
    assert_eq!(full["finish_reason"], "length");
}

/// A full disk behind standard output is said, behind standard error is borne.
#[test]
#[cfg(target_os = "linux")]
fn full_disks_are_no_panic() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in
        [&["run", "x", "-n", "3"][..], &["list"], &["show"], &["chat", "-n", "3"], &["tokenize", "builtin", "x"]]
    {
        let mut c = command(args);
        c.stdout(full());
        assert!(run_with(c, b"hello\n").refused().contains("space"), "{args:?}");
    }
    for (args, code) in [(&["run", "x", "-n", "3", "--stats"][..], 0), (&["run", "./nope.gguf"], 1), (&["chat"], 0)] {
        let mut c = command(args);
        c.stderr(full());
        assert_eq!(run_with(c, b"/help\n").code, Some(code), "{args:?}");
    }
}

/// `alula run … | head -c 1`.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    for args in
        [&["run", "Once upon a time", "-n", "200", "--seed", "1"][..], &["list"], &["show"], &["completions", "bash"]]
    {
        let mut child = command(args).spawn().unwrap();
        let mut one = [0];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut one).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{args:?}");
    }
}
