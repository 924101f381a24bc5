//! Adapters that ask for what is not done, do not fit, or are damaged: typed errors that say what and where, or a result;
//! nothing panics.
//!
//! `ALULA_MUTATIONS=5000` raises the number of variants per file (default 150).

use alula_device::{Adapter as Choice, Batch, CacheType, Cpu, CpuDevice, Device, Limits, Seq};
use alula_model::{Adapter, Model, ModelError};
use alula_testkit::Rng;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn base(name: &str) -> Model {
    Model::open(&data().join("parity").join(name)).unwrap()
}

/// A copy of a case's adapter that may be changed.
fn copy(case: &str, tag: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("alula-lora-{}-{tag}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(data().join("lora").join(case).join("one").join(file), dir.join(file)).unwrap();
    }
    dir
}

/// What is wrong with the adapter of a folder for a model.
fn refused(dir: &Path, model: &str) -> String {
    let fits = Adapter::open(dir).and_then(|a| base(model).with_adapters(vec![a]));
    let e = fits.err().unwrap_or_else(|| panic!("{} is not refused", dir.display())).to_string();
    assert!(!e.contains('\n') && e.len() < 1200, "{e}");
    e
}

#[test]
fn what_is_not_done_is_refused_by_its_field() {
    let dir = copy("llama_rs", "fields");
    let path = dir.join("adapter_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, why) in [
        ("peft_type", json!("IA3"), "only `LORA`"),
        ("use_dora", json!(true), "only plain and rank-stabilised"),
        ("use_qalora", json!(true), "only plain and rank-stabilised"),
        ("use_bdlora", json!({"nblocks": 2}), "only plain and rank-stabilised"),
        ("bias", json!("lora_only"), "bias = \"none\""),
        ("lora_bias", json!(true), "biases of B"),
        ("modules_to_save", json!(["lm_head"]), "merge the adapter with PEFT"),
        ("trainable_token_indices", json!([1, 2]), "rows of trained tokens"),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"]), "stacks of experts"),
        ("layer_replication", json!([[0, 2]]), "not repeated"),
        ("alora_invocation_tokens", json!([5]), "begin at certain tokens"),
        ("init_lora_weights", json!("pissa_niter_4"), "path_initial_model_for_weight_conversion"),
        ("init_lora_weights", json!("olora"), "path_initial_model_for_weight_conversion"),
        ("lora_alpha", json!("x"), "expected a number"),
        ("lora_alpha", json!(1e300), "expected a number"),
        ("lora_alpha", json!({"__float__": "NaN"}), "expected a number"),
        ("lora_alpha", Value::Null, "is missing"),
        ("r", json!(7), "adapter_config.json says 7"),
        ("rank_pattern", json!([1]), "no object"),
        ("rank_pattern", json!({"k_proj": 2, "v_proj": 3}), "adapter_config.json says 3"),
        ("rank_pattern", json!({"q_proj(": 3}), "no regular expression"),
        ("rank_pattern", json!({"q".repeat(600): 3}), "no regular expression or too long"),
        ("alpha_pattern", json!({"(?:c{1000}){1000}": 3}), "no regular expression"),
        ("alpha_pattern", json!({"q_proj": true}), "expected a number"),
    ] {
        let mut changed = config.clone();
        changed[field] = value.clone();
        std::fs::write(&path, changed.to_string()).unwrap();
        let e = refused(&dir, "llama_gqa");
        let named = e.contains(field) || e.contains("_proj") || field == "r";
        assert!(e.contains(why) && named && e.contains("alula-lora"), "{field} {value}: {e}");
    }
    // What changes nothing is no reason to refuse.
    for (field, value) in [
        ("lora_dropout", json!(0.1)),
        ("inference_mode", json!(false)),
        ("bias", json!("none")),
        ("modules_to_save", json!([])),
        ("init_lora_weights", json!("gaussian")),
        ("use_dora", Value::Null),
        ("something_new", json!(3)),
    ] {
        let mut changed = config.clone();
        changed[field] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        let fits = Adapter::open(&dir).and_then(|a| base("llama_gqa").with_adapters(vec![a]));
        assert!(fits.is_ok(), "{field}: {:?}", fits.err().map(|e| e.to_string()));
    }
    std::fs::write(&path, "[]").unwrap();
    assert!(refused(&dir, "llama_gqa").contains("no JSON object"));
    std::fs::remove_file(&path).unwrap();
    assert!(refused(&dir, "llama_gqa").contains("has no adapter_config.json"));
    std::fs::remove_dir_all(dir).unwrap();
}

/// Rewrites the names of a safetensors file.
fn renamed(dir: &Path, from: &str, to: &str) {
    let path = dir.join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + len]).unwrap();
    assert!(header.contains(from), "{from} in {header}");
    let header = header.replace(from, to);
    let all = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + len..]].concat();
    std::fs::write(path, all).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_by_its_tensor() {
    let llama = data().join("lora/llama_qv/one");
    // Another architecture, and sizes of another model.
    for (model, why) in [
        ("gpt2", "is for a matrix that the model does not have; is the adapter of another model?"),
        ("mamba2", "is for a matrix that the model does not have"),
        ("qwen2", "leads from or to 80, but the model's `blk.0.attn_q.weight` is 48 × 48"),
        ("llama3", "leads from or to"),
    ] {
        let e = refused(&llama, model);
        assert!(e.contains(why) && e.contains("q_proj"), "{model}: {e}");
    }
    let e = refused(&data().join("lora/llama_qv/one.gguf"), "qwen2");
    assert!(e.contains("is an adapter of `llama`, but the model is `qwen2`"), "{e}");
    let e = refused(&data().join("lora/falcon_h1_all/one"), "llama_gqa");
    assert!(e.contains("another model"), "{e}");
    for (from, to, why) in [
        ("layers.1.self_attn.q_proj", "layers.9.self_attn.q_proj", "does not have"),
        ("layers.1.self_attn.q_proj", "layers.1.self_attn.rotary", "does not have"),
        ("layers.1.self_attn.q_proj.lora_A", "layers.1.self_attn.x_proj.lora_A", "one of the matrices A and B only"),
        ("q_proj.lora_B.weight", "q_proj.lora_magnitude_vector", "is no matrix of a LoRA adapter"),
        ("layers.1.self_attn.q_proj.lora_A.weight", "lm_head.base_layer.weight", "is no matrix of a LoRA adapter"),
        ("[4,48]", "[48,4]", "but"),
        ("[4,48]", "[2,96]", "is of rank 4, but"),
        ("[4,48]", "[4,6,8]", "only adapters of matrices"),
        ("[4,48]", "[192]", "only adapters of matrices"),
        ("q_proj.lora_A.weight", "q_proj.lora_embedding_A", "looks up tokens where the model multiplies"),
    ] {
        let dir = copy("llama_qv", "tensors");
        renamed(&dir, from, to);
        let e = refused(&dir, "llama_gqa");
        assert!(e.contains(why) && e.contains("tensor `"), "{from} {to}: {e}");
        std::fs::remove_dir_all(dir).unwrap();
    }
    let open = |path: PathBuf| Adapter::open(&path).err().unwrap().to_string();
    assert!(open(llama.join("adapter_model.safetensors")).contains("give the folder"));
    assert!(open("/nowhere/one".into()).contains("give a PEFT folder or a GGUF adapter"));
    assert!(open(data().join("parity/llama_gqa/model.gguf")).contains("`general.type` is `model`; an adapter's is"));
    assert!(open(data().join("parity/llama_gqa")).contains("has no adapter_config.json"));
    let dir = copy("llama_qv", "weights");
    std::fs::remove_file(dir.join("adapter_model.safetensors")).unwrap();
    assert!(open(dir.clone()).contains("has no adapter_model.safetensors; save the adapter in its safetensors form"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn quantised_bases_are_not_merged_into() {
    let model = Model::open(&data().join("parity/mix32/model.gguf")).unwrap();
    // An adapter of the same sizes, by its names alone.
    let e = Adapter::open(&data().join("lora/llama_qv/one")).and_then(|a| model.merged(&[(a, 1.0)])).err();
    let e = e.unwrap().to_string();
    assert!(e.contains("another model") || e.contains("is quantised"), "{e}");
    let builtin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../alula/assets/builtin.gguf");
    let model = Model::open(&builtin).unwrap();
    let [heads, dim, width] = {
        let a = model.spec().layers[0].mixer.attention().unwrap();
        [a.heads, a.key_dim, model.spec().width]
    };
    let file = std::env::temp_dir().join(format!("alula-lora-{}-quantised.gguf", std::process::id()));
    let tensors = [("blk.0.attn_q.weight.lora_a", [2, width]), ("blk.0.attn_q.weight.lora_b", [heads * dim, 2])];
    std::fs::write(&file, gguf(&tensors)).unwrap();
    let e = Adapter::open(&file).and_then(|a| model.merged(&[(a, 1.0)])).err().unwrap().to_string();
    assert!(e.contains("`blk.0.attn_q.weight` is quantised (") && e.contains("use it without merging it"), "{e}");
    let fits = Adapter::open(&file).and_then(|a| Model::open(&builtin).unwrap().with_adapters(vec![a]));
    assert!(fits.is_ok());
    std::fs::remove_file(file).unwrap();
}

/// A GGUF adapter of zeros for Llama.
fn gguf(tensors: &[(&str, [usize; 2])]) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat();
    let mut out = [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes(), &3u64.to_le_bytes()].concat();
    for (key, value) in [("general.architecture", "llama"), ("general.type", "adapter"), ("adapter.type", "lora")] {
        out.extend([text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat());
    }
    let mut at = 0u64;
    for (name, [rows, cols]) in tensors {
        out.extend([text(name), 2u32.to_le_bytes().to_vec()].concat());
        out.extend([*cols as u64, *rows as u64].map(u64::to_le_bytes).as_flattened());
        out.extend([&0u32.to_le_bytes()[..], &at.to_le_bytes()].concat());
        at = (at + (rows * cols * 4) as u64).next_multiple_of(32);
    }
    out.resize(out.len().next_multiple_of(32) + at as usize, 0);
    out
}

const ABSURD: [u64; 10] = [0, 1, 3, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, 1 << 63, u64::MAX];

/// Loads the model with the adapter, or merged, and runs three tokens.
fn exercise(path: &Path, model: &str, merge: bool) -> Result<(), String> {
    let text = |e: ModelError| e.to_string();
    let (adapter, model) = (Adapter::open(path).map_err(text)?, base(model));
    let model = if merge { model.merged(&[(adapter, 0.5)]) } else { model.with_adapters(vec![adapter]) };
    let model = model.map_err(text)?;
    let limits =
        Limits { tokens: 4, outputs: 4, context: 64, pages: 1, slots: 1, checkpoints: 0, cache: CacheType::F32 };
    let device = CpuDevice::new(Cpu::from_env().map_err(|e| e.to_string())?, 1);
    let plan = device.compile(model.graph(), model.weights(), limits, None, &mut |_, _| ());
    let mut plan = plan.map_err(|e| e.to_string())?;
    let adapters = [Choice { index: 0, scale: 2.0 }];
    let adapters = if merge { &adapters[..0] } else { &adapters };
    let seqs = [Seq { start: 0, len: 3, length: 3, pages: &[0], slot: 0, adapters }];
    let batch = Batch { tokens: &[1, 2, 3], positions: &[0, 1, 2], seqs: &seqs, outputs: &[0, 2], ..Batch::default() };
    plan.run(&batch).map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn damaged_adapters_are_refused_or_run() {
    let count = std::env::var("ALULA_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    for (case, model, file) in [
        ("llama_all", "llama_gqa", "one.gguf"),
        ("qwen2_embed", "qwen2", "one.gguf"),
        ("gpt2_all", "gpt2", "one/adapter_model.safetensors"),
        ("qwen2_embed", "qwen2", "one/adapter_model.safetensors"),
        ("llama_rs", "llama_gqa", "one/adapter_config.json"),
    ] {
        let dir = copy(case, &format!("damaged-{case}-{}", file.len()));
        let bytes = std::fs::read(data().join("lora").join(case).join(file)).unwrap();
        let within = if file.ends_with("safetensors") { 2500 } else { 1800 };
        let mut bad = 0;
        for i in 0..count {
            let r = &mut Rng(0x9e37_79b9_7f4a_7c15 ^ (i as u64 + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
            let mut bytes = bytes.clone();
            for _ in 0..1 + r.below(3) {
                let at = r.below(within.min(bytes.len()));
                match r.below(5) {
                    0 => bytes[at] ^= 1 << r.below(8),
                    1 => bytes[at] = r.next() as u8,
                    2 => bytes[at] = b"0123456789[]{}\",:."[r.below(18)],
                    3 => {
                        let n = [1, 2, 4, 8][r.below(4)].min(bytes.len() - at);
                        bytes[at..at + n].copy_from_slice(&ABSURD[r.below(10)].to_le_bytes()[..n]);
                    }
                    _ if r.below(8) == 0 => bytes.truncate(at + 1),
                    _ => bytes.swap(at, at / 2),
                }
            }
            let name = Path::new(file).file_name().unwrap();
            std::fs::write(dir.join(name), bytes).unwrap();
            let path = if file.ends_with("gguf") { dir.join(name) } else { dir.clone() };
            let result = catch_unwind(AssertUnwindSafe(|| exercise(&path, model, i % 2 == 1)));
            match result.unwrap_or_else(|_| panic!("{case}/{file}: variant {i} panicked")) {
                Ok(()) => {}
                Err(e) => {
                    assert!(!e.is_empty() && !e.contains('\n'), "{case}/{file}: variant {i}: {e:?}");
                    bad += 1;
                }
            }
        }
        std::fs::remove_dir_all(dir).unwrap();
        println!("{case}/{file}: {bad} of {count} refused");
        assert!(bad > count / 10, "{case}/{file}: only {bad} refused: the mutations do not bite");
    }
}
