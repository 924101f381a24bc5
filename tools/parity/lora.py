#!/usr/bin/env python3
"""Tiny random LoRA adapters for the tiny models, with what PEFT makes of them in double precision.

usage: lora.py MODELS OUT [--llama LLAMA_CPP] [NAME ...]
       MODELS is a folder that make.py wrote; OUT is testdata/lora. Needs torch, transformers 5, peft and safetensors.
       --llama: llama.cpp's source folder; adapters that its convert_lora_to_gguf.py can express get a GGUF twin by it.

Writes OUT/NAME/:
  one/, two/       adapters as PEFT saves them, F32, BF16 or F16
  one.gguf, ...    their GGUF twins, where there are any
  case.json        the base's name, the adapters that are active together, whether they can be merged
  ref.bin          logits (of an encoder, hidden states) of the base's tokens with the adapters, [tokens, columns], little-endian f32
  merged.bin       the same of weights that the adapters were added to, rounded to the base's type
  greedy.json      the 64 ids that greedy decoding adds
Weights are seeded again until no greedy choice is closer than 1e-3 of the largest logit.
"""
import argparse, importlib, json, os, shutil, subprocess, sys, warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from make import GAP, greedy

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Case:
    """`adapters`: keywords of each one's LoraConfig. `gguf`: written by llama.cpp's converter, or here where that one errs."""
    base: str
    adapters: list
    gguf: str = ""
    stored: str = "float32"
    merges: bool = True            # no adapter is for one of two uses of a matrix
    runs: bool = True              # none is for a matrix that is not multiplied with as it is
    encoder: bool = False
    note: str = ""


def plain(targets, r=4, alpha=8, **more):
    return dict(r=r, lora_alpha=alpha, target_modules=targets, **more)


CASES = {
    "llama_qv": Case("llama_gqa", [plain(["q_proj", "v_proj"])], gguf="llama.cpp"),
    "llama_all": Case("llama_gqa", [plain(LLAMA, r=3, alpha=5, rank_pattern={"q_proj": 6, r"layers\.1\.mlp\.down_proj": 1})], gguf="llama.cpp", stored="bfloat16"),
    "llama_rs": Case("llama_gqa", [plain(LLAMA, use_rslora=True, rank_pattern={"self_attn.k_proj": 2}, alpha_pattern={"v_proj|o_proj": 3, "0.mlp.up_proj": 20, "up_proj": 1})]),
    "llama_two": Case("llama_gqa", [plain(["q_proj", "k_proj", "up_proj"]), plain(["v_proj", "k_proj", "lm_head"], r=2)], gguf="llama.cpp"),
    "llama_tied": Case("llama_bias_tied", [plain(["embed_tokens", "lm_head", "q_proj"])], merges=False),
    "qwen2_embed": Case("qwen2", [plain(["embed_tokens", "lm_head", "k_proj"], r=5)], gguf="llama.cpp", stored="float16"),
    "gemma3_embed": Case("gemma3", [plain(["embed_tokens", "q_proj", "o_proj"])], merges=False),
    "gpt2_all": Case("gpt2", [plain(["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)], gguf="here"),
    "phi3_all": Case("phi3", [plain(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])], gguf="llama.cpp"),
    "gte_all": Case("gte", [plain("all-linear")], encoder=True, note="gates and ups stand the other way round"),
    "granite_hybrid_all": Case("granite_hybrid", [plain(["q_proj", "k_proj", "in_proj", "input_linear", "output_linear"])], gguf="llama.cpp",
                               note="GGUF has gates and ups apart"),
    "falcon_h1_all": Case("falcon_h1", [plain(["q_proj", "in_proj", "gate_proj", "down_proj"])]),
    "qwen2_moe_shared": Case("qwen2_moe", [plain(["v_proj", "shared_expert.up_proj", "shared_expert.down_proj", "shared_expert_gate"])]),
    "deepseek_v3_mtp": Case("deepseek_v3_mtp", [plain(["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "lm_head"])]),
    "deepseek_kv_b": Case("deepseek_v2_lite", [plain(["q_proj", "kv_b_proj", "o_proj"])], runs=False),
}


def load(case, models, dtype):
    cls = transformers.AutoModel if case.encoder else transformers.AutoModelForCausalLM
    return cls.from_pretrained(models / case.base, dtype=dtype, attn_implementation="eager", experts_implementation="eager").eval()


@torch.no_grad()
def write(case, models, folder, names, seed):
    """The adapters, random, as PEFT saves them."""
    for name, keywords in zip(names, case.adapters):
        g = torch.Generator().manual_seed(seed)
        seed += 17
        peft = get_peft_model(load(case, models, torch.float32), LoraConfig(**keywords))
        for key, p in peft.named_parameters():
            if "lora_" in key:
                x = torch.randn(p.shape, generator=g)
                p.copy_(x * (1.0 if "embedding" in key else p.shape[-1] ** -0.5) * (0.5 if "lora_B" in key or "embedding_B" in key else 1.0) * (0.3 if "embedding" in key else 1.0))
        peft.save_pretrained(folder / name)
        path = folder / name / "adapter_model.safetensors"
        t = load_file(path)
        save_file({k: v.to(getattr(torch, case.stored)) for k, v in t.items() if "base_layer" not in k or case.base == "qwen2"}, path, metadata={"format": "pt"})
        (folder / name / "README.md").unlink(missing_ok=True)
        config = folder / name / "adapter_config.json"
        c = json.loads(config.read_text())
        c["base_model_name_or_path"] = case.base
        c["target_modules"] = sorted(c["target_modules"]) if isinstance(c["target_modules"], list) else c["target_modules"]
        config.write_text(json.dumps(c, indent=1, sort_keys=False) + "\n")


def attach(case, models, folder, names, dtype=torch.float64):
    """The base with the adapters that were written."""
    base = load(case, models, dtype)
    model = PeftModel.from_pretrained(base, folder / names[0], adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name, autocast_adapter_dtype=False)
    model.base_model.set_adapter(names)
    return model.to(dtype).eval()


# The converter reads configurations through transformers, whose names of layer types it does not know.
CONVERT = """
import json, runpy, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion.base import ModelBase
def hparams(folder, *_, **__):
    c = json.loads((Path(folder) / "config.json").read_text())
    hub = {"linear_attention": "mamba", "full_attention": "attention"}
    return {**c, **({"layer_types": [hub.get(t, t) for t in c["layer_types"]]} if c.get("layer_types") else {})}
ModelBase.load_hparams = staticmethod(hparams)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def twin(case, models, llama, adapter, path):
    """A GGUF adapter by llama.cpp's converter."""
    kind = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[case.stored]
    command = [llama / "convert_lora_to_gguf.py", "--base", models / case.base, "--outtype", kind, "--outfile", path, adapter]
    r = subprocess.run([sys.executable, "-c", CONVERT, llama, *command], capture_output=True, text=True, env=dict(os.environ, TQDM_DISABLE="1"))
    if r.returncode:
        raise SystemExit(f"{path}: {r.stderr.strip().splitlines()[-1]}")


def own_twin(case, llama, adapter, path):
    """The same for GPT-2, whose matrices the converter transposes though PEFT's are as of a plain linear layer."""
    sys.path.insert(0, str(llama / "gguf-py"))
    gguf = importlib.import_module("gguf")
    names = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    w = gguf.GGUFWriter(path, "gpt2")
    w.add_type(gguf.GGUFType.ADAPTER)
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", float(json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"]))
    for key, t in load_file(adapter / "adapter_model.safetensors").items():
        layer, module = key.split(".h.")[1].split(".", 1)
        module, part = module.rsplit(".lora_", 1)
        w.add_tensor(f"blk.{layer}.{names[module]}.weight.lora_{part[0].lower()}", t.float().numpy())
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


@torch.no_grad()
def forward(case, model, ids):
    return (model(ids).last_hidden_state if case.encoder else model(ids, use_cache=False).logits)[0].numpy()


@torch.no_grad()
def merged(case, models, folder, names, ids):
    """What the adapters make of weights of the base's type."""
    stored = getattr(torch, json.loads((models / case.base / "case.json").read_text())["stored"])
    model = attach(case, models, folder, names, torch.float32).merge_and_unload()
    for p in model.parameters():                        # and no buffers: those of rotary embeddings are of single precision
        p.data = p.data.to(stored).float()
    forward(case, model.double(), ids).astype("<f4").tofile(folder / "merged.bin")


@torch.no_grad()
def make(name, case, models, out, llama):
    folder, names = out / name, ["one", "two"][: len(case.adapters)]
    ids = torch.tensor([json.loads((models / case.base / "tokens.json").read_text())])
    for attempt in range(40):
        seed = 1000 + 100 * attempt
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(case, models, folder, names, seed)
        model = attach(case, models, folder, names)
        ref, was = forward(case, model, ids), forward(case, load(case, models, torch.float64), ids)
        largest, moved = np.abs(ref).max(), np.abs(ref - was).max()
        assert moved > 0.05 * largest, f"{name}: the adapter changes next to nothing"
        if case.encoder:
            break
        chosen, gap = greedy(model, ids, cached=False)
        if gap >= GAP * largest and len(set(chosen)) > (4 if attempt < 20 else 1):
            (folder / "greedy.json").write_text(json.dumps(chosen) + "\n")
            break
    else:
        raise SystemExit(f"{name}: no seed gives distinct choices")
    ref.astype("<f4").tofile(folder / "ref.bin")
    if case.merges:
        merged(case, models, folder, names, ids)
    for adapter in names if llama else []:
        if case.gguf == "llama.cpp":
            twin(case, models, llama, folder / adapter, folder / f"{adapter}.gguf")
        elif case.gguf == "here":
            own_twin(case, llama, folder / adapter, folder / f"{adapter}.gguf")
    info = dict(base=case.base, adapters=names, merges=case.merges, runs=case.runs, note=case.note, seed=seed, max_value=float(largest), moved=float(moved / largest))
    (folder / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name:24s} moved {moved / largest:.2f} of the largest  seed {seed}  {size / 1000:.0f} kB", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", type=Path), p.add_argument("out", type=Path), p.add_argument("--llama", type=Path), p.add_argument("names", nargs="*")
    a = p.parse_intermixed_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    for name in a.names or CASES:
        make(name, CASES[name], a.models.resolve(), a.out, a.llama and a.llama.resolve())


if __name__ == "__main__":
    main()
