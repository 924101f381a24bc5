#!/usr/bin/env python3
"""A model that is no class of transformers: Mamba-2, attention and Mamba in one stack, put together from its parts.

usage: free.py OUT      (torch, transformers 5 and safetensors; runs on one CPU core)

Writes OUT/spec_free/: spec.toml, safetensors with GGUF's names, and what make.py writes beside a model.
"""
import json, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from make import GAP, PROMPT, STEPS, exact

VOCAB, WIDTH, HEADS, KV, DIM, BASE = 97, 40, 4, 2, 12, 20000.0
SPEC = """# Mamba-2, attention, Mamba: layers of any kinds in any order
width = 40
vocab = 97
context = 256
tied = false
logit_scale = 0.5
norm = { kind = "rms", eps = 3e-5 }
ropes = [{ base = 20000.0, dims = 8, style = "halves" }]

[[layers]]
norm = { kind = "rms", eps = 1e-5 }
place = "pre"
ffn = "none"
mixer.ssm = { inner = 80, heads = 4, groups = 2, state = 9, taps = 4, act = "silu", kind.mamba2 = { norm = [{ kind = "rms", eps = 1e-4 }, "after"] } }

[[layers]]
norm = { kind = "layer", eps = 1e-5 }
place = { scaled = 0.7 }
ffn.gated = { act = "silu", width = 52 }
mixer.attention = { heads = 4, kv_heads = 2, key_dim = 12, value_dim = 12, rope = 0, window = 20, scale = 0.3 }

[[layers]]
norm = { kind = "rms", eps = 1e-5 }
place = "pre"
ffn.plain = { act = "gelu", width = 64 }
mixer.ssm = { inner = 80, heads = 80, groups = 1, state = 6, taps = 3, act = "silu", kind.mamba = { rank = 5 } }
"""


def rms(x, w, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * w


class Free(nn.Module):
    def __init__(self):
        super().__init__()
        second = Mamba2Config(hidden_size=WIDTH, num_heads=4, head_dim=20, n_groups=2, state_size=9, num_hidden_layers=1, chunk_size=16, layer_norm_epsilon=1e-4)
        first = MambaConfig(hidden_size=WIDTH, state_size=6, conv_kernel=3, time_step_rank=5, num_hidden_layers=1)
        linear = lambda n, k, bias=False: nn.Linear(k, n, bias=bias)
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), linear(VOCAB, WIDTH)
        self.norms = nn.ParameterDict({k: nn.Parameter(torch.ones(WIDTH)) for k in ("m2", "attn", "ffn", "m1", "plain", "out", "attn_bias", "ffn_bias")})
        self.m2, self.m1 = Mamba2Mixer(second, 0), MambaMixer(first, 0)
        self.q, self.k, self.v, self.o = linear(HEADS * DIM, WIDTH), linear(KV * DIM, WIDTH), linear(KV * DIM, WIDTH, True), linear(WIDTH, HEADS * DIM)
        self.gate, self.up, self.down = linear(52, WIDTH), linear(52, WIDTH), linear(WIDTH, 52)
        self.plain_up, self.plain_down = linear(64, WIDTH, True), linear(WIDTH, 64, True)

    def attend(self, x):
        n = x.shape[1]
        inv = 1.0 / BASE ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8)
        angle = (torch.arange(n, dtype=torch.float32)[:, None] * inv).double()
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

        def rotate(y):
            r, rest = y[..., :8], y[..., 8:]
            return torch.cat([r * cos + torch.cat([-r[..., 4:], r[..., :4]], -1) * sin, rest], -1)

        heads = lambda y, h: y.view(1, n, h, DIM).transpose(1, 2)
        q, k, v = rotate(heads(self.q(x), HEADS)), rotate(heads(self.k(x), KV)), heads(self.v(x), KV)
        k, v = (y.repeat_interleave(HEADS // KV, 1) for y in (k, v))
        ago = torch.arange(n)[:, None] - torch.arange(n)
        score = (q @ k.transpose(-1, -2) * 0.3).masked_fill((ago < 0) | (ago >= 20), float("-inf"))
        return self.o((score.softmax(-1) @ v).transpose(1, 2).reshape(1, n, -1))

    def forward(self, ids):
        w, x = self.norms, self.embed(ids)
        layer = lambda x, name: nn.functional.layer_norm(x, (WIDTH,), w[name], w[name + "_bias"], 1e-5)
        x = x + self.m2(rms(x, w["m2"], 1e-5))
        x = x + 0.7 * self.attend(layer(x, "attn"))
        h = layer(x, "ffn")
        x = x + 0.7 * self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        x = x + self.m1(rms(x, w["m1"], 1e-5))
        x = x + self.plain_down(nn.functional.gelu(self.plain_up(rms(x, w["plain"], 1e-5))))
        return self.head(rms(x, w["out"], 3e-5)) * 0.5


def tensors(m):
    """By GGUF's names."""
    w = m.norms
    t = {"token_embd.weight": m.embed.weight, "output.weight": m.head.weight, "output_norm.weight": w["out"]}
    parts = {0: dict(attn_norm=w["m2"]), 1: dict(attn_norm=w["attn"], ffn_norm=w["ffn"]), 2: dict(attn_norm=w["m1"], ffn_norm=w["plain"])}
    for i, named in parts.items():
        t |= {f"blk.{i}.{k}.weight": v for k, v in named.items()}
    t |= {"blk.1.attn_norm.bias": w["attn_bias"], "blk.1.ffn_norm.bias": w["ffn_bias"]}
    for i, mixer in ((0, m.m2), (2, m.m1)):
        linears = {"ssm_in": mixer.in_proj, "ssm_conv1d": mixer.conv1d, "ssm_out": mixer.out_proj}
        linears |= {} if i == 0 else {"ssm_x": mixer.x_proj, "ssm_dt": mixer.dt_proj}
        for name, part in linears.items():
            t |= {f"blk.{i}.{name}.{k}": v for k, v in part.named_parameters()}
        t |= {f"blk.{i}.ssm_a": -torch.exp(mixer.A_log), f"blk.{i}.ssm_d": mixer.D}
    t |= {"blk.0.ssm_dt.bias": m.m2.dt_bias, "blk.0.ssm_norm.weight": m.m2.norm.weight}
    linears = {"1.attn_q": m.q, "1.attn_k": m.k, "1.attn_v": m.v, "1.attn_output": m.o, "1.ffn_gate": m.gate, "1.ffn_up": m.up, "1.ffn_down": m.down}
    linears |= {"2.ffn_up": m.plain_up, "2.ffn_down": m.plain_down}
    for name, part in linears.items():
        t |= {f"blk.{name}.{k}": v for k, v in part.named_parameters()}
    return {k: v.detach().float().contiguous() for k, v in t.items()}


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    out = Path(sys.argv[1]) / "spec_free"
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(1000, 1040):
        torch.manual_seed(seed)
        m = Free().eval()
        for name, p in m.named_parameters():
            x = torch.randn(p.shape)
            if name.endswith("A_log"):
                x = 0.8 * x - 0.5
            elif p.dim() == 1:
                x = 0.2 * x + (0.0 if "bias" in name else 1.0)
            else:
                x = x * (0.3 if "embed" in name else 1.3 / p.shape[-1] ** 0.5)
            p.copy_(exact(x))
        small = tensors(m)
        m = m.double()
        ids = context = torch.randint(3, VOCAB, (1, PROMPT))
        ref, chosen, gap = m(ids)[0], [], float("inf")
        for _ in range(STEPS):
            top = m(context)[0, -1].topk(2)
            gap = min(gap, float(top.values[0] - top.values[1]))
            chosen.append(int(top.indices[0]))
            context = torch.cat([context, top.indices[:1].reshape(1, 1)], 1)
        if gap >= GAP * ref.abs().max() and len(set(chosen)) > 4:
            break
    else:
        raise SystemExit("no seed gives distinct choices")
    save_file(small, out / "model.safetensors", metadata={"format": "pt"})
    (out / "spec.toml").write_text(SPEC)
    ref.numpy().astype("<f4").tofile(out / "ref.bin")
    (out / "tokens.json").write_text(json.dumps(ids[0].tolist()) + "\n")
    (out / "greedy.json").write_text(json.dumps(chosen) + "\n")
    info = dict(family="spec", seed=seed, max_logit=float(ref.abs().max()), min_greedy_gap=gap / float(ref.abs().max()), distinct_greedy=len(set(chosen)))
    (out / "case.json").write_text(json.dumps(info, indent=1) + "\n")
    print(info)


if __name__ == "__main__":
    main()
