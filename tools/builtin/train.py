"""Trains the built-in model and writes its GGUF file.

    python tools/builtin/train.py                       everything, from nothing to crates/alula/assets/builtin.gguf
    python tools/builtin/train.py --resume              goes on from the last checkpoint
    python tools/builtin/train.py --export CHECKPOINT   writes the file from a checkpoint

Each step makes its own documents from its own number, so a run that is resumed equals one that never stopped.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import BOS, EOS, IM_END, IM_START, Corpus
from model import Decoder, Muon, Shape

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SPECIAL = [BOS, EOS, IM_START, IM_END]


def make_tokenizer(path, vocab, documents=6000):
    """Byte-level BPE as GPT-2 cuts text. No merge joins digits, so that sums are read digit by digit."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tok = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    corpus = Corpus(-1)
    text = ("\n".join(t for t, _ in corpus.document()) for _ in range(documents))
    strip = (t.replace(BOS, "").replace(EOS, "").replace(IM_START, "").replace(IM_END, "") for t in text)
    tok.train_from_iterator(strip, trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.pre_tokenizer, tok.decoder = byte_level, decoders.ByteLevel()
    tok.save(str(path))
    return tok


def encode(tok, document, limit):
    """A document as (ids, learned), cut to the context."""
    ids, learned = [], []
    for text, taught in document:
        piece = tok.encode(text, add_special_tokens=False).ids
        ids += piece
        learned += [taught] * len(piece)
    return ids[:limit], learned[:limit]


def batches(tok, seed, tokens, limit, micro=1024):
    """About `tokens` tokens of documents made from `seed`: padded groups of like length, as (ids, learned) tensors."""
    corpus, docs, total = Corpus(seed), [], 0
    while total < tokens:
        docs.append(encode(tok, corpus.document(), limit))
        total += len(docs[-1][0])
    docs.sort(key=lambda d: len(d[0]), reverse=True)
    while docs:
        longest = len(docs[0][0])
        group, docs = docs[:max(1, micro // longest)], docs[max(1, micro // longest):]
        ids, learned = torch.zeros(len(group), longest, dtype=torch.long), torch.zeros(len(group), longest, dtype=torch.bool)
        for row, (i, l) in enumerate(group):
            ids[row, :len(i)], learned[row, :len(l)] = torch.tensor(i), torch.tensor(l)
        yield ids, learned


def rate(step, steps):
    """The learning rate's factor: a short rise, a plateau, and a straight fall to nothing over the second half."""
    return min(1, (step + 1) / 20, max(0.0, (steps - step) / (steps * 0.5)))


@torch.no_grad()
def validate(model, tok, shape, seed=10**9, tokens=30000):
    """Mean loss in nats per learned token on documents that no step has seen."""
    total = count = 0
    for ids, learned in batches(tok, seed, tokens, shape.context):
        total += model.loss(ids, learned).item()
        count += learned[:, 1:].sum().item()
    return total / count


def train(args):
    out = args.work
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    torch.set_num_threads(args.threads)
    shape = Shape()
    tok = make_tokenizer(out / "tokenizer.json", shape.vocab)
    model = Decoder(shape)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "token" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or "token" in n]
    opts = [Muon(matrices, lr=2 * args.lr), torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)]
    for o in opts:
        o.param_groups[0]["top"] = o.param_groups[0]["lr"]
    start = spent = 0
    last = out / "last.pt"
    if args.resume and (args.resume_from or last).exists():
        state = torch.load(args.resume_from or last, weights_only=False)
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["opts"]):
            o.load_state_dict(s)
        start, spent = state["step"], state["seconds"]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {args.steps} steps of {args.tokens} tokens, from step {start}", flush=True)
    begin, mean = time.time(), None
    for step in range(start, args.steps):
        for o in opts:
            for g in o.param_groups:
                g["lr"] = g["top"] * rate(step, args.steps)
        groups = list(batches(tok, step, args.tokens // (2 if step < 0.4 * args.steps else 1), shape.context))
        count = sum(l[:, 1:].sum().item() for _, l in groups)
        total = 0.0
        for ids, learned in groups:
            loss = model.loss(ids, learned) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        mean = total if mean is None else 0.9 * mean + 0.1 * total
        if step % 10 == 0:
            used = time.time() - begin
            print(f"step {step} loss {mean:.4f} {used + spent:.0f} s", flush=True)
        done = step + 1
        if done % 20 == 0 or done == args.steps:
            state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": done, "shape": shape.dict(),
                     "seconds": time.time() - begin + spent}
            torch.save(state, last)
            if done % 100 == 0 or done == args.steps:
                torch.save(state, out / f"step{done}.pt")
                print(f"step {done} validation {validate(model, tok, shape):.4f}", flush=True)
    return last


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, default=ROOT / "target" / "builtin", help="where checkpoints and the tokenizer go")
    p.add_argument("--out", type=Path, default=ROOT / "crates/alula/assets/builtin.gguf")
    p.add_argument("--steps", type=int, default=2200)
    p.add_argument("--tokens", type=int, default=4096, help="tokens in a step (half of it in the first two fifths of the run)")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--resume", action="store_true")
    p.add_argument("--resume-from", type=Path)
    p.add_argument("--export", type=Path, metavar="CHECKPOINT")
    p.add_argument("--type", default="Q8_0", help="tensor type of the matrices")
    args = p.parse_args()
    checkpoint = args.export or train(args)
    from export import write
    write(checkpoint, args.work / "tokenizer.json", args.out, args.type)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
