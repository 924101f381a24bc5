//! Adapters on the command line: by flag and variable, with names and factors, in every command that computes; and packed
//! weights that are kept, which must not take one model for another.

use crate::cache::{Place, model_of, stamp};
use crate::common::*;
use std::path::{Path, PathBuf};

fn data(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path).to_str().unwrap().to_owned()
}

/// Ids of a JSON file, with commas between.
fn ids(path: &str) -> String {
    let text = std::fs::read_to_string(data(path)).unwrap();
    text.trim().trim_matches(['[', ']']).replace(' ', "")
}

fn greedy(more: &[&str]) -> Ran {
    let (base, ids) = (data("parity/llama_gqa"), ids("parity/llama_gqa/tokens.json"));
    alula(&[&["eval", "greedy", &base, "--ids", &ids][..], more].concat())
}

#[test]
fn adapters_are_applied() {
    let (qv, one, two) = (data("lora/llama_qv/one"), data("lora/llama_two/one.gguf"), data("lora/llama_two/two"));
    let plain = greedy(&[]).ok();
    assert_eq!(plain.trim(), ids("parity/llama_gqa/greedy.json"));
    let want = ids("lora/llama_qv/greedy.json");
    assert_eq!(greedy(&["--lora", &qv]).ok().trim(), want);
    assert_eq!(greedy(&["--lora", &format!("some={qv}:1.0")]).ok().trim(), want);
    assert_eq!(greedy(&["--lora", &format!("{qv}:0")]).ok(), plain);
    assert_ne!(greedy(&["--lora", &format!("{qv}:-0.5")]).ok(), plain);
    let both = ids("lora/llama_two/greedy.json");
    assert_eq!(greedy(&["--lora", &one, "--lora", &two]).ok().trim(), both);
    let (base, prompt) = (data("parity/llama_gqa"), ids("parity/llama_gqa/tokens.json"));
    let mut c = command(&["eval", "greedy", &base, "--ids", &prompt]);
    c.env("ALULA_LORA", format!("{one},b={two}"));
    assert_eq!(run_with(c, b"").ok().trim(), both);
    let out = folder("lora-logits").join("logits.safetensors");
    let logits = |more: &[&str]| {
        let args = ["eval", "logits", &base, "--ids", &prompt, "--out", out.to_str().unwrap()];
        alula(&[&args[..], more].concat()).ok();
        std::fs::read(&out).unwrap()
    };
    assert_ne!(logits(&[]), logits(&["--lora", &qv]));
    assert_ne!(logits(&["--lora", &qv]), logits(&["--lora", &qv, "--lora-merge"]));
    let bench = alula(&["bench", &base, "--prompt", "8", "--gen", "2", "--runs", "1", "--lora", &qv, "--json"]).json();
    assert!(bench["decode_tps"].as_f64().is_some_and(|t| t > 0.0));
}

#[test]
fn what_is_wrong_with_an_adapter_is_said() {
    let qv = data("lora/llama_qv/one");
    for (more, why) in [
        (&["--lora", "/nowhere"][..], "/nowhere: "),
        (&["--lora", &format!("{qv}:inf")], "the factor is inf; give a number"),
        (&["--lora", &qv, "--lora", &qv], "two adapters are called `one`; name one of them: --lora NAME="),
        (&["--lora", &data("lora/qwen2_embed/one")], "is the adapter of another model?"),
        (&["--lora", &data("lora/gpt2_all/one.gguf")], "is an adapter of `gpt2`, but the model is `llama`"),
        (&["--lora", &data("parity/llama_gqa")], "has no adapter_config.json"),
    ] {
        let e = greedy(more).refused();
        assert!(e.contains(why), "{more:?}: {e}");
    }
    let folder = folder("lora-quantised");
    let (model, lora) = (folder.join("q8.gguf"), folder.join("lora.gguf"));
    model_of(&model, 1, false);
    adapter(&lora, 1);
    let (model, lora) = (model.to_str().unwrap(), lora.to_str().unwrap());
    alula(&["eval", "greedy", model, "--ids", "1,2", "-n", "1", "--lora", lora]).ok();
    let e = alula(&["eval", "greedy", model, "--ids", "1,2", "-n", "1", "--lora", lora, "--lora-merge"]).refused();
    assert!(e.contains("is quantised (Q8_0)") && e.contains("use it without merging it"), "{e}");
}

/// A GGUF adapter for the queries of that model's first layer: rank 2, any numbers.
fn adapter(path: &Path, seed: u64) {
    let mut state = seed;
    let mut floats = |n: usize| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 0.5
        };
        (0..n).flat_map(|_| next().to_le_bytes()).collect()
    };
    let pairs = [
        ("general.architecture", Kv::Str("llama")),
        ("general.type", Kv::Str("adapter")),
        ("adapter.type", Kv::Str("lora")),
        ("adapter.lora.alpha", Kv::F32(4.0)),
    ];
    let name = |part: &str, end: &str| format!("blk.0.{part}.weight.lora_{end}");
    let tensors = [
        (name("attn_v", "a"), vec![256, 2], 0, floats(512)),
        (name("attn_v", "b"), vec![2, 256], 0, floats(512)),
        (name("ffn_down", "a"), vec![3072, 2], 0, floats(6144)),
        (name("ffn_down", "b"), vec![2, 256], 0, floats(512)),
    ];
    std::fs::write(path, gguf_with(&pairs, &tensors)).unwrap();
}

#[test]
fn kept_weights_are_those_of_the_model_that_is_asked_for() {
    let place = Place::new("cache-lora");
    model_of(&place.model, 1, true);
    let lora: PathBuf = place.model.with_file_name("lora.gguf");
    adapter(&lora, 7);
    let lora = lora.to_str().unwrap();
    let (half, merge) = (format!("{lora}:0.5"), "--lora-merge");
    let ways: [&[&str]; 5] =
        [&[], &["--lora", lora], &["--lora", lora, merge], &["--lora", &half], &["--lora", &half, merge]];
    let fresh = |way: &[&str]| place.say(&[way, &["--no-cache"]].concat());
    let want: Vec<_> = ways.iter().map(|way| fresh(way)).collect();
    assert!((0..5).all(|i| (0..i).all(|j| want[i] != want[j] || (i, j) == (4, 3) || (i, j) == (2, 1))), "{want:?}");
    assert!(place.files().is_empty());
    // The model's own file serves it with and without an adapter beside its weights.
    for i in [0, 1, 3, 0] {
        assert_eq!(place.say(ways[i]), want[i], "way {i}");
    }
    let own = place.file();
    let written = stamp(&own);
    // Merged weights are others, and have a file of their own; one for each model and adapter.
    for i in [2, 2, 4, 0, 4, 1, 2, 3] {
        assert_eq!(place.say(ways[i]), want[i], "way {i}");
        assert_eq!(place.files().len(), 2, "way {i}");
    }
    assert_eq!(stamp(&own), written, "the model's own file stays");
    // Another adapter in the same place, of the same size.
    adapter(Path::new(lora), 8);
    let other: Vec<_> = ways.iter().map(|way| fresh(way)).collect();
    assert!(other[0] == want[0] && (1..5).all(|i| other[i] != want[i]));
    for i in [2, 1, 0, 4, 3] {
        assert_eq!(place.say(ways[i]), other[i], "way {i}");
    }
    assert_eq!(place.files().len(), 2);
}

/// At a conversation's prompt, the next answers have the adapters that were chosen.
#[test]
fn a_conversation_chooses_its_adapters() {
    let folder = folder("lora-chat");
    let lora = folder.join("tone.gguf");
    let show = alula(&["show", "--json"]).json();
    let size = |key: &str| show["shape"][key].as_u64().unwrap() as usize;
    let (rank, arch) = (2, show["architecture"].as_str().unwrap());
    let tensors = [("token_embd.weight.lora_a", size("vocabulary")), ("token_embd.weight.lora_b", size("width"))];
    let pairs = [
        ("general.architecture", Kv::Str(arch)),
        ("general.type", Kv::Str("adapter")),
        ("adapter.type", Kv::Str("lora")),
    ];
    let one = |n: usize| (0..n).flat_map(|i| ((i % 7) as f32 * 0.2 - 0.6).to_le_bytes()).collect::<Vec<u8>>();
    let tensors: Vec<_> =
        tensors.iter().map(|&(name, n)| (name.to_owned(), vec![rank, n as u64], 0, one(n * rank as usize))).collect();
    std::fs::write(&lora, gguf_with(&pairs, &tensors)).unwrap();
    let chat = |lines: &str| {
        let flag = format!("t={}", lora.display());
        with_input(&["chat", "--temp", "0", "-n", "12", "--lora", &flag], lines.as_bytes())
    };
    let plain = with_input(&["chat", "--temp", "0", "-n", "12"], b"Hello\n").ok();
    let toned = chat("Hello\n").ok();
    assert_ne!(toned, plain);
    assert_eq!(chat("/lora none\nHello\n").ok(), plain);
    assert_eq!(chat("/lora none\nHello\n/clear\n/lora t\nHello\n").ok(), format!("{plain}{toned}"));
    assert_eq!(chat("/lora t:0\nHello\n").ok(), plain);
    // So have vectors of texts.
    let vector = |factor: &str| {
        let flag = format!("{}:{factor}", lora.display());
        alula(&["embed", "builtin", "Hello", "--lora", &flag]).ok()
    };
    let plain = alula(&["embed", "builtin", "Hello"]).ok();
    assert_eq!(vector("0"), plain);
    assert_ne!(vector("1"), plain);
    let said = chat("/lora\n/lora t:0.5\n/lora\n/lora none\n/lora\n/lora x\n/lora t t\n").err;
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("t ") && lines[0].ends_with(" 1"), "{said}");
    assert!(lines[1].ends_with(" 0.5") && lines[2].ends_with(" off (1)"), "{said}");
    assert!(said.contains("there is no adapter `x`; there is t") && said.contains("named twice"), "{said}");
}
