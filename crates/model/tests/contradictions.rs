//! Configurations that contradict their tensors or leave out what the tensors say, and numbers that nothing can be computed
//! with: each is refused with its reason, or read as it must be.

use alula_format::gguf::Gguf;
use alula_graph::Window;
use alula_model::{Experts, Ffn, Model};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity")
}

/// A copy of a case whose configuration and tensors `change` changes: `(config, header, data)`. `Err` is what is said of it.
fn opened(case: &str, change: impl Fn(&mut Value, &mut Value, &mut Vec<u8>)) -> Result<Model, String> {
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(root().join(case).join("config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(root().join(case).join("model.safetensors")).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let mut data = bytes[8 + len..].to_vec();
    change(&mut config, &mut header, &mut data);
    let header = header.to_string();
    let thread = std::thread::current().name().unwrap_or_default().to_owned();
    let dir = std::env::temp_dir().join(format!("alula-contradictions-{}-{thread}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
    let model = Model::open(&dir).map_err(|e| e.to_string());
    std::fs::remove_dir_all(dir).unwrap();
    model
}

/// The same with another value in the configuration; null where it is taken out.
fn with(case: &str, key: &str, value: &Value) -> Result<Model, String> {
    opened(case, |config, _, _| config[key] = value.clone())
}

/// Gives a tensor another shape, with zeros for numbers.
fn reshape(header: &mut Value, data: &mut Vec<u8>, name: &str, shape: &[usize]) {
    let start = data.len();
    data.resize(start + 4 * shape.iter().product::<usize>(), 0);
    header[name] = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
}

fn experts(model: &Model, layer: usize) -> Option<Experts> {
    match model.spec().layers[layer].ffn {
        Ffn::Experts(e) => Some(e),
        _ => None,
    }
}

#[test]
fn numbers_that_cannot_be_are_named() {
    for (case, key, value, want) in [
        ("mixtral", "rms_norm_eps", json!(-1e-5), "`rms_norm_eps` is -0.00001; expected 0 or more"),
        ("bert", "layer_norm_eps", json!(-1), "`layer_norm_eps` is -1; expected 0 or more"),
        ("mamba", "layer_norm_epsilon", json!(-1), "`layer_norm_epsilon` is -1; expected 0 or more"),
        ("falcon_mamba", "mixer_rms_eps", json!(-1), "`mixer_rms_eps` is -1; expected 0 or more"),
        (
            "deepseek_v3",
            "routed_scaling_factor",
            json!(1e300),
            "`routed_scaling_factor` is larger than single precision",
        ),
        ("deepseek_v3", "rope_parameters", json!("yarn"), "`rope_parameters` must be an object, not \"yarn\""),
        ("deepseek_v3", "rope_parameters", json!({"rope_type": 3}), "`rope_parameters` has a type that is no text"),
        ("qwen3_moe", "mlp_only_layers", json!(1), "`mlp_only_layers` must be a list of layers"),
        ("qwen3_moe", "mlp_only_layers", json!(["x"]), "`mlp_only_layers` must be a list of layers"),
        ("llama4", "floor_scale", json!(0), "`floor_scale` is 0; expected 1 or more"),
        ("llama4", "no_rope_layers", json!([1, 1]), "`no_rope_layers` must list 4 layers"),
        ("llama4", "no_rope_layers", json!("x"), "`no_rope_layers` must list 4 layers"),
        ("llama4", "attention_chunk_size", json!(1.5), "`attention_chunk_size` is 1.5; expected a whole number"),
        ("llama4", "use_qk_norm", json!(1), "`use_qk_norm` must be true or false"),
        (
            "modernbert_cls",
            "classifier_pooling",
            json!("max"),
            "`classifier_pooling` is `max`; supported are cls and mean",
        ),
    ] {
        let error = with(case, key, &value).err().unwrap_or_default();
        assert!(error.contains(want), "{case}, {key}: {error:?}");
    }
}

/// A stack or a fused matrix that is larger than the configuration says is another model's.
#[test]
fn fused_tensors_are_used_whole() {
    for (case, tensor, shape, want) in [
        ("granite_moe", "model.layers.0.block_sparse_moe.input_linear.weight", &[6, 60, 48][..], "asks for 288 rows"),
        ("granite_moe", "model.layers.0.block_sparse_moe.output_linear.weight", &[7, 48, 24], "asks for 288 rows"),
        ("llama4", "model.layers.0.feed_forward.experts.gate_up_proj", &[4, 48, 50], "asks for 192 rows"),
        ("llama4", "model.layers.0.feed_forward.experts.gate_up_proj", &[16, 48, 12], "asks for [24, 48]"),
        ("llama4", "model.layers.0.feed_forward.experts.down_proj", &[5, 24, 48], "asks for 192 rows"),
        ("deepseek_v3", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight", &[36, 48], "asks for 28 rows"),
        ("deepseek_v3", "model.layers.1.self_attn.kv_b_proj.weight", &[98, 20], "asks for 88 rows"),
        ("modernbert", "layers.0.attn.Wqkv.weight", &[150, 48], "asks for 144 rows"),
        ("modernbert", "layers.0.mlp.Wi.weight", &[114, 48], "asks for 112 rows"),
    ] {
        let error = opened(case, |_, header, data| {
            assert!(!header[tensor].is_null(), "{header}");
            reshape(header, data, tensor, shape);
        });
        let error = error.err().unwrap_or_default();
        assert!(error.contains(want) && error.contains(tensor), "{case}: {error:?}");
    }
}

/// What the configuration leaves out is as the tensors have it.
#[test]
fn shared_experts_are_found_by_their_tensors() {
    for (case, key, layer, want) in [
        // Its first layer has no experts.
        ("qwen2_moe", "shared_expert_intermediate_size", 1, Some(40)),
        ("deepseek_v2_lite", "n_shared_experts", 1, Some(40)),
        ("deepseek_v3", "n_shared_experts", 1, Some(20)),
    ] {
        let model = with(case, key, &Value::Null).unwrap();
        assert_eq!(experts(&model, layer).unwrap().shared, want, "{case}");
    }
    // None at all.
    let model = opened("deepseek_v3", |config, header, _| {
        config["n_shared_experts"] = Value::Null;
        header.as_object_mut().unwrap().retain(|name, _| !name.contains("shared_experts"));
    });
    assert_eq!(experts(&model.unwrap(), 1).unwrap().shared, None);
}

/// `moe_layer_freq`, which transformers does not know: layers without a router have plain units.
#[test]
fn layers_without_a_router_are_plain() {
    let model = opened("deepseek_v2", |config, header, data| {
        config["moe_layer_freq"] = json!(2);
        header.as_object_mut().unwrap().retain(|name, _| !name.starts_with("model.layers.1.mlp."));
        for (part, shape) in [("gate", [56, 48]), ("up", [56, 48]), ("down", [48, 56])] {
            reshape(header, data, &format!("model.layers.1.mlp.{part}_proj.weight"), &shape);
        }
    });
    let model = model.unwrap();
    assert_eq!([0, 1, 2].map(|i| experts(&model, i).is_some()), [false, false, true]);
}

/// As the published Llama 4 models have it, which read images too.
#[test]
fn a_text_model_may_be_inside_another() {
    let model = opened("llama4", |config, header, _| {
        *config = json!({"model_type": "llama4", "vision_config": {}, "text_config": config.clone()});
        let tensors = std::mem::take(header.as_object_mut().unwrap());
        *header = tensors
            .into_iter()
            .map(|(name, t)| (format!("language_model.{name}").replace("language_model.__", "__"), t))
            .collect();
    });
    assert_eq!(model.unwrap().spec().layers[0].mixer.attention().unwrap().window, Some(Window::Chunked { chunk: 10 }));
}

/// Chunks of null tokens are none; a list of layers without positions that is empty is not there; numbers are truths.
#[test]
fn what_llama_4_leaves_out() {
    let attention = |key: &str, value: Value, layer: usize| {
        let model = with("llama4", key, &value).unwrap();
        model.spec().layers[layer].mixer.attention().unwrap().clone()
    };
    assert_eq!(attention("attention_chunk_size", Value::Null, 0).window, None);
    assert_eq!(attention("no_rope_layers", json!([]), 3).rope, None);
    for (value, there) in [(json!(4), true), (json!(0), false), (json!(true), true), (json!(false), false)] {
        assert_eq!(attention("attn_temperature_tuning", value, 3).temperature.is_some(), there);
    }
}

/// The cache of latent attention grows, so contexts are limited as they are with other attention.
#[test]
fn latent_attention_remembers_every_token() {
    let model = with("deepseek_v3", "x", &Value::Null).unwrap();
    assert!(model.spec().grows() && !model.spec().endless());
    let model = with("mamba", "x", &Value::Null).unwrap();
    assert!(!model.spec().grows() && model.spec().endless());
}

/// Columns are counted in double precision, as Python does.
#[test]
fn a_factor_need_not_be_whole() {
    let model = opened("mamba", |config, header, data| {
        config["expand"] = json!(2.3);
        config.as_object_mut().unwrap().remove("intermediate_size");
        config["hidden_size"] = json!(10);
        let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
        for name in names {
            let Some(shape) = header[&name]["shape"].as_array() else { continue };
            // 32 columns become 10, and 64 become 23.
            let new = |n: &Value| match n.as_u64().unwrap() {
                32 => 10,
                64 => 23,
                128 => 46,
                n => n as usize,
            };
            let shape: Vec<usize> = shape.iter().map(new).collect();
            reshape(header, data, &name, &shape);
        }
        config["time_step_rank"] = json!(2);
    });
    assert_eq!(model.unwrap().spec().layers[0].mixer.ssm().unwrap().inner, 23);
}

#[test]
fn a_gguf_file_names_its_scores() {
    let bytes = std::fs::read(root().join("deepseek_v3_gguf/model.gguf")).unwrap();
    let key = b"deepseek2.expert_gating_func";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let open = |kind: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = kind;
        Model::from_gguf(Gguf::from_bytes(bytes, "m.gguf").unwrap(), "m.gguf").map_err(|e| e.to_string())
    };
    assert_eq!([0, 1, 2].map(|kind| experts(&open(kind).unwrap(), 1).unwrap().sigmoid), [false, false, true]);
    let error = open(4).err().unwrap_or_default();
    assert!(error.contains("expert_gating_func` is 4; supported are"), "{error}");
}

#[test]
fn specs_have_numbers_that_can_be() {
    let text = std::fs::read_to_string(root().join("spec_free/spec.toml")).unwrap();
    let dir = std::env::temp_dir().join(format!("alula-contradictions-{}-spec", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(root().join("spec_free/model.safetensors"), dir.join("model.safetensors")).unwrap();
    let open = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(dir.join("spec.toml"), text.replacen(from, to, 1)).unwrap();
        Model::open(&dir).map_err(|e| e.to_string())
    };
    for (from, to, want) in [
        ("eps = 3e-5", "eps = nan", "`norm` has the eps NaN; expected 0 or more"),
        ("eps = 3e-5", "eps = -1.0", "`norm` has the eps -1"),
        ("eps = 1e-4", "eps = inf", "`layers[0].kind` has the eps inf"),
        ("eps = 1e-5", "eps = -0.1", "`layers[0].norm` has the eps -0.1"),
        ("scaled = 0.7", "scaled = nan", "`layers[1].place` is NaN; expected a finite number"),
        ("scale = 0.3", "scale = inf", "`layers[1].scale` is inf"),
        ("scale = 0.3", "scale = 0.3, soft_cap = 0.0", "`layers[1].soft_cap` is 0; expected a number above 0"),
        ("scale = 0.3", "scale = 0.3, causal = false", "`layers[1].causal` is false, but logits are asked for"),
        ("act = \"silu\", width", "act = { scale = nan }, width", "`layers[1].act` is NaN"),
        ("act = \"silu\", width", "act = { clamp = [2.0, -2.0] }, width", "`layers[1].act` clamps to 2 to -2"),
        ("\"after\"]", "\"after\"], limits = [5.0, 1.0]", "`layers[0].limits` clamps to 5 to 1"),
        ("tied = false", "tied = false\nsoft_cap = -1.0", "`soft_cap` is -1; expected a number above 0"),
        ("tied = false", "tied = false\nembed_scale = nan", "`embed_scale` is NaN"),
        ("logit_scale = 0.5", "logit_scale = inf", "`logit_scale` is inf"),
        ("tied = false", "tied = false\nclip = 0.0", "`clip` is 0; expected a number above 0"),
        ("tied = false", "tied = false\npadding = 3", "`padding` must be the number of the row before"),
    ] {
        let error = open(from, to).err().unwrap_or_default();
        assert!(error.contains(want) && !error.contains('\n'), "{to}: {error:?}");
    }
    let rope = "{ base = 20000.0, dims = 8, style = \"halves\" }";
    let error = open(rope, &[rope; 65].join(", ")).err().unwrap_or_default();
    assert!(error.contains("line 8: 65 ropes; expected up to 64"), "{error}");
    assert!(open(rope, &[rope; 64].join(", ")).is_ok());
    // A matrix for each expert of each layer is more than there can be, before any is looked for.
    let layer = "[[layers]]\nnorm = { kind = \"rms\", eps = 1e-5 }\nplace = \"pre\"\nmixer.ssm = { inner = 80, heads = 80, groups = 1, \
                 state = 6, taps = 3, act = \"silu\", kind.mamba = { rank = 5 } }\nffn.experts = { count = 4096, act = \"silu\", width = 1, \
                 sigmoid = true, route = { used = 1, normalise = true, scale = 1.0 } }\n";
    let error = open("[[layers]]", &[&layer.repeat(65), "[[layers]]"].concat()).err().unwrap_or_default();
    assert!(
        error.contains("has 266240 experts and heads with matrices of their own; expected up to 262144"),
        "{error}"
    );
    // A layer that has nothing beside its mixer adds nothing, wherever its norms stand.
    let nodes = |place: &str| {
        let model = open("place = \"pre\"\nffn = \"none\"", &format!("place = {place}\nffn = \"none\"")).unwrap();
        model.graph().nodes().len()
    };
    assert_eq!(nodes("\"parallel\""), nodes("\"pre\""));
    std::fs::remove_dir_all(dir).unwrap();
}
