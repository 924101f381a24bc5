#!/usr/bin/env python3
"""Tiny random models with reference logits: what another implementation must reproduce.

usage: make.py OUT [NAME ...]          rows of cases.py (without names: those that the project keeps; --all: every row)
       make.py OUT --draw N [FAMILY ...]   N random configurations of each family
       SEED=n shifts the random weights (and the draw). Needs torch, transformers 5 and safetensors; runs on one CPU core.

Writes OUT/NAME/: a Hugging Face folder (config.json, safetensors; no tokenizer) and
  tokens.json        the prompt: 48 ids
  ref.bin            logits [48, vocabulary], little-endian f32, rounded from transformers run in float64; of encoders, hidden
                     states [48, width], or the text's scores [1, scores]; they have no greedy ids
  types.json         token types, where a row has them
  greedy.json        the 64 ids that greedy decoding adds; the whole context is computed anew for each
  greedy_cached.json only where transformers' own cache gives other ids (RoPE scalings that depend on the length)
  case.json          what the row was, and how sharp the test is
Every parameter is random, norms and biases too, so that a wrong epsilon, a missing bias or another activation shows.
Weights are seeded again until no greedy choice is closer than 1e-3 of the largest logit.
"""
import inspect, json, os, random, shutil, sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from cases import CASES, ENCODERS, FAMILIES, Case, draw

PROMPT, STEPS, GAP = 48, 64, 1e-3
SEED = int(os.environ.get("SEED", "1"))


def build(case):
    """The transformers model of a row, unrandomised, and its class."""
    config_name, model_name, defaults = FAMILIES[case.family]
    model_class = getattr(transformers, model_name)
    config = getattr(transformers, config_name)(**{**defaults, **json.loads(json.dumps(case.config))})
    config._attn_implementation = config._experts_implementation = "eager"
    return model_class(config).eval(), model_class


def exact(x):
    """`x` rounded so that BF16 and F16 both hold it exactly."""
    x = x.bfloat16().float()
    return torch.where(x.abs() < 2.0**-14, torch.full_like(x, 2.0**-14), x)


@torch.no_grad()
def randomise(model, case, seed):
    g = torch.Generator().manual_seed(seed)
    offset = 0.0 if case.family.startswith("gemma") else 1.0        # Gemma stores norm weights minus one
    tied = model.config.tie_word_embeddings
    # Biases that only choose experts are buffers.
    biases = [(n, b) for n, b in model.named_buffers() if n.endswith("correction_bias")]
    for name, p in [*model.named_parameters(), *biases]:
        x = torch.randn(p.shape, generator=g)
        if name.endswith("A_log"):
            x = 0.8 * x - 0.5
        elif p.dim() == 1:
            x = 0.2 * x + (offset if "bias" not in name else 0.0)
        elif "embed" in name or "wte" in name or "wpe" in name:
            x = x * (0.06 if tied else 0.3)
        else:
            fan_in = p.shape[0] if "c_" in name else p.shape[-1]     # GPT-2 stores [in, out]
            x = x * 1.3 / fan_in**0.5
        p.copy_(x if case.stored == "float32" else exact(x))
    model.tie_weights()


def old_dialect(c, case):
    """config.json as transformers 4 and the hub write it."""
    c = dict(c)
    c.setdefault("dtype", None)
    p = c.pop("rope_parameters", None)
    if case.family.startswith("modernbert"):
        c["global_rope_theta"], c["local_rope_theta"] = (p[k]["rope_theta"] for k in ("full_attention", "sliding_attention"))
        c.setdefault("global_attn_every_n_layers", case.config.get("global_attn_every_n_layers", 3))
        p = None
    if case.family == "nomic":
        # the names of nomic-embed-text's own code
        for new, old in (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head"), ("intermediate_size", "n_inner"),
                         ("max_position_embeddings", "n_positions"), ("layer_norm_eps", "layer_norm_epsilon")):
            c[old] = c.pop(new)
        for key in ("hidden_act", "head_dim"):
            c.pop(key, None)
        c.update(activation_function="swiglu", rotary_emb_base=p["rope_theta"], rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None,
                 rotary_scaling_factor=None, prenorm=False, causal=False, qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False, max_trained_positions=2048,
                 parallel_block=False, use_rms_norm=False)
        p = None
    if p and "full_attention" in p:
        c["rope_local_base_freq"] = p["sliding_attention"]["rope_theta"]
        p = p["full_attention"]
    if p:
        p = dict(p)
        c["rope_theta"] = p.pop("rope_theta")
        if (part := p.pop("partial_rotary_factor", None)) is not None and (part != 1.0 or case.family == "phi"):
            c["partial_rotary_factor"] = part
        c["rope_scaling"] = None if p["rope_type"] == "default" else p
        if case.family == "phi3" and c["rope_scaling"]:
            p.pop("original_max_position_embeddings", None)
    c["torch_dtype"] = c.pop("dtype")
    c.pop("_sliding_window_pattern", None)
    c["transformers_version"] = "4.44.2"
    if "layer_types" not in case.config or "sliding_window_pattern" in case.add:
        c.pop("layer_types", None)
    if case.family == "gpt2":
        c["n_ctx"] = c["n_positions"]
    c = {k: v for k, v in {**c, **case.add}.items() if k not in case.drop}
    return c


def rename(folder, case):
    """Tensor names and leftovers as old hub files have them."""
    path = folder / "model.safetensors"
    t = load_file(path)
    if case.names == "bare":
        n = case.config["n_positions"]
        t = {k.removeprefix("transformer."): v for k, v in t.items()}
        for i in range(case.config["n_layer"]):
            t[f"h.{i}.attn.bias"] = torch.ones(n, n, dtype=torch.uint8).tril().reshape(1, 1, n, n)
            t[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    elif case.names == "gamma":
        t = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in t.items()}
    elif case.names == "inv_freq":
        for i in range(2):
            t[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = 1.0 / 10000.0 ** (torch.arange(0, 12, 2).float() / 12)
    save_file(t, path, metadata={"format": "pt"})


def store(model, folder, case):
    """Write the folder; the file's dtype, sharding, names and dialect are the row's."""
    dtype = getattr(torch, case.stored)
    model.to(dtype).save_pretrained(folder, max_shard_size=35_000 if case.shards else "1GB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    if case.names:
        rename(folder, case)
    path = folder / "config.json"
    c = json.loads(path.read_text())
    c = old_dialect(c, case) if case.old else {k: v for k, v in {**c, **case.add}.items() if k not in case.drop}
    path.write_text(json.dumps(c, indent=1, sort_keys=True) + "\n")


def blocks(t, size):
    """A matrix as FP8 (E4M3) codes with a scale for each block, and what they stand for."""
    rows, cols = size
    scale = torch.zeros(-(-t.shape[0] // rows), -(-t.shape[1] // cols))
    codes, value = torch.zeros(t.shape, dtype=torch.float8_e4m3fn), torch.zeros(t.shape)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            part = (slice(i * rows, (i + 1) * rows), slice(j * cols, (j + 1) * cols))
            scale[i, j] = t[part].abs().max() / 448
            codes[part] = (t[part] / scale[i, j]).to(torch.float8_e4m3fn)
            value[part] = codes[part].float() * scale[i, j]
    return codes, scale, value


def to_fp8(folder, case):
    """Rounds the folder's projections to FP8; returns the tensors as they are to be stored in the end."""
    path = folder / "model.safetensors"
    plain = {k: v.float() for k, v in load_file(path).items()}
    stored = {}
    for name, t in list(plain.items()):
        stored[name] = t
        if name.endswith("proj.weight") or name.endswith("proj_with_mqa.weight"):
            stored[name], stored[name.replace(".weight", ".weight_scale_inv")], plain[name] = blocks(t, case.fp8)
    save_file(plain, path, metadata={"format": "pt"})
    return stored


@torch.no_grad()
def add_mtp(model, folder, case, seed):
    """Adds a layer like the last one, and what joins a token with the hidden state before it."""
    path, n = folder / "model.safetensors", model.config.num_hidden_layers
    t, g, width = load_file(path), torch.Generator().manual_seed(seed + 31), model.config.hidden_size
    new = {k.replace(f"layers.{n - 1}.", f"layers.{n}."): v.shape for k, v in t.items() if f"layers.{n - 1}." in k}
    new |= {f"model.layers.{n}.{k}.weight": (width,) for k in ("enorm", "hnorm", "shared_head.norm")}
    new[f"model.layers.{n}.eh_proj.weight"] = (width, 2 * width)
    for name, shape in new.items():
        x = torch.randn(tuple(shape), generator=g)
        x = 0.2 * x + ("bias" not in name) if len(shape) == 1 else x * 1.3 / shape[-1] ** 0.5
        t[name] = exact(x).to(getattr(torch, case.stored))
    save_file(t, path, metadata={"format": "pt"})


@torch.no_grad()
def guesses(truth, ids):
    """What the layer for multi-token prediction makes of every token but the first: logits [tokens - 1, vocabulary]."""
    from transformers.modeling_layers import MtpModel

    # The class knows the number of this layer in the published model alone.
    truth._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{truth.config.num_hidden_layers}\."]
    mtp = MtpModel.from_pretrained(truth).to(truth.dtype).eval()
    hidden = truth.model(ids).last_hidden_state[:, :-1]
    tokens = truth.get_input_embeddings()(ids[:, 1:])
    n = tokens.shape[1]
    positions = torch.arange(1, n + 1)[None]
    mask = torch.full((n, n), float("-inf"), dtype=truth.dtype).triu(1)[None, None]
    out = mtp.layers[0](tokens, hidden, mtp.rotary_emb(tokens, position_ids=positions), mask, positions, None)
    return mtp._project_to_logits(out)[0].numpy()


def load(model_class, folder, dtype, config=None):
    more = {"config": config} if config is not None else {}
    return model_class.from_pretrained(folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", **more).eval()


@torch.no_grad()
def forward(model, ids, types):
    """Logits, hidden states or scores of a prompt, [rows, columns]."""
    if not encodes(model):
        return model(ids, use_cache=False).logits[0].numpy()
    o = model(ids) if types is None else model(ids, token_type_ids=types)
    return (o.logits if hasattr(o, "logits") else o.last_hidden_state[0]).numpy()


def encodes(model):
    return any(model.config.model_type.replace("-", "_").replace("nomic_bert", "nomic") == e for e in ENCODERS)


@torch.no_grad()
def greedy(model, ids, cached):
    """(the next ids, the smallest distance of first to second choice on the way)."""
    context, state, step, out, gap = ids, None, ids, [], float("inf")
    takes = inspect.signature(model.forward).parameters
    name = "cache_params" if "cache_params" in takes else "past_key_values"
    for _ in range(STEPS):
        # Bamba counts positions from 0 in each call where they are not given.
        more = {"position_ids": torch.arange(context.shape[1] - step.shape[1], context.shape[1])[None]} if "position_ids" in takes else {}
        o = model(step, **{name: state}, **more, use_cache=True) if cached else model(context, use_cache=False)
        state = getattr(o, name) if cached else None
        top = o.logits[0, -1].topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        step = top.indices[:1].reshape(1, 1)
        out.append(int(step))
        context = torch.cat([context, step], 1)
    return out, gap


def keep(name, case, folder, seed, ids, types, ref, single, truth):
    """Write what belongs to an encoder."""
    largest = float(np.abs(ref).max())
    ref.astype("<f4").tofile(folder / "ref.bin")
    (folder / "tokens.json").write_text(json.dumps(ids[0].tolist()) + "\n")
    if types is not None:
        (folder / "types.json").write_text(json.dumps(types[0].tolist()) + "\n")
    info = dict(family=case.family, stored=case.stored, dialect="old" if case.old else "new", shards=len(list(folder.glob("*.safetensors"))), note=case.note, seed=seed,
                max_value=largest, float32_error=float(np.abs(single - ref).max() / largest), parameters=sum(p.numel() for p in truth.parameters()))
    (folder / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    print(f"{name:24s} {info['parameters']:7d} params  max {largest:8.3f}  f32 {info['float32_error']:.1e}  seed {seed}", flush=True)


def make(name, case, out):
    folder = out / name
    for attempt in range(40):
        seed = SEED * 1000 + attempt
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(0)
        model, model_class = build(case)
        ids = torch.randint(3, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(seed + 7))
        randomise(model, case, seed)
        types = (torch.arange(PROMPT) >= PROMPT // 2).long().reshape(1, -1) if case.types else None
        built = forward(model.double(), ids, types)
        store(model.float(), folder, case)
        if case.mtp:
            add_mtp(model, folder, case, seed)
        stored = to_fp8(folder, case) if case.fp8 else None
        known = model.config if case.family == "nomic" and case.old else None     # transformers does not read the hub's keys
        truth = load(model_class, folder, torch.float64, known)
        ref = forward(truth, ids, types)
        single = forward(load(model_class, folder, torch.float32, known), ids, types)
        largest = np.abs(ref).max()
        assert np.isfinite(ref).all(), f"{name}: not finite"
        assert case.fp8 or np.abs(ref - built).max() <= 1e-5 * largest, f"{name}: the folder reads back as another model"
        assert all(p.abs().max() > 0 for p in truth.parameters())
        if encodes(truth):
            return keep(name, case, folder, seed, ids, types, ref, single, truth)
        chosen, gap = greedy(truth, ids, cached=False)
        # An expert that another precision would not choose makes another model.
        close = np.abs(single - ref).max() <= 5e-6 * largest
        if close and gap >= GAP * largest and len(set(chosen)) > (4 if attempt < 20 else 1):
            break
    else:
        raise SystemExit(f"{name}: no seed gives distinct choices")
    try:
        cached = greedy(load(model_class, folder, torch.float64), ids, cached=True)[0]
    except ValueError as e:                              # hybrids without attention have no cache
        assert "LinearAttention" in str(e)
        cached = chosen
    if case.mtp:
        guesses(truth, ids).astype("<f4").tofile(folder / "draft.bin")
    if stored:
        save_file({k: v.contiguous() for k, v in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=list(case.fp8))
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    ref.astype("<f4").tofile(folder / "ref.bin")
    (folder / "tokens.json").write_text(json.dumps(ids[0].tolist()) + "\n")
    (folder / "greedy.json").write_text(json.dumps(chosen) + "\n")
    if cached != chosen:
        (folder / "greedy_cached.json").write_text(json.dumps(cached) + "\n")
    info = dict(family=case.family, stored=case.stored, dialect="old" if case.old else "new", shards=len(list(folder.glob("*.safetensors"))), note=case.note, seed=seed,
                max_logit=float(largest), min_greedy_gap=gap / float(largest), distinct_greedy=len(set(chosen)),
                float32_error=float(np.abs(single - ref).max() / largest), parameters=sum(p.numel() for p in truth.parameters()))
    (folder / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:24s} {info['parameters']:7d} params {size / 1000:6.0f} kB  max|l| {largest:8.3f}  f32 {info['float32_error']:.1e}  gap {info['min_greedy_gap']:.1e}"
          f"  distinct {info['distinct_greedy']:2d}  seed {seed}{'  cache differs' if cached != chosen else ''}", flush=True)


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    out, rest = Path(sys.argv[1]), sys.argv[2:]
    if rest[:1] == ["--draw"]:
        rows = {}
        for family in rest[2:] or FAMILIES:
            rng = random.Random(f"{family}{SEED}")
            rows.update({f"{family}_{SEED}_{i:02d}": draw(family, rng) for i in range(int(rest[1]))})
    else:
        rows = {n: c for n, c in CASES.items() if n in rest or rest == ["--all"] or not rest and not c.extra}
    failed = 0
    for name, case in rows.items():
        try:
            make(name, case, out)
        except (Exception, SystemExit) as e:
            if os.environ.get("TRACE"):
                raise
            failed += 1
            print(f"{name:24s} FAILED {type(e).__name__}: {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
