//! Damaged and absurd models: each is refused with a typed error or computes something, and nothing panics.
//!
//! `ALULA_MUTATIONS=5000` raises the number of variants per file (default 150).

use alula_device::{Batch, CacheType, Cpu, CpuDevice, Device, Limits, Seq};
use alula_format::gguf::Gguf;
use alula_graph::{Temperature, Window};
use alula_model::{Model, ModelError};
use alula_testkit::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity")
}

fn count() -> usize {
    std::env::var("ALULA_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// Loads the weights and runs three tokens, where the model lets us.
fn exercise(model: Result<Model, ModelError>) -> Result<(), String> {
    let model = model.map_err(|e| e.to_string())?;
    let limits =
        Limits { tokens: 4, outputs: 4, context: 64, pages: 1, slots: 1, checkpoints: 0, cache: CacheType::F32 };
    let device = CpuDevice::new(Cpu::from_env().map_err(|e| e.to_string())?, 1);
    let mut plan =
        device.compile(model.graph(), model.weights(), limits, None, &mut |_, _| ()).map_err(|e| e.to_string())?;
    let seqs = [Seq { start: 0, len: 3, length: 3, pages: &[0], slot: 0, adapters: &[] }];
    let batch = Batch { tokens: &[1, 2, 3], positions: &[0, 1, 2], seqs: &seqs, outputs: &[0, 2], ..Batch::default() };
    plan.run(&batch).map(|_| ()).map_err(|e| e.to_string())
}

/// How many were refused; every message is one line and says something.
fn all(name: &str, make: impl Fn(&mut Rng) -> Result<Model, ModelError>) -> usize {
    let mut refused = 0;
    for i in 0..count() {
        let seed = 0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
        let result = catch_unwind(AssertUnwindSafe(|| exercise(make(&mut Rng(seed)))));
        match result.unwrap_or_else(|_| panic!("{name}: variant {i} panicked")) {
            Ok(()) => {}
            Err(e) => {
                assert!(!e.is_empty() && !e.contains('\n'), "{name}: variant {i}: {e:?}");
                refused += 1;
            }
        }
    }
    refused
}

/// Numbers that files should not hold.
const ABSURD: [u64; 10] = [0, 1, 3, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 63, u64::MAX];

fn mutate(bytes: &mut Vec<u8>, within: usize, r: &mut Rng) {
    for _ in 0..1 + r.below(3) {
        let at = r.below(within.min(bytes.len()));
        match r.below(4) {
            0 => bytes[at] ^= 1 << r.below(8),
            1 => bytes[at] = r.next() as u8,
            2 => {
                let n = [1, 2, 4, 8][r.below(4)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&ABSURD[r.below(10)].to_le_bytes()[..n]);
            }
            _ if r.below(8) == 0 => bytes.truncate(at + 1),
            _ => bytes.swap(at, at / 2),
        }
    }
}

#[test]
fn damaged_gguf_files_are_refused_or_run() {
    let cases = [
        "mix32",
        "phi3_long",
        "gemma3",
        "gpt2",
        "bert",
        "modernbert",
        "mamba",
        "mamba2_one",
        "granite_hybrid",
        "jamba",
        "llama4_gguf",
    ];
    for case in cases {
        let bytes = std::fs::read(root().join(case).join("model.gguf")).unwrap();
        // The header is where structure is; the rest is numbers.
        let refused = all(case, |r| {
            let mut bytes = bytes.clone();
            mutate(&mut bytes, 6000, r);
            Model::from_gguf(Gguf::from_bytes(bytes, "damaged.gguf")?, "damaged.gguf")
        });
        assert!(refused > count() / 10, "{case}: only {refused} refused: the mutations do not bite");
    }
}

/// A folder of a case, with another `config.json`.
fn folder(case: &str, config: &str, tag: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("alula-hostile-{}-{tag}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.json"), config).unwrap();
    let weights = dir.join("model.safetensors");
    if !weights.exists() {
        std::fs::copy(root().join(case).join("model.safetensors"), weights).unwrap();
    }
    dir
}

#[test]
fn absurd_configurations_are_refused_or_run() {
    const VALUES: [&str; 14] = [
        "0",
        "-1",
        "1",
        "3",
        "7",
        "1e30",
        "-1e-30",
        "0.5",
        "18446744073709551615",
        "null",
        "\"x\"",
        "[1,2]",
        "{}",
        "true",
    ];
    let transformers =
        ["llama3", "phi3_long", "gemma3_scaled", "qwen2_types", "gpt2_inverse", "phi_partial", "llama_yarn"];
    let recurrent =
        ["mamba_odd", "falcon_mamba_eps", "mamba2_odd", "bamba_odd", "granite_hybrid", "jamba_odd", "falcon_h1"];
    let others = [
        "roberta",
        "nomic_hub",
        "modernbert_first",
        "mixtral",
        "qwen3_moe_fp8",
        "deepseek_v2_yarn",
        "deepseek_v3_mtp",
        "llama4",
    ];
    for case in transformers.into_iter().chain(recurrent).chain(others) {
        let text = std::fs::read_to_string(root().join(case).join("config.json")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let dir = folder(case, &text, case);
        let refused = all(case, |r| {
            let mut lines: Vec<String> = lines.iter().map(|l| l.to_string()).collect();
            for _ in 0..1 + r.below(2) {
                let at = r.below(lines.len());
                match (r.below(8), lines[at].split_once(": ")) {
                    (0, _) => _ = lines.remove(at),
                    (_, Some((key, value))) => {
                        let comma = if value.ends_with(',') { "," } else { "" };
                        if !value.starts_with(['{', '[']) {
                            lines[at] = format!("{key}: {}{comma}", VALUES[r.below(VALUES.len())]);
                        }
                    }
                    (_, None) => {}
                }
            }
            folder(case, &lines.join("\n"), case);
            Model::open(&dir)
        });
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(refused > count() / 10, "{case}: only {refused} refused: the mutations do not bite");
    }
}

#[test]
fn messages_say_where_and_what() {
    let text = std::fs::read_to_string(root().join("llama3/config.json")).unwrap();
    let message = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let dir = folder("llama3", &text.replace(from, to), "messages");
        let e = Model::open(&dir).err().map(|e| e.to_string()).unwrap_or_default();
        e.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let unknown = message("\"model_type\": \"llama\"", "\"model_type\": \"mammoth\"");
    let (said, names) = unknown.split_once("; supported are ").expect("names");
    assert_eq!(said, "config.json: the architecture `mammoth` is not supported");
    let names: Vec<&str> = names.split(", ").collect();
    assert!(
        names.is_sorted() && ["llama", "gemma3_text", "xlm-roberta"].iter().all(|n| names.contains(n)),
        "{unknown}"
    );
    assert_eq!(
        message("\"num_hidden_layers\": ", "\"num_hidden_layers\": 9000"),
        format!("config.json: `num_hidden_layers` is {}; expected 1 to 4096", message_layers(&text))
    );
    // What the file says is shown, but neither all of it nor what would move the cursor.
    let long = message("\"hidden_act\": \"silu\"", &format!("\"hidden_act\": \"a\\n{}\"", "b".repeat(100_000)));
    assert!(long.starts_with("config.json: `hidden_act` is `a\\nbbb") && long.len() < 1000, "{long}");
    let long = message("\"model_type\": \"llama\"", &format!("\"model_type\": \"\\u001b{}\"", "b".repeat(100_000)));
    assert!(long.starts_with("config.json: the architecture `\\u{1b}bbb") && long.len() < 1000, "{long}");
    assert!(message("\"factor\": 8.0", "\"factor\": 0").contains("above 0"));
    assert!(message("\"intermediate_size\": ", "\"intermediate_size\": 1").contains("but the configuration asks for"));
    let missing = Model::open(Path::new("/nowhere/model.gguf")).err().unwrap().to_string();
    assert!(missing.starts_with("/nowhere/model.gguf: ") && missing.contains("give a GGUF file"), "{missing}");
    std::fs::remove_dir_all(folder("llama3", &text, "messages")).unwrap();
}

/// Specs written by hand: what is wrong is named, and absurd numbers are refused or run.
const PLAIN: &str = "ffn.plain = { act = \"gelu\", width = 64 }";
const EXPERTS: [&str; 3] = [
    "ffn.experts = { count = 99999999, act = \"silu\", width = 8, sigmoid = true, route = { used = 1, normalise = true, scale = 1 } }",
    "ffn.experts = { count = 4, act = \"silu\", width = 8, sigmoid = true, route = { used = 5, normalise = true, scale = 1 } }",
    "ffn.experts = { count = 4, act = \"silu\", width = 8, sigmoid = true, route = { used = 2, normalise = true, scale = 1 } }",
];
const ATTENTION: &str =
    "mixer.attention = { heads = 4, kv_heads = 2, key_dim = 12, value_dim = 12, rope = 0, window = 20, scale = 0.3 }";
const LATENT: [&str; 3] = [
    "mixer.latent = { heads = 0, rank = 8, plain_dim = 8, rope_dim = 8, value_dim = 8, rope = 0, scale = 0.3, eps = 1e-6 }",
    "mixer.latent = { heads = 4, rank = 8, plain_dim = 8, rope_dim = 8, value_dim = 8, rope = 1, scale = 0.3, eps = 1e-6 }",
    "mixer.latent = { heads = 4, rank = 8, plain_dim = 8, rope_dim = 8, value_dim = 8, rope = 0, scale = 0.3, eps = 1e-6 }",
];

#[test]
fn specs_are_checked() {
    let text = std::fs::read_to_string(root().join("spec_free/spec.toml")).unwrap();
    let dir = std::env::temp_dir().join(format!("alula-hostile-{}-spec", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(root().join("spec_free/model.safetensors"), dir.join("model.safetensors")).unwrap();
    let open = |text: &str| {
        std::fs::write(dir.join("spec.toml"), text).unwrap();
        Model::open(&dir)
    };
    for (from, to, want) in [
        ("kv_heads = 2", "kv_heads = 3", "`layers[1].kv_heads` is 3, which does not divide 4"),
        ("kv_heads = 2", "kv_heads = 0", "`layers[1].kv_heads` is 0; expected 1 to 16777216"),
        ("rope = 0", "rope = 1", "`layers[1].rope` is 1, but there are 1 ropes"),
        ("window = 20", "window = 0", "`layers[1].window` is 0"),
        ("window = 20", "window = { chunk = 0 }", "`layers[1].window` is 0"),
        ("window = 20", "window = { chunks = 20 }", "expected a number of tokens, or `{ chunk = ... }` of them"),
        ("window = 20", "temperature = { floor = 0.5, scale = 0.1 }", "`layers[1].temperature` is Temperature"),
        ("groups = 2", "groups = 0", "`layers[0].groups` is 0"),
        ("groups = 2", "groups = 3", "`layers[0].groups` is 3, which does not divide 4"),
        ("groups = 2", "groups = 4", "tensor `blk.0.ssm_in.weight` has the shape"),
        ("taps = 4", "taps = 99999999", "`layers[0].taps` is 99999999"),
        ("rank = 5", "rank = 6", "tensor `blk.2.ssm_x.weight` has the shape"),
        ("dims = 8", "dims = 7", "7 columns and base 20000; expected an even number"),
        ("width = 40", "widht = 40", "line 2: unknown field `widht`"),
        ("tied = false", "tied = maybe", "spec.toml: line 5: "),
        ("context = 256", "context = 0", "`layers` and context must be there"),
        (PLAIN, EXPERTS[0], "`layers[2].count` is 99999999, of which 1 are used; expected 1 to 4096"),
        (PLAIN, EXPERTS[1], "`layers[2].count` is 4, of which 5 are used"),
        (PLAIN, EXPERTS[2], "tensor `blk.2.ffn_gate_inp.weight` is missing"),
        (ATTENTION, LATENT[0], "`layers[1].heads` is 0"),
        (ATTENTION, LATENT[1], "`layers[1].rope` is 1, but there are 1 ropes"),
        (ATTENTION, LATENT[2], "tensor `blk.1.attn_q.weight` has the shape"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = open(&text.replacen(from, to, 1)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(want) && !error.contains('\n'), "{to}: {error:?}");
    }
    let refused = all("spec", |r| {
        let mut parts: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let numbers: Vec<usize> =
            (0..parts.len()).filter(|&i| parts[i].starts_with(|c: char| c.is_ascii_digit())).collect();
        let at = numbers[r.below(numbers.len())];
        let end = parts[at].find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(parts[at].len());
        parts[at]
            .replace_range(..end, ["0", "1", "3", "-1", "1e30", "nan", "16777216", "18446744073709551615"][r.below(8)]);
        open(&parts.join(" "))
    });
    assert!(refused > count() / 10, "only {refused} refused: the mutations do not bite");
    std::fs::remove_dir_all(dir).unwrap();
}

/// What state spaces and hybrids say of their sizes: each wrong one is named with its reason.
#[test]
fn sizes_of_state_spaces_are_checked() {
    for (case, from, to, want) in [
        ("mamba2_odd", "\"num_heads\": 6", "\"num_heads\": 0", "`num_heads` is 0"),
        ("mamba2_odd", "\"num_heads\": 6", "\"num_heads\": 7", "`num_heads` is 7, which does not divide 120 columns"),
        ("mamba2_odd", "\"num_heads\": 6", "\"num_heads\": 4", "`n_groups` is 3, which does not divide 4 heads"),
        ("mamba2_odd", "\"n_groups\": 3", "\"n_groups\": 0", "`n_groups` is 0"),
        ("mamba2_odd", "\"n_groups\": 3", "\"n_groups\": 2", "tensor `backbone.layers.0.mixer.in_proj.weight`"),
        ("mamba2_odd", "\"state_size\": 11", "\"state_size\": 99999999", "`state_size` is 99999999; expected"),
        (
            "mamba2_odd",
            "\"state_size\": 11",
            "\"state_size\": 16777216",
            "tensor `backbone.layers.0.mixer.in_proj.weight`",
        ),
        ("mamba2_odd", "\"conv_kernel\": 5", "\"conv_kernel\": 0", "`conv_kernel` is 0"),
        ("mamba2_odd", "\"conv_kernel\": 5", "\"conv_kernel\": 4", "conv1d.weight` has the shape [186, 1, 5]"),
        ("mamba2_odd", "\"expand\": 3", "\"expand\": 1e30", "`expand` makes"),
        ("mamba2_odd", "\"expand\": 3", "\"expand\": 0", "`expand` makes 0 columns of 40"),
        ("mamba2_odd", "0.4,", "0.9,", "`time_step_limit` is [0.9,0.8]; expected a least and a largest time step"),
        ("mamba2_odd", "0.4,", "\"x\",", "`time_step_limit` is"),
        ("mamba_odd", "\"time_step_rank\": 7", "\"time_step_rank\": 8", "x_proj.weight`"),
        ("mamba_odd", "\"time_step_rank\": 7", "\"time_step_rank\": \"x\"", "`time_step_rank` must be a number"),
        ("bamba_odd", "\"mamba_n_heads\": 4", "\"mamba_n_heads\": 5", "`mamba_n_heads` is 5, which does not divide 96"),
        (
            "bamba_odd",
            "\"attn_layer_indices\": [",
            "\"attn_layer_indices\": [-1,",
            "`attn_layer_indices` must be a list of layers",
        ),
        ("granite_hybrid", "\"attention\"", "\"retention\"", "`layer_types` has \"retention\"; supported are"),
        ("granite_hybrid", "\"attention\",", "", "`layer_types` must list 3 layers"),
        (
            "granite_hybrid",
            "\"num_local_experts\": 0",
            "\"num_local_experts\": 4",
            "tensor `blk.0.ffn_gate_inp.weight` is missing",
        ),
        (
            "granite_hybrid",
            "\"logits_scaling\": 2.5",
            "\"logits_scaling\": 0",
            "`logits_scaling` is 0; logits are divided",
        ),
        ("jamba_odd", "\"num_experts\": 1", "\"num_experts\": 9", "tensor `blk.1.ffn_gate_inp.weight` is missing"),
        (
            "jamba_odd",
            "\"attn_layer_period\": 2",
            "\"attn_layer_period\": 0",
            "`attn_layer_offset` is 0; expected less than",
        ),
    ] {
        let text = std::fs::read_to_string(root().join(case).join("config.json")).unwrap();
        assert!(text.contains(from), "{case}: {from} in {text}");
        let dir = folder(case, &text.replacen(from, to, 1), &format!("sizes-{case}"));
        let error = Model::open(&dir).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(want) && !error.contains('\n'), "{case}, {to}: {error:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// GGUF's `rope.scaling`, as llama.cpp takes it: a factor of 0 is none, and so is any factor of type `none`.
#[test]
fn a_scaling_that_says_none_is_none() {
    let bytes = std::fs::read(root().join("gemma3_scaled/model.gguf")).unwrap();
    let at = |key: &str| bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap() + key.len() + 4;
    let (factor, kind, name) = (at("rope.scaling.factor"), at("rope.scaling.type"), at("general.name"));
    assert_eq!((&bytes[factor..factor + 4], &bytes[kind + 8..kind + 14]), (&8f32.to_le_bytes()[..], &b"linear"[..]));
    let first = |bytes: Vec<u8>| {
        let model = Model::from_gguf(Gguf::from_bytes(bytes, "m.gguf").unwrap(), "m.gguf").unwrap();
        model.spec().ropes[0].table.inv_freq[0]
    };
    let mut zero = bytes.clone();
    zero[factor..factor + 4].copy_from_slice(&0f32.to_le_bytes());
    // The name, which comes first, grows by what the type shrinks, so that everything else stays where it is.
    assert!(name < kind);
    let mut off = bytes.clone();
    off.splice(kind..kind + 14, [&4u64.to_le_bytes()[..], b"none"].concat());
    off.splice(name + 8..name + 8, *b"xx");
    off[name] += 2;
    assert_eq!([first(bytes), first(zero), first(off)], [0.125, 1.0, 1.0]);
}

/// A GGUF file with one more pair, and a filler that keeps its tensors aligned.
fn with_pair(bytes: &[u8], key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let pair = |key: &str, kind: u32, value: &[u8]| {
        [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &kind.to_le_bytes(), value].concat()
    };
    let mut new = pair(key, kind, value);
    let fill = (32 - (new.len() + 8 + 1 + 4 + 8) % 32) % 32;
    new.extend(pair("x", 8, &[&(fill as u64).to_le_bytes()[..], &vec![b'x'; fill]].concat()));
    let mut out = bytes.to_vec();
    out[16] += 2;
    out.splice(24..24, new);
    out
}

#[test]
fn gguf_says_which_layers_have_a_window() {
    let bytes = std::fs::read(root().join("gemma3/model.gguf")).unwrap();
    let key = "gemma3.attention.sliding_window_pattern";
    let windows = |bytes: Vec<u8>| -> Result<String, String> {
        let model =
            Model::from_gguf(Gguf::from_bytes(bytes, "m.gguf").unwrap(), "m.gguf").map_err(|e| e.to_string())?;
        let each = |l: &alula_model::Layer| {
            if l.mixer.attention().is_some_and(|a| a.window.is_some()) { 'w' } else { '-' }
        };
        Ok(model.spec().layers.iter().map(each).collect())
    };
    let array = |each: &[u8]| [&7u32.to_le_bytes()[..], &(each.len() as u64).to_le_bytes(), each].concat();
    assert_eq!(windows(bytes.clone()).unwrap(), "wwwww-");
    assert_eq!(windows(with_pair(&bytes, key, 4, &3u32.to_le_bytes())).unwrap(), "ww-ww-");
    assert_eq!(windows(with_pair(&bytes, key, 4, &0u32.to_le_bytes())).unwrap(), "wwwwww");
    assert_eq!(windows(with_pair(&bytes, key, 9, &array(&[0, 1, 0, 0, 1, 1]))).unwrap(), "-w--ww");
    assert!(windows(with_pair(&bytes, key, 9, &array(&[0, 1]))).unwrap_err().contains("must list 6 layers"));
    let experts = windows(with_pair(&bytes, "gemma3.expert_count", 4, &8u32.to_le_bytes())).unwrap_err();
    assert_eq!(experts, "m.gguf: `gemma3.expert_count` is 8, but models of this architecture have no experts");
}

/// `9000` before the number that stands there.
fn message_layers(text: &str) -> String {
    let rest = text.split_once("\"num_hidden_layers\": ").unwrap().1;
    format!("9000{}", rest.chars().take_while(char::is_ascii_digit).collect::<String>())
}

/// Llama 4's chunks, and the factors on queries where there are none, are those of the published models, or there are none.
#[test]
fn gguf_says_whether_there_are_chunks() {
    let bytes = std::fs::read(root().join("llama4_gguf/model.gguf")).unwrap();
    let layers = |bytes: Vec<u8>| -> Vec<_> {
        let model = Model::from_gguf(Gguf::from_bytes(bytes, "m.gguf").unwrap(), "m.gguf").unwrap();
        let each = |a: &alula_model::Attention| (a.window, a.rope, a.normed, a.temperature);
        model.spec().layers.iter().map(|l| each(l.mixer.attention().unwrap())).collect()
    };
    let local = (Some(Window::Chunked { chunk: 8192 }), Some(0), true, None);
    let whole = (None, None, false, Some(Temperature { floor: 8192.0, scale: 0.1 }));
    assert_eq!(layers(bytes.clone()), [local, local, local, whole]);
    let none = with_pair(&bytes, "llama4.attention.sliding_window", 4, &0u32.to_le_bytes());
    assert_eq!(layers(none), [(None, Some(0), true, None); 4]);
}
