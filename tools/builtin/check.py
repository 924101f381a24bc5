"""Checks builtin.gguf from outside: python tools/builtin/check.py [--golden] [--ask QUESTION] [--transformers] [--full]

Reads the file with gguf-py, dequantises it, and runs it in float64. Prints the loss on unseen documents, the share of facts that
are answered word for word, sums, and sampled text with Alula's defaults. --golden writes golden.json for Alula's tests;
--transformers compares the logits with those of transformers, which reads the same file by its own code.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import export
from corpus import Corpus
from train import ROOT, SPECIAL, validate

HERE = Path(__file__).parent
PROMPTS = ["Once upon a time", "The cat", "One day", "Hello", "My name is", "", "def main", "Привет, мир", "She was", "What is a CPU?"]
STOP = {1, 3}


def tokenizer(tokens, merges):
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.add_special_tokens(SPECIAL)
    return tok


def chat_text(question, system=None):
    s = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{s}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@torch.no_grad()
def generate(model, ids, n, seed=None, temp=0.8, top_k=40, top_p=0.95, min_p=0.05, stop=True):
    """The ids that follow: greedy without a seed, else sampled with Alula's default settings."""
    out, dice = [], torch.Generator().manual_seed(seed or 0)
    while len(out) < n and len(ids) + len(out) < model.shape.context:
        logits = model(torch.tensor([ids + out]))[0, -1]
        if seed is None:
            t = logits.argmax().item()
        else:
            v, i = torch.topk(logits / temp, top_k)
            p = v.softmax(-1)
            keep = (p.cumsum(-1) - p < top_p) & (p >= min_p * p[0])
            t = i[torch.multinomial(p * keep, 1, generator=dice)].item()
        out.append(t)
        if stop and t in STOP:
            break
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--file", type=Path, default=ROOT / "crates/alula/assets/builtin.gguf")
    p.add_argument("--golden", action="store_true")
    p.add_argument("--transformers", action="store_true")
    p.add_argument("--ask", action="append", default=[])
    p.add_argument("--samples", type=int, default=2)
    p.add_argument("--facts", type=int, default=100, help="questions to put")
    args = p.parse_args()
    torch.set_num_threads(1)
    fast, tokens, merges = export.read(args.file, torch.float32)
    tok = tokenizer(tokens, merges)
    enc = lambda t: [0] + tok.encode(t, add_special_tokens=False).ids
    dec = lambda i: tok.decode([x for x in i if x not in STOP])
    say = lambda q, **k: dec(generate(fast, enc(chat_text(q, **k)), 120))

    print(f"{args.file.name}: {args.file.stat().st_size:,} bytes, loss {validate(fast, tok, fast.shape):.4f}")
    for q in args.ask:
        print(f"? {q}\n= {say(q)}")
    if args.facts:
        corpus, right, sums, unknown, wrong = Corpus(10**9 + 1), 0, 0, 0, []
        for _ in range(args.facts):
            q, a = corpus.fact_turns()[0]
            got = say(q)
            right += got == a
            wrong += [] if got == a else [(q, a, got)]
        for _ in range(args.facts // 4):
            q, a = corpus.sum_turn()[0]
            sums += say(q) == a
            q, a = corpus.unknown_turn()[0]
            unknown += say(q) == a
        print(f"facts {right}/{args.facts}, sums {sums}/{args.facts // 4}, unknown {unknown}/{args.facts // 4}")
        for q, a, got in wrong[:8]:
            print(f"  ? {q}\n    wanted {a}\n    got    {got}")
    for prompt in PROMPTS:
        for seed in range(1, args.samples + 1):
            out = generate(fast, enc(prompt), 200, seed)
            print(f"--- {prompt!r} seed {seed}, {len(out)} tokens{'' if out[-1] in STOP else ', cut'}\n{prompt}{dec(out)}")
    if args.golden or args.transformers:
        exact = export.read(args.file)[0]
    if args.transformers:
        from transformers import AutoModelForCausalLM
        theirs = AutoModelForCausalLM.from_pretrained(args.file.parent, gguf_file=args.file.name, dtype=torch.float64).eval()
        for prompt in (PROMPTS[0], chat_text("What is a byte?")):
            ids = torch.tensor([enc(prompt)])
            with torch.no_grad():
                a, b = exact(ids), theirs(ids).logits
            print(f"transformers: largest difference {(a - b).abs().max():.2e} of {a.abs().max():.2f}")
    if args.golden:
        rows = []
        for text in [*PROMPTS, chat_text("What is a CPU?"), chat_text("Tell me a story about a fox.", system="You are kind.")]:
            ids = enc(text)
            rows.append({"prompt": text, "ids": ids, "greedy": generate(exact, ids, 32, stop=False)})
        (HERE / "golden.json").write_text("[\n" + ",\n".join(" " + json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
