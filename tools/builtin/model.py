"""The built-in model's network: a Llama decoder in its plainest form, and the optimiser that trains it.

RMSNorm, rotary positions over neighbouring pairs (the order that GGUF's `llama` architecture wants, so no row is permuted
on export), grouped heads, SwiGLU, tied embeddings. Shapes: B sequences, T tokens, D width, H heads of size K.
"""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class Shape:
    vocab: int = 2048
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 384
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    dict = asdict

    @property
    def head(self):
        return self.width // self.heads


class Norm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape.width)), shape.eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def angles(shape, length, dtype=torch.float32):
    """cos and sin of the rotary angles: [T, K/2] each."""
    inv = shape.theta ** (-torch.arange(0, shape.head, 2, dtype=torch.float64) / shape.head)
    a = torch.arange(length, dtype=torch.float64)[:, None] * inv
    return a.cos().to(dtype), a.sin().to(dtype)


def rotate(x, cos, sin):
    """Turns neighbouring pairs of x [B, H, T, K]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        line = lambda i, o: nn.Linear(i, o, bias=False)
        self.attn_norm, self.ffn_norm = Norm(s), Norm(s)
        self.attn_q, self.attn_k = line(s.width, s.heads * s.head), line(s.width, s.kv_heads * s.head)
        self.attn_v, self.attn_output = line(s.width, s.kv_heads * s.head), line(s.heads * s.head, s.width)
        self.ffn_gate, self.ffn_up, self.ffn_down = line(s.width, s.ffn), line(s.width, s.ffn), line(s.ffn, s.width)
        self.shape = s

    def forward(self, x, cos, sin):
        s, (b, t, _) = self.shape, x.shape
        heads = lambda y, n: y.view(b, t, n, s.head).transpose(1, 2)
        y = self.attn_norm(x)
        q, k = rotate(heads(self.attn_q(y), s.heads), cos, sin), rotate(heads(self.attn_k(y), s.kv_heads), cos, sin)
        v = heads(self.attn_v(y), s.kv_heads)
        k, v = (z.repeat_interleave(s.heads // s.kv_heads, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).reshape(b, t, -1))
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Decoder(nn.Module):
    """Parameter names are GGUF's tensor names (with `blk.N.` for a layer)."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.03 if "token" in name else p.shape[1] ** -0.5 * (0.3 if "ffn_down" in name else 0.6))
        with torch.no_grad():
            # Every head begins as a copier (what it sees is what it says), so that names are carried through a story early on.
            for layer in self.blk:
                value = layer.attn_v.weight.view(shape.kv_heads, shape.head, shape.width)
                value = value.repeat_interleave(shape.heads // shape.kv_heads, 0).reshape(-1, shape.width)
                layer.attn_output.weight.copy_(0.5 * value.T)
        for n, t in zip(("cos", "sin"), angles(shape, shape.context)):
            self.register_buffer(n, t, persistent=False)

    def hidden(self, ids):
        """ids [B, T] to the last normed state [B, T, D]."""
        t = ids.shape[1]
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, self.cos[:t].to(x.dtype), self.sin[:t].to(x.dtype))
        return self.output_norm(x)

    def forward(self, ids):
        return self.hidden(ids) @ self.token_embd.weight.T

    def loss(self, ids, learned):
        """Summed cross-entropy over the positions whose next token is learned; learned [B, T] marks tokens, not positions."""
        keep = learned[:, 1:]
        x = self.hidden(ids[:, :-1])[keep]
        return F.cross_entropy(x @ self.token_embd.weight.T, ids[:, 1:][keep], reduction="sum")


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps (Jordan and others, 2024), for matrices."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                u = p.grad.lerp(m, group["momentum"])
                flip = u.shape[0] > u.shape[1]
                u = (u.T if flip else u) / (u.norm() + 1e-7)
                for _ in range(5):
                    a = u @ u.T
                    u = 3.4445 * u + (-4.7750 * a + 2.0315 * (a @ a)) @ u
                scale = 0.2 * max(p.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.T if flip else u, alpha=-group["lr"] * scale)
