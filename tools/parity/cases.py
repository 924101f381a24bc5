"""The table of tiny models: one row a configuration that some real file could have.

A row is `NAME: Case(family, config keywords, ...)`. `FAMILIES` names the transformers classes and what every
row of the family starts from. `draw` makes further rows at random from the same options.
"""
from dataclasses import dataclass, field
import random

# family: (config class, model class, defaults)
_LLAMA = dict(vocab_size=97, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=None)
_GEMMA = {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "pad_token_id": 0}
_EXPERTS = dict(num_local_experts=6, num_experts_per_tok=2)
_MOE = dict(num_experts=7, num_experts_per_tok=3, moe_intermediate_size=24)
_LATENT = {**_LLAMA, "num_key_value_heads": 4, "num_hidden_layers": 3, "q_lora_rank": 28, "kv_lora_rank": 20, "qk_nope_head_dim": 12,
           "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 3,
           "moe_intermediate_size": 20, "first_k_dense_replace": 1}
_BERT = dict(vocab_size=97, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128, pad_token_id=0)
_ROBERTA = {**_BERT, "max_position_embeddings": 130, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DISTIL = dict(vocab_size=97, dim=48, hidden_dim=56, n_layers=2, n_heads=4, max_position_embeddings=128)
_MODERN = {**_BERT, "num_hidden_layers": 4, "local_attention": 16, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
_MAMBA = dict(vocab_size=97, hidden_size=32, state_size=8, num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
_MAMBA2 = dict(mamba_n_heads=8, mamba_d_head=12, mamba_n_groups=1, mamba_d_state=16, mamba_chunk_size=16)
_FACTORS = dict(embedding_multiplier=5.5, attention_multiplier=0.11, residual_multiplier=0.3, logits_scaling=2.5)
FAMILIES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", {**_LLAMA, "head_dim": 12, "num_hidden_layers": 4, "intermediate_size": 24, "intermediate_size_mlp": 40,
                                                         "num_local_experts": 4, "rope_parameters": dict(rope_type="default", rope_theta=500000.0)}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_LLAMA, "sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_LLAMA, "head_dim": 20}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", dict(vocab_size=97, n_embd=48, n_layer=2, n_head=4, n_positions=128,
                                                   bos_token_id=1, eos_token_id=2)),
    "phi": ("PhiConfig", "PhiForCausalLM", {**_LLAMA, "num_key_value_heads": 4, "intermediate_size": 192}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**_LLAMA, "pad_token_id": 0}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {k: v for k, v in _GEMMA.items() if k not in ("sliding_window", "query_pre_attn_scalar")}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _GEMMA),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _GEMMA),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_LLAMA, **_EXPERTS, "sliding_window": None}),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**_LLAMA, **_MOE, "shared_expert_intermediate_size": 40}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**_LLAMA, **_MOE, "head_dim": 20}),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", {**_LLAMA, **_EXPERTS, "intermediate_size": 24}),
    "deepseek_v2": ("DeepseekV2Config", "DeepseekV2ForCausalLM", {**_LATENT, "topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", {**_LATENT, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}),
    # encoders: `_cls` ones score texts
    "bert": ("BertConfig", "BertModel", _BERT),
    "bert_cls": ("BertConfig", "BertForSequenceClassification", {**_BERT, "num_labels": 1}),
    "roberta": ("RobertaConfig", "RobertaModel", _ROBERTA),
    "xlm_roberta": ("XLMRobertaConfig", "XLMRobertaModel", {**_ROBERTA, "type_vocab_size": 1}),
    "xlm_roberta_cls": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", {**_ROBERTA, "type_vocab_size": 1, "num_labels": 1}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", _DISTIL),
    "distilbert_cls": ("DistilBertConfig", "DistilBertForSequenceClassification", {**_DISTIL, "num_labels": 1}),
    "nomic": ("NomicBertConfig", "NomicBertModel", _BERT),
    "gte": ("GteConfig", "GteModel", _BERT),
    "modernbert": ("ModernBertConfig", "ModernBertModel", _MODERN),
    "modernbert_cls": ("ModernBertConfig", "ModernBertForSequenceClassification", {**_MODERN, "num_labels": 1}),
    "mamba": ("MambaConfig", "MambaForCausalLM", _MAMBA),
    "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM", _MAMBA),
    "mamba2": ("Mamba2Config", "Mamba2ForCausalLM", {**_MAMBA, "state_size": 16, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16}),
    "bamba": ("BambaConfig", "BambaForCausalLM", {**_LLAMA, **_MAMBA2, "num_hidden_layers": 3, "attn_layer_indices": [1]}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {**_LLAMA, **_FACTORS}),
    "granite_moe": ("GraniteMoeConfig", "GraniteMoeForCausalLM", {**_LLAMA, **_FACTORS, "intermediate_size": 24}),
    "granite_moe_shared": ("GraniteMoeSharedConfig", "GraniteMoeSharedForCausalLM", {**_LLAMA, **_FACTORS, "intermediate_size": 24, "shared_intermediate_size": 40}),
    "granite_hybrid": ("GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM", {
        **_LLAMA, **_MAMBA2, **_FACTORS, "num_hidden_layers": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_local_experts": 0, "shared_intermediate_size": 56}),
    "falcon_h1": ("FalconH1Config", "FalconH1ForCausalLM", {**_LLAMA, **_MAMBA2, "mamba_d_ssm": 96, "pad_token_id": 0}),
    "jamba": ("JambaConfig", "JambaForCausalLM", {**_LLAMA, "num_hidden_layers": 3, "num_experts": 1, "attn_layer_period": 3, "attn_layer_offset": 1,
                                                  "mamba_d_state": 8, "mamba_dt_rank": 4, "pad_token_id": 0}),
}
ENCODERS = ("bert", "roberta", "xlm_roberta", "distilbert", "nomic", "gte", "modernbert")


@dataclass
class Case:
    """One tiny model. `config` goes over the family's defaults; the rest says how the folder is written."""
    family: str
    config: dict = field(default_factory=dict)
    mtp: bool = False             # a layer for multi-token prediction comes after the others
    fp8: tuple = ()               # rows and columns of a block: projections are stored as FP8 with a scale for each block
    stored: str = "bfloat16"      # dtype of the file; "float32" keeps full random f32 values, the others are exact in f16 too
    shards: bool = False          # several files with an index
    old: bool = False             # config.json in the dialect of transformers 4 and the hub
    drop: tuple = ()              # keys removed from config.json (hub files leave defaults out)
    add: dict = field(default_factory=dict)      # keys added to config.json
    names: str = ""               # "bare": tensor names without the model prefix, with the mask buffers of the hub's gpt2; "gamma": TensorFlow's for norms
    types: bool = False           # the second half of the prompt is of type 1
    gguf: str = ""                # type of the committed GGUF twin: f32, f16, bf16 or none
    unsplit: bool = False         # the twin is written as llama.cpp wrote DeepSeek-V2 before it absorbed matrices
    note: str = ""
    extra: bool = False           # made only when asked for, not kept in the project


def rope(kind, theta=10000.0, **k):
    """The `rope_parameters` of transformers 5."""
    return dict(rope_type=kind, rope_theta=theta, **k)


def _factors(n, low, step):
    return [round(low + step * i * i, 4) for i in range(n)]


CASES = {
    # Llama
    "llama_gqa": Case("llama", dict(head_dim=20, rms_norm_eps=3e-6, rope_parameters=rope("default", 12345.0)), gguf="bf16",
                      note="head size is not width/heads; odd epsilon, theta and vocabulary"),
    "llama_bias_tied": Case("llama", dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True, tie_word_embeddings=True), old=True, gguf="f16"),
    "llama3": Case("llama", dict(num_hidden_layers=1, rms_norm_eps=1e-5, max_position_embeddings=1024, rope_parameters=rope(
        "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), gguf="f32"),
    "llama3_old": Case("llama", dict(head_dim=24, tie_word_embeddings=True, rope_parameters=rope(
        "llama3", 300000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=3.5, original_max_position_embeddings=32)), old=True, shards=True),
    "llama_linear": Case("llama", dict(num_hidden_layers=1, rope_parameters=rope("linear", factor=2.5)), old=True, add={"rope_scaling": {"type": "linear", "factor": 2.5}},
                         note="rope_scaling spelled with `type`"),
    "llama_yarn": Case("llama", dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64)), gguf="bf16"),
    "llama_yarn_all": Case("llama", dict(rope_parameters=rope("yarn", 30000.0, factor=8.0, original_max_position_embeddings=32,
                           attention_factor=1.37, beta_fast=16.0, beta_slow=2.0)), old=True, note="explicit attention factor and betas"),
    "llama_yarn_mscale": Case("llama", dict(num_hidden_layers=1, head_dim=32, rope_parameters=rope("yarn", factor=16.0, original_max_position_embeddings=24, truncate=False,
                              mscale=1.2, mscale_all_dim=0.7)), shards=True, note="correction range not truncated; mscale ratio"),
    "llama_dynamic": Case("llama", dict(num_hidden_layers=1, max_position_embeddings=128, rope_parameters=rope("dynamic", factor=3.0)), old=True, extra=True, note="within the trained context: no effect"),
    "llama_dynamic_long": Case("llama", dict(num_hidden_layers=1, max_position_embeddings=32, rope_parameters=rope("dynamic", 20000.0, factor=2.0)),
                               note="beyond the trained context: the base depends on the length of the whole input"),
    "llama_mqa": Case("llama", dict(num_attention_heads=6, num_key_value_heads=1, head_dim=16, intermediate_size=52), stored="float16"),
    "llama_f32": Case("llama", dict(num_key_value_heads=4, intermediate_size=40, num_hidden_layers=1, rms_norm_eps=1e-5), stored="float32"),
    "llama_hub": Case("llama", dict(num_key_value_heads=4), old=True, drop=("head_dim", "num_key_value_heads", "rope_theta", "attention_bias", "mlp_bias", "pad_token_id"),
                      add={"rope_scaling": None, "pretraining_tp": 1}, names="inv_freq", note="as old hub files: few keys, leftover rotary buffers"),
    "llama_two_heads": Case("llama", dict(num_hidden_layers=1), add={"tie_word_embeddings": True}, note="says tied, but the file has a head of its own, which counts"),
    "llama_both_ropes": Case("llama", dict(num_hidden_layers=1, rope_parameters=rope("yarn", 30000.0, factor=4.0, original_max_position_embeddings=64)),
                             add={"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, "rope_theta": 30000.0,
                                  "rope_parameters": rope("linear", 20000.0, factor=2.5)}, note="both dialects at once: the old one counts"),
    # Mistral
    "mistral": Case("mistral", dict(rms_norm_eps=1e-5), old=True, gguf="bf16"),
    "mistral_window": Case("mistral", dict(head_dim=20, sliding_window=8, rope_parameters=rope("default", 1e6))),
    "mistral_window_old": Case("mistral", dict(num_attention_heads=6, num_key_value_heads=3, sliding_window=17, tie_word_embeddings=True), old=True, extra=True),
    # Qwen 2
    "qwen2": Case("qwen2", dict(rope_parameters=rope("default", 1e6)), gguf="bf16"),
    "qwen2_window": Case("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=1, intermediate_size=40), old=True),
    "qwen2_types": Case("qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=11, tie_word_embeddings=True,
                                      layer_types=["sliding_attention", "full_attention", "sliding_attention"], intermediate_size=40)),
    "qwen2_tied_yarn": Case("qwen2", dict(num_hidden_layers=1, tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=rope("yarn", 1e6, factor=4.0,
                            original_max_position_embeddings=32)), old=True, gguf="f16", add={"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}),
    # Qwen 3
    "qwen3": Case("qwen3", dict(rope_parameters=rope("default", 1e6)), gguf="bf16"),
    "qwen3_bias": Case("qwen3", dict(attention_bias=True, tie_word_embeddings=True, rms_norm_eps=3e-6), old=True),
    "qwen3_window": Case("qwen3", dict(head_dim=12, num_hidden_layers=3, use_sliding_window=True, sliding_window=9, max_window_layers=2, intermediate_size=40), shards=True),
    # GPT-2
    "gpt2": Case("gpt2", dict(n_layer=1), gguf="f16"),
    "gpt2_inverse": Case("gpt2", dict(n_inner=88, activation_function="gelu", scale_attn_by_inverse_layer_idx=True,
                                      layer_norm_epsilon=3e-6)),
    "gpt2_relu": Case("gpt2", dict(activation_function="relu", n_head=3, tie_word_embeddings=False, scale_attn_weights=False, n_layer=1), old=True),
    "distilgpt2": Case("gpt2", dict(n_embd=32, n_layer=1, n_positions=112), old=True, names="bare", drop=("tie_word_embeddings", "torch_dtype"),
                       add={"_num_labels": 1, "n_ctx": 112}, stored="float32", note="as the hub's gpt2: bare names, mask buffers, no dtype"),
    # Phi-2
    "phi": Case("phi", dict(num_hidden_layers=1), gguf="bf16"),
    "phi_partial": Case("phi", dict(hidden_size=80, intermediate_size=52, num_hidden_layers=1, rope_parameters=rope("default", 10000.0, partial_rotary_factor=0.4)), old=True,
                        note="rotary 0.4 of a head of 20"),
    "phi_qknorm": Case("phi", dict(num_key_value_heads=2, qk_layernorm=True, intermediate_size=76, layer_norm_eps=3e-6), note="grouped heads"),
    # Phi-3
    "phi3": Case("phi3", dict(original_max_position_embeddings=256), gguf="f16"),
    "phi3_window": Case("phi3", dict(sliding_window=8, num_key_value_heads=4), old=True, gguf="bf16"),
    "phi3_long": Case("phi3", dict(original_max_position_embeddings=32, rope_parameters=rope(
        "longrope", short_factor=_factors(6, 1.0, 0.01), long_factor=_factors(6, 1.05, 0.8))), old=True, gguf="f16", note="every position beyond the original context"),
    "phi3_short": Case("phi3", dict(max_position_embeddings=1024, original_max_position_embeddings=256, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=rope(
        "longrope", short_factor=_factors(6, 1.1, 0.05), long_factor=_factors(6, 2.0, 1.0), partial_rotary_factor=0.75)), note="as Phi-4-mini: partial, tied; within the original context"),
    "phi3_hub": Case("phi3", dict(num_hidden_layers=1, original_max_position_embeddings=32, rope_parameters=rope(
        "longrope", short_factor=_factors(6, 1.0, 0.02), long_factor=_factors(6, 1.2, 1.9), attention_factor=1.21)), old=True,
        add={"rope_scaling": {"type": "longrope", "short_factor": _factors(6, 1.0, 0.02), "long_factor": _factors(6, 1.2, 1.9), "attention_factor": 1.21}}),
    # Gemma
    "gemma": Case("gemma", dict(num_key_value_heads=1), old=True, gguf="bf16"),
    "gemma_hub": Case("gemma", dict(num_hidden_layers=1), old=True, add={"hidden_act": "gelu", "hidden_activation": None, "final_logit_softcapping": 1.2, "query_pre_attn_scalar": 50},
                      note="as the hub's first files: gelu is its approximation; what is Gemma 2's counts for nothing"),
    "gemma2": Case("gemma2", dict(attn_logit_softcapping=5.5, final_logit_softcapping=1.7), gguf="bf16"),
    "gemma2_act": Case("gemma2", dict(num_hidden_layers=1, hidden_activation="gelu_pytorch_tanh"), add={"hidden_act": "gelu"}, note="hidden_activation counts, not hidden_act"),
    "gemma2_nocap": Case("gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=50, head_dim=20)),
    "gemma2_old": Case("gemma2", dict(rms_norm_eps=2e-5, sliding_window=13, query_pre_attn_scalar=24, attn_logit_softcapping=3.0, final_logit_softcapping=0.9,
                                      num_attention_heads=3, num_key_value_heads=3), old=True),
    "gemma3": Case("gemma3", dict(num_hidden_layers=6, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32), gguf="bf16", note="five windows to one full layer"),
    "gemma3_scaled": Case("gemma3", dict(num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24, rope_parameters=dict(
        sliding_attention=rope("default", 10000.0), full_attention=rope("linear", 1e6, factor=8.0))), gguf="bf16", note="as the larger Gemma 3"),
    "gemma3_linear": Case("gemma3", dict(rms_norm_eps=1e-5, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=3, query_pre_attn_scalar=30, sliding_window=11, intermediate_size=24, rope_parameters=dict(
        sliding_attention=rope("default", 5000.0), full_attention=rope("linear", 2e5, factor=8.0))), old=True, add={"sliding_window_pattern": 3},
        note="scaling on the full layers only; pattern given as a number"),
    "gemma3_defaults": Case("gemma3", dict(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, head_dim=8, query_pre_attn_scalar=256, intermediate_size=24, rope_parameters=dict(
        sliding_attention=rope("default", 10000.0), full_attention=rope("linear", 1e6, factor=8.0))), old=True,
        drop=("num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar", "rms_norm_eps", "rope_theta", "rope_local_base_freq", "tie_word_embeddings", "hidden_activation"),
        note="as the 4B on the hub, which leaves out what is the default"),
    # BERT and its kin
    "bert": Case("bert", dict(hidden_act="gelu"), gguf="f32", note="norms with 1e-12"),
    "bert_types": Case("bert", dict(layer_norm_eps=3e-5, num_attention_heads=3, hidden_act="gelu_new", type_vocab_size=3), types=True, old=True, drop=("layer_norm_epsilon",)),
    "bert_relu": Case("bert", dict(hidden_act="relu", hidden_size=40, num_attention_heads=5, intermediate_size=52, num_hidden_layers=3, layer_norm_eps=1e-6), shards=True, stored="float32"),
    "bert_relu2": Case("bert", dict(hidden_act="relu2", num_hidden_layers=1)),
    "bert_quick": Case("bert", dict(hidden_act="quick_gelu", num_hidden_layers=1)),
    "bert_hub": Case("bert_cls", dict(num_labels=3), old=True, names="gamma", types=True, add={"position_embedding_type": "absolute", "gradient_checkpointing": False},
                     note="gamma and beta, as the first files; three scores"),
    "bert_cls": Case("bert_cls", dict(layer_norm_eps=1e-6), types=True),
    "roberta": Case("roberta", dict(layer_norm_eps=1e-5), old=True, gguf="bf16", note="positions begin at 2"),
    "roberta_pad": Case("roberta", dict(pad_token_id=2, eos_token_id=1, max_position_embeddings=100, type_vocab_size=1, hidden_act="silu"), note="positions begin at 3"),
    "roberta_padded": Case("roberta", dict(pad_token_id=20, max_position_embeddings=72, num_hidden_layers=1), note="the prompt has padding in it"),
    "xlm_roberta": Case("xlm_roberta", dict(num_attention_heads=6, intermediate_size=44), gguf="f16"),
    "xlm_roberta_cls": Case("xlm_roberta_cls", dict(layer_norm_eps=1e-5), gguf="f32"),
    "distilbert": Case("distilbert", dict(n_heads=3), gguf="f16"),
    "distilbert_relu": Case("distilbert", dict(activation="relu", n_layers=1, hidden_dim=100, sinusoidal_pos_embds=True), old=True),
    "distilbert_cls": Case("distilbert_cls", dict(n_layers=1, num_labels=2)),
    "nomic": Case("nomic", dict(rope_parameters=rope("default", 1000.0), layer_norm_eps=1e-12), note="with transformers' configuration"),
    "nomic_hub": Case("nomic", dict(rope_parameters=rope("default", 777.0), layer_norm_eps=3e-6, num_attention_heads=3, max_position_embeddings=8192), old=True, gguf="f32", note="with the hub's configuration"),
    "gte": Case("gte", dict(rope_parameters=rope("default", 20000.0), type_vocab_size=1)),
    "gte_ntk": Case("gte", dict(rope_parameters=rope("linear", 160000.0, factor=2.0), type_vocab_size=0, num_attention_heads=6, layer_norm_eps=1e-6, hidden_act="silu"), old=True),
    "modernbert": Case("modernbert", dict(), gguf="f32", add={"global_attn_every_n_layers": 3}, note="global layers 0 and 3"),
    "modernbert_bias": Case("modernbert", dict(norm_bias=True, attention_bias=True, mlp_bias=True, norm_eps=3e-6, local_attention=9, num_attention_heads=6, hidden_activation="silu",
                            layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
                            rope_parameters=dict(full_attention=rope("default", 50000.0), sliding_attention=rope("default", 700.0))), note="an odd window, half of it on each side"),
    "modernbert_hub": Case("modernbert", dict(num_hidden_layers=3, num_attention_heads=3, local_attention=6, global_attn_every_n_layers=2), old=True, stored="float32"),
    "modernbert_cls": Case("modernbert_cls", dict(num_hidden_layers=2, classifier_pooling="mean", classifier_bias=True)),
    "modernbert_first": Case("modernbert_cls", dict(num_hidden_layers=2, classifier_pooling="cls", classifier_activation="silu", num_labels=2), old=True),
    # Mamba
    "mamba": Case("mamba", dict(layer_norm_epsilon=3e-6), gguf="bf16"),
    "mamba_odd": Case("mamba", dict(hidden_size=40, state_size=5, expand=3, conv_kernel=3, time_step_rank=7, use_bias=True, use_conv_bias=False,
                                    layer_norm_epsilon=2e-4, tie_word_embeddings=False), old=True, note="three times as wide inside; biases where others have none, none where they do"),
    "mamba_wide": Case("mamba", dict(hidden_size=24, state_size=19, num_hidden_layers=3, conv_kernel=2, hidden_act="gelu"), stored="float32", shards=True),
    "falcon_mamba": Case("falcon_mamba", dict(layer_norm_epsilon=3e-5, mixer_rms_eps=3e-5), gguf="f16", note="GGUF has one epsilon for all norms"),
    "falcon_mamba_eps": Case("falcon_mamba", dict(hidden_size=24, state_size=6, conv_kernel=3, layer_norm_epsilon=1e-6, mixer_rms_eps=3e-2, tie_word_embeddings=False), old=True),
    # Mamba-2
    "mamba2": Case("mamba2", dict(layer_norm_epsilon=3e-4), gguf="bf16"),
    "mamba2_odd": Case("mamba2", dict(hidden_size=40, expand=3, num_heads=6, head_dim=20, n_groups=3, state_size=11, conv_kernel=5, use_bias=True, use_conv_bias=False,
                                      chunk_size=7, time_step_limit=[0.4, 0.8], tie_word_embeddings=True)),
    "mamba2_one": Case("mamba2", dict(hidden_size=24, num_heads=1, head_dim=48, n_groups=1, layer_norm_epsilon=1e-6), old=True, add={"time_step_limit": [0.0, float("inf")]},
                       gguf="f32", note="one head; an infinity as Python writes it"),
    # Bamba and Granite
    "bamba": Case("bamba", dict(rms_norm_eps=3e-4), old=True, note="half of a head is rotated where nothing is said"),
    "bamba_full": Case("bamba", dict(rope_parameters=rope("default", 20000.0, partial_rotary_factor=1.0), rms_norm_eps=1e-6), gguf="bf16"),
    "bamba_odd": Case("bamba", dict(attn_layer_indices=[0, 2], num_attention_heads=6, num_key_value_heads=3, mamba_n_heads=4, mamba_d_head=24, mamba_n_groups=2, mamba_d_conv=3,
                                    time_step_limit=[0.3, 0.9], mamba_proj_bias=True, mamba_conv_bias=False, mlp_bias=True, attention_bias=True, tie_word_embeddings=True)),
    "granite": Case("granite", dict(num_hidden_layers=3), gguf="bf16"),
    "granite_bias": Case("granite", dict(num_hidden_layers=1, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=3e-5,
                         embedding_multiplier=1.0, attention_multiplier=1.0), old=True, drop=("embedding_multiplier", "attention_multiplier"), note="what is left out is 1"),
    "granite_hybrid": Case("granite_hybrid", dict(rms_norm_eps=3e-5), add={"layer_types": ["mamba", "attention", "mamba"]}, old=True, gguf="bf16", note="layer types as on the hub"),
    "granite_hybrid_rope": Case("granite_hybrid", dict(num_hidden_layers=2, layer_types=["full_attention", "linear_attention"], position_embedding_type="rope", mamba_n_heads=6, mamba_d_head=16,
                                mamba_n_groups=3, mamba_d_state=7, residual_multiplier=1.0, tie_word_embeddings=True, rope_parameters=rope("default", 5000.0))),
    # Falcon-H1
    "falcon_h1": Case("falcon_h1", dict(rms_norm_eps=3e-6, embedding_multiplier=3.3, lm_head_multiplier=0.4, mlp_multipliers=[0.8, 1.3], key_multiplier=0.6, attention_in_multiplier=1.2,
                      attention_out_multiplier=0.9, ssm_in_multiplier=1.1, ssm_out_multiplier=0.7, ssm_multipliers=[0.9, 1.2, 0.8, 1.1, 0.5], rope_parameters=rope("default", 30000.0))),
    "falcon_h1_norm": Case("falcon_h1", dict(num_hidden_layers=1, mamba_rms_norm=True, mamba_n_groups=2, mamba_norm_before_gate=True, mamba_d_ssm=64, mamba_d_head=8, projectors_bias=True,
                           mamba_proj_bias=True, attention_bias=True, mlp_bias=True, mamba_conv_bias=False, tie_word_embeddings=True, ssm_multipliers=[1.0, 1.0, 1.0, 1.0, 0.5],
                           time_step_limit=[0.2, 0.7], head_dim=16), old=True),
    "falcon_h1_gate": Case("falcon_h1", dict(num_hidden_layers=1, mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_d_ssm=128, mamba_d_head=16, head_dim=12,
                           mlp_multipliers=[1.0, 1.0], ssm_multipliers=[1.0, 1.0, 1.0, 1.0, 1.0]), gguf="bf16"),
    # Jamba
    "jamba": Case("jamba", dict(rms_norm_eps=3e-4), gguf="bf16"),
    "jamba_odd": Case("jamba", dict(mamba_expand=3, mamba_d_conv=3, mamba_d_state=5, mamba_dt_rank="auto", mamba_conv_bias=False, mamba_proj_bias=True, attn_layer_period=2,
                                    attn_layer_offset=0, num_key_value_heads=1, tie_word_embeddings=True), old=True, add={"mamba_dt_rank": "auto"}),
    "gemma3_cap": Case("gemma3", dict(num_hidden_layers=3, head_dim=20, query_pre_attn_scalar=20, final_logit_softcapping=1.3, attn_logit_softcapping=4.0, intermediate_size=40,
                       num_key_value_heads=4, layer_types=["full_attention", "sliding_attention", "full_attention"]), extra=True),
    # Mixtures of experts
    "mixtral": Case("mixtral", dict(rms_norm_eps=3e-6), gguf="bf16"),
    "mixtral_old": Case("mixtral", dict(num_local_experts=5, num_experts_per_tok=3, num_hidden_layers=1, sliding_window=9, intermediate_size=40,
                        tie_word_embeddings=True), old=True, shards=True, note="a window; three of five experts"),
    "qwen2_moe": Case("qwen2_moe", dict(num_hidden_layers=3, intermediate_size=40, decoder_sparse_step=2), note="every second layer has experts"),
    "qwen2_moe_norm": Case("qwen2_moe", dict(num_hidden_layers=1, norm_topk_prob=True, num_experts=4, num_experts_per_tok=1), old=True),
    "qwen2_moe_gguf": Case("qwen2_moe", dict(num_hidden_layers=1), gguf="bf16"),
    "qwen3_moe": Case("qwen3_moe", dict(norm_topk_prob=True, rms_norm_eps=1e-5), gguf="bf16"),
    "qwen3_moe_plain": Case("qwen3_moe", dict(num_hidden_layers=2, mlp_only_layers=[0], intermediate_size=40, num_experts_per_tok=7, attention_bias=True),
                            old=True, note="all experts of a layer; the first layer has none"),
    "olmoe": Case("olmoe", dict(num_key_value_heads=4), gguf="bf16"),
    "olmoe_norm": Case("olmoe", dict(norm_topk_prob=True, num_local_experts=9, num_hidden_layers=1), old=True),
    "granite_moe": Case("granite_moe", dict(num_local_experts=6, num_experts_per_tok=2, rms_norm_eps=3e-5), gguf="bf16"),
    "granite_moe_shared": Case("granite_moe_shared", dict(num_local_experts=3, num_experts_per_tok=2, num_hidden_layers=1), gguf="bf16"),
    "olmoe_clip": Case("olmoe", dict(num_key_value_heads=4, num_hidden_layers=1, clip_qkv=0.9)),
    "granite_hybrid_moe": Case("granite_hybrid", dict(num_local_experts=5, num_experts_per_tok=3, intermediate_size=24, shared_intermediate_size=40), old=True, gguf="bf16",
                               add={"layer_types": ["mamba", "attention", "mamba"]}),
    "jamba_moe": Case("jamba", dict(num_experts=4, num_experts_per_tok=2, expert_layer_period=2, expert_layer_offset=1), gguf="bf16"),
    # Llama 4
    "llama4": Case("llama4", dict(attention_chunk_size=10, floor_scale=7, attn_scale=0.4, rms_norm_eps=3e-5, rope_parameters=rope(
        "llama3", 300000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
        note="chunks of 10 in three of four layers; in the fourth, queries sharper every 7 tokens"),
    "llama4_two": Case("llama4", dict(attention_chunk_size=23, floor_scale=16, attn_scale=0.25, num_experts_per_tok=2, num_local_experts=5, interleave_moe_layer_step=2, use_qk_norm=False,
                       no_rope_layers=[0, 1, 1, 0], layer_types=["chunked_attention", "full_attention", "chunked_attention", "full_attention"], head_dim=20, num_key_value_heads=1, intermediate_size=20, intermediate_size_mlp=52, attention_bias=True, rms_norm_eps=2e-6),
                       old=True, shards=True, note="two of five experts in every second layer, no norms of queries and keys, as the 128E model; a chunk without positions, and positions without chunks"),
    "llama4_plain": Case("llama4", dict(num_hidden_layers=3, attention_chunk_size=16, attn_temperature_tuning=False, moe_layers=[1], no_rope_layer_interval=2, tie_word_embeddings=True,
                         layer_types=["chunked_attention"] * 3, num_experts_per_tok=3, num_local_experts=3), stored="float32",
                         note="chunks in all layers; all experts of one layer"),
    "llama4_gguf": Case("llama4", dict(rms_norm_eps=1e-4, num_experts_per_tok=2, rope_parameters=rope(
        "llama3", 500000.0, factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)), gguf="bf16",
        note="chunks and temperatures as in the published models, which GGUF cannot say otherwise"),
    # DeepSeek
    "deepseek_v2": Case("deepseek_v2", dict(topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=1.7), note="the best groups by their best expert"),
    "deepseek_v2_lite": Case("deepseek_v2", dict(q_lora_rank=None, n_shared_experts=2, first_k_dense_replace=1, num_hidden_layers=2), gguf="bf16", note="queries in one projection; two shared experts"),
    "deepseek_v2_yarn": Case("deepseek_v2", dict(num_hidden_layers=2, max_position_embeddings=256, attention_bias=True, rope_parameters=rope(
        "yarn", factor=8.0, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707, original_max_position_embeddings=32)), old=True, gguf="f16",
        note="factors on scores instead of rotations"),
    "deepseek_v2_unsplit": Case("deepseek_v2", dict(num_hidden_layers=2, num_key_value_heads=4, rms_norm_eps=3e-6), gguf="bf16", unsplit=True),
    "deepseek_v3": Case("deepseek_v3", dict(rms_norm_eps=2e-4), note="sigmoids, a bias for the choice, the best groups by their best two"),
    "deepseek_v3_gguf": Case("deepseek_v3", dict(num_hidden_layers=2, n_group=2, topk_group=1, rope_interleave=True), add={"scoring_func": "sigmoid", "topk_method": "noaux_tc"}, old=True, gguf="bf16"),
    "deepseek_v3_dense": Case("deepseek_v3", dict(num_hidden_layers=1, first_k_dense_replace=1), gguf="bf16", note="experts are spoken of, and no layer has any"),
    "deepseek_v3_halves": Case("deepseek_v3", dict(num_hidden_layers=2, rope_interleave=False, q_lora_rank=None, norm_topk_prob=False, routed_scaling_factor=1.0), shards=True),
    "deepseek_v3_yarn": Case("deepseek_v3", dict(num_hidden_layers=2, max_position_embeddings=512, rope_parameters=rope(
        "yarn", factor=16.0, beta_fast=24, beta_slow=2, mscale=1.0, mscale_all_dim=0.5, original_max_position_embeddings=32))),
    "deepseek_v3_mtp": Case("deepseek_v3", dict(num_hidden_layers=2, max_position_embeddings=512, n_routed_experts=6, n_group=3), mtp=True,
                            note="a layer that guesses the token after the next one: draft.bin, logits [47, vocabulary] of tokens 2 to 48 of the prompt and what came before them"),
    "deepseek_v3_fp8": Case("deepseek_v3", dict(hidden_size=144, num_hidden_layers=2, intermediate_size=136, moe_intermediate_size=16, n_routed_experts=4, n_group=2, topk_group=1,
                            num_experts_per_tok=2), fp8=(128, 128), note="blocks of 128 with ragged edges"),
    "qwen3_moe_fp8": Case("qwen3_moe", dict(num_hidden_layers=1, num_experts=3, num_experts_per_tok=2), fp8=(16, 32), note="other blocks"),
}
# a pattern given as a number decides the layer types, so the config that builds the model needs them spelled out
CASES["gemma3_linear"].config["layer_types"] = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]


def draw_encoder(family, rng: random.Random) -> Case:
    one, kind = rng.choice, family.removesuffix("_cls")
    heads, layers, eps = one([1, 2, 3, 4, 6]), one([1, 2, 3, 5]), one([1e-12, 1e-5, 1e-6, 3e-6, 1e-4])
    width, wide, act = heads * one([8, 12, 16, 20]), one([40, 52, 72, 100]), one(["gelu", "gelu_new", "relu", "silu", "quick_gelu", "relu2", "tanh"])
    c = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=wide, vocab_size=one([96, 97, 128]))
    types = False
    if kind == "distilbert":
        c = dict(dim=width, n_layers=layers, n_heads=heads, hidden_dim=wide, activation=one(["gelu", "relu", "silu"]))
    elif kind == "modernbert":
        c.update(norm_eps=one([1e-5, 1e-6, 1e-4]), hidden_activation=one(["gelu", "silu"]), local_attention=one([2, 5, 16, 31, 128]), norm_bias=one([True, False]),
                 attention_bias=one([True, False]), mlp_bias=one([True, False]), global_attn_every_n_layers=one([1, 2, 3]),
                 rope_parameters=dict(full_attention=rope("default", one([160000.0, 5000.0])), sliding_attention=rope("default", one([10000.0, 300.0]))))
        if family != kind:
            c.update(classifier_pooling=one(["cls", "mean"]), classifier_bias=one([True, False]))
    else:
        c.update(layer_norm_eps=eps, type_vocab_size=one([1, 2, 3]))
        types = c["type_vocab_size"] > 1 and kind == "bert"
        if kind in ("nomic", "gte"):
            c.update(rope_parameters=rope("default", one([1000.0, 10000.0])), **({"hidden_act": one(["gelu", "silu"])} if kind == "gte" else {}))
        else:
            c.update(hidden_act=act)
    if family != kind:
        c.update(num_labels=one([1, 1, 2, 4]))
    return Case(family, c, stored=one(["bfloat16", "float16", "float32"]), shards=one([True, False, False]), old=one([True, False]), types=types)


def draw_state_space(family, rng: random.Random) -> Case:
    one, layers, eps = rng.choice, rng.choice([1, 2, 3, 4]), rng.choice([1e-5, 1e-6, 3e-6, 1e-4, 2e-3])
    add, drop, old = {}, (), one([True, False])
    c = dict(vocab_size=one([96, 97, 128]), num_hidden_layers=layers, tie_word_embeddings=one([True, False]))
    taps, state, act = one([2, 3, 4, 5, 8]), one([1, 3, 8, 13, 16, 33]), one(["silu", "silu", "gelu", "relu"])
    limit = one([None, None, [0.0, 0.7], [0.3, 0.9], [0.5, float("inf")]])
    more = dict(time_step_limit=limit) if limit else {}
    if family in ("mamba", "falcon_mamba"):
        c.update(hidden_size=one([17, 24, 33, 40]), state_size=state, expand=one([1, 2, 3]), conv_kernel=taps, time_step_rank=one(["auto", 1, 3, 7]), use_bias=one([True, False]),
                 use_conv_bias=one([True, False]), layer_norm_epsilon=eps, hidden_act=act)
        if family == "falcon_mamba":
            c.update(mixer_rms_eps=one([1e-6, 1e-3]))
        return Case(family, c, stored=one(["bfloat16", "float16", "float32"]), shards=one([True, False, False]), old=old)
    groups = one([1, 1, 2, 3, 4])
    heads, dim = groups * one([1, 2, 3]), one([5, 8, 12, 16, 21])
    expand = one([e for e in (1, 2, 3) if heads * dim % e == 0])
    width = heads * dim // expand
    if family == "mamba2":
        c.update(hidden_size=width, expand=expand, num_heads=heads, head_dim=dim, n_groups=groups, state_size=state, conv_kernel=taps, use_bias=one([True, False]),
                 use_conv_bias=one([True, False]), layer_norm_epsilon=eps, chunk_size=one([3, 16, 64]), hidden_act=act, **more)
        return Case(family, c, stored=one(["bfloat16", "float16", "float32"]), shards=one([True, False, False]), old=old)
    while width % 4:                                   # a quarter of a head is rotated at least
        width, heads = 2 * width, 2 * heads
    q, head_dim = one([n for n in (1, 2, 3, 4, 6) if width % (4 * n) == 0]), one([4, 8, 12, 20])
    c.update(hidden_size=width, num_attention_heads=q, num_key_value_heads=one([d for d in range(1, q + 1) if q % d == 0]), intermediate_size=one([40, 52, 75]), rms_norm_eps=eps,
             attention_bias=one([True, False]), hidden_act=act)
    factors = dict(embedding_multiplier=one([1.0, 7.0, 0.4]), attention_multiplier=one([1.0, 0.2]), residual_multiplier=one([1.0, 0.22]), logits_scaling=one([1.0, 3.0, 0.5]))
    experts = one([1, 2, 5, 9, 50])
    used = rng.randrange(1, min(experts, 6) + 1)
    second = dict(mamba_n_heads=heads, mamba_d_head=dim, mamba_n_groups=groups, mamba_d_state=state, mamba_d_conv=taps, mamba_expand=expand, mamba_conv_bias=one([True, False]),
                  mamba_proj_bias=one([True, False]), mamba_chunk_size=one([3, 16, 64]), **more)
    partial = 0.5 if old and family == "bamba" else one([0.25, 0.5, 1.0])      # transformers takes no other from old files
    table = rope("default", one([10000.0, 777.0]))
    if family == "bamba":
        c.update(second, attn_layer_indices=[i for i in range(layers) if one([True, False])], mlp_bias=one([True, False]), rope_parameters={**table, "partial_rotary_factor": partial})
        if int(width // q * partial) % 2:
            return draw_state_space(family, rng)
    elif family == "granite":
        c.update(factors, mlp_bias=one([True, False]), rope_parameters=table)
    elif family == "granite_moe":
        c.update(factors, num_local_experts=experts, num_experts_per_tok=used, rope_parameters=table)
    elif family == "granite_hybrid":
        c.update(second, **factors, layer_types=[one(["linear_attention", "full_attention"]) for _ in range(layers)], num_local_experts=one([0, experts]), num_experts_per_tok=used,
                 shared_intermediate_size=one([24, 37]), position_embedding_type=one(["rope", "nope", None]), rope_parameters=table)
    elif family == "falcon_h1":
        c.update(second, mamba_d_ssm=heads * dim, head_dim=head_dim, mamba_rms_norm=one([True, False]), mamba_norm_before_gate=one([True, False]), projectors_bias=one([True, False]),
                 mlp_bias=one([True, False]), rope_parameters=table, embedding_multiplier=one([1.0, 2.5]), lm_head_multiplier=one([1.0, 0.3]), mlp_multipliers=one([None, [0.7, 1.4]]),
                 ssm_multipliers=one([None, [0.9, 1.2, 0.8, 1.1, 0.5]]), key_multiplier=one([1.0, 0.6]), attention_in_multiplier=one([1.0, 1.2]), ssm_in_multiplier=one([1.0, 0.8]))
    else:
        attends, sparse = one([1, 2, 3, 8]), one([1, 2, 3])
        c.update(attn_layer_period=attends, attn_layer_offset=rng.randrange(attends), expert_layer_period=sparse, expert_layer_offset=rng.randrange(sparse), num_experts=experts,
                 num_experts_per_tok=used, mamba_d_state=state, mamba_d_conv=taps, mamba_expand=expand, mamba_dt_rank=one(["auto", 1, 5]), mamba_conv_bias=one([True, False]),
                 mamba_proj_bias=one([True, False]))
        c.pop("attention_bias")
    return Case(family, c, stored=one(["bfloat16", "float16", "float32"]), shards=one([True, False, False]), old=old, add=add, drop=drop)


def draw(family, rng: random.Random) -> Case:
    """A random row of `family`: the options of the table in random combination."""
    one = rng.choice
    if family.removesuffix("_cls") in ENCODERS:
        return draw_encoder(family, rng)
    if family in ("mamba", "falcon_mamba", "mamba2", "bamba", "granite", "granite_moe", "granite_hybrid", "falcon_h1", "jamba"):
        return draw_state_space(family, rng)
    heads = one([1, 2, 3, 4, 6, 8])
    kv = one([d for d in range(1, heads + 1) if heads % d == 0])
    hd = one([8, 12, 16, 20, 32])
    width = heads * one([w for w in range(4, 40, 2) if 40 <= w * heads <= 96] or [64 // heads])
    layers = one([1, 2, 3])
    c = dict(vocab_size=one([96, 97, 128]), hidden_size=width, intermediate_size=one([40, 52, 72, 100]), num_hidden_layers=layers,
             num_attention_heads=heads, num_key_value_heads=kv, head_dim=hd, tie_word_embeddings=one([True, False]))
    theta = one([10000.0, 1e6, 500000.0, 7777.0])
    orig = one([24, 32, 64, 128])
    kinds = [rope("default", theta), rope("default", theta), rope("linear", theta, factor=one([2.0, 3.3])),
             rope("llama3", theta, factor=one([4.0, 8.0]), low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=orig),
             rope("yarn", theta, factor=one([2.0, 8.0]), original_max_position_embeddings=orig,
                  **one([{}, {"beta_fast": 20.0, "beta_slow": 1.5}, {"attention_factor": 1.25}, {"truncate": False}, {"mscale": 1.1, "mscale_all_dim": 0.8}])),
             rope("dynamic", theta, factor=2.0)]
    window = one([1, 2, 7, 8, 15, 16, 17, 31, 47, 48, 49, 100])
    types = [one(["sliding_attention", "full_attention"]) for _ in range(layers)]
    eps = one([1e-5, 1e-6, 3e-6, 1e-4])
    if family in ("llama", "mistral", "qwen2", "qwen3"):
        c.update(rope_parameters=one(kinds), rms_norm_eps=eps)
    if family == "llama":
        c.update(attention_bias=one([True, False]), mlp_bias=one([True, False]))
    elif family == "llama4":
        n = one([1, 2, 3, 5, 8])
        kinds = kinds[:2] + kinds[3:4]
        c.update(rope_parameters=one(kinds), rms_norm_eps=eps, attention_bias=one([True, False]), intermediate_size_mlp=one([40, 60]), num_local_experts=n, num_experts_per_tok=rng.randrange(1, n + 1),
                 attention_chunk_size=one([1, 2, 7, 16, 17, 31, 48, 100]), attn_temperature_tuning=one([True, True, False]), floor_scale=one([1, 3, 8, 50]), attn_scale=one([0.1, 0.5]),
                 use_qk_norm=one([True, False]), interleave_moe_layer_step=one([1, 2]), **one([{}, {"no_rope_layer_interval": 2}, {"no_rope_layers": [one([0, 1]) for _ in range(layers)]}]))
    elif family == "mistral":
        c.update(sliding_window=one([None, window]))
    elif family in ("qwen2", "qwen3"):
        if family == "qwen2":
            hd = width // heads
            if hd % 2:
                return draw(family, rng)
            del c["head_dim"]
        else:
            c.update(attention_bias=one([True, False]))
        if one([True, False]):
            c.update(use_sliding_window=True, sliding_window=window, **one([{"max_window_layers": rng.randrange(layers + 1)}, {"layer_types": types}]))
    elif family in ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"):
        n = one([1, 2, 3, 5, 8, 16, 49, 67])
        c.update(rope_parameters=one(kinds), rms_norm_eps=eps, num_experts_per_tok=one([1, n, rng.randrange(1, n + 1), rng.randrange(1, min(n, 8) + 1)]))
        c.update({"num_experts" if family.startswith("qwen") else "num_local_experts": n})
        if family != "qwen3_moe":
            hd = width // heads
            if hd % 2 or hd < 4:
                return draw(family, rng)
            del c["head_dim"]
        if family == "mixtral":
            c.update(sliding_window=one([None, window]))
        else:
            c.update(norm_topk_prob=one([True, False]))
        if family.startswith("qwen"):
            c.update(moe_intermediate_size=one([8, 20, 33]), decoder_sparse_step=one([1, 1, 2, 3]), mlp_only_layers=one([[], [0], [layers - 1], list(range(layers))]))
        if family == "qwen2_moe":
            c.update(shared_expert_intermediate_size=one([1, 12, 37, 40, 56]))
    elif family.startswith("deepseek"):
        groups, size = one([1, 2, 3, 4, 7]), one([2, 3, 4, 9])
        chosen = rng.randrange(1, groups + 1)
        mscale = one([{}, {"mscale": 0.707, "mscale_all_dim": 0.707}, {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale_all_dim": 0.6}, {"mscale": 1.3}, {"mscale": 1.0, "mscale_all_dim": 0.0}])
        c.update(num_key_value_heads=heads, q_lora_rank=one([None, 20, 33]), kv_lora_rank=one([16, 21, 40]), qk_nope_head_dim=one([8, 12, 18 if family == "deepseek_v2" else 17]),
                 qk_rope_head_dim=one([4, 8, 10]), v_head_dim=one([6, 8, 16, 19]), n_routed_experts=groups * size, n_group=groups, topk_group=chosen,
                 num_experts_per_tok=rng.randrange(1, chosen * size + 1), n_shared_experts=one([1, 2, 3]), moe_intermediate_size=one([8, 20, 32]),
                 first_k_dense_replace=rng.randrange(layers + 1), routed_scaling_factor=one([1.0, 2.5, 0.7]), rms_norm_eps=eps,
                 rope_parameters=one([k for k in kinds if k["rope_type"] in ("default", "yarn")] + [rope("yarn", theta, factor=one([1.0, 3.0, 40.0]), original_max_position_embeddings=orig, **mscale)]),
                 attention_bias=one([True, False]))
        c.pop("head_dim")
        c.update(dict(topk_method=one(["greedy", "group_limited_greedy"])) if family == "deepseek_v2" else
                 dict(norm_topk_prob=one([True, False]), rope_interleave=one([True, True, False])))
    elif family == "gpt2":
        c = dict(vocab_size=c["vocab_size"], n_embd=width, n_layer=layers, n_head=heads, n_positions=128, tie_word_embeddings=one([True, True, False]),
                 n_inner=one([None, 72, 100]), activation_function=one(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh", "silu"]), layer_norm_epsilon=eps,
                 scale_attn_by_inverse_layer_idx=one([True, False]), scale_attn_weights=one([True, True, False]))
    elif family in ("phi", "phi3"):
        width = heads * one([w for w in (8, 12, 16, 20, 24) if w * heads <= 128])
        del c["head_dim"]
        part, hd = one([1.0, 0.5, 0.75, 0.4]), width // heads
        if int(hd * part) % 2 or int(hd * part) < 2:
            part = 1.0
        c.update(hidden_size=width)
        if family == "phi":
            c.update(tie_word_embeddings=False, layer_norm_eps=eps, qk_layernorm=one([True, False]), hidden_act=one(["gelu_new", "gelu_new", "gelu"]),
                     rope_parameters={**one([k for k in kinds if k["rope_type"] != "yarn" or not k.get("mscale")]), "partial_rotary_factor": part})
        else:
            r, n = one(["default", "longrope"]), int(hd * part) // 2
            c.update(rms_norm_eps=eps, sliding_window=one([None, window]), original_max_position_embeddings=one([32, 128]), rope_parameters=rope(
                r, theta, partial_rotary_factor=part, **(dict(short_factor=_factors(n, 1.0, 0.03), long_factor=_factors(n, 1.3, 0.7)) if r == "longrope" else {})))
    elif family.startswith("gemma"):
        c.update(rms_norm_eps=eps, tie_word_embeddings=True)
        if family != "gemma":
            c.update(sliding_window=window, layer_types=types, query_pre_attn_scalar=one([hd, 24, 50]),
                     attn_logit_softcapping=one([None, 4.4]), final_logit_softcapping=one([None, 1.1]))
        if family == "gemma3":
            c.update(rope_parameters=dict(sliding_attention=rope("default", one([10000.0, 5000.0])), full_attention=one(kinds[:3])))
        else:
            c.update(rope_parameters=rope("default", theta))
    fp8 = one([(), (16, 32), (13, 7), (128, 128)]) if family in ("deepseek_v2", "deepseek_v3", "qwen2_moe", "qwen3_moe") else ()
    mtp = family == "deepseek_v3" and one([True, False])
    return Case(family, c, stored=one(["bfloat16", "float32"] if family.startswith("gemma") else ["bfloat16", "float16", "float32"]), shards=not fp8 and not mtp and one([True, False, False]),
                old=one([True, False, False]), gguf="f32", fp8=fp8, mtp=mtp)
