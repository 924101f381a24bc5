#!/usr/bin/env python3
"""Texts a second of a sentence-embedding model: Alula, onnxruntime and candle in turns, on the same texts and threads.

    python3 bench/peers/encoders.py ALULA MODEL [--threads 2] [--runs 5] [--candle target/peers/candle/release/alula-peer-candle]

MODEL is a folder of sentence-transformers (BERT, mean, length 1). It is exported by torch to ONNX beside nothing that it has,
in a temporary folder, and optimised by onnxruntime's own transformer optimiser (fused attention, norms and GELU). Peers get
texts sorted by length in padded batches, of the size that is fastest for each of 1, 8 and 32; Alula gets them as they come.
Alula and onnxruntime tokenise the texts in the time that is measured, candle gets ids (`run.py --build` makes it); loading is
not counted. Medians of runs in turns. Vectors are compared, so that all do the same. Needs onnxruntime, onnx, onnxscript,
torch, transformers, tokenizers, numpy.
"""
import argparse, json, os, random, statistics, subprocess, sys, tempfile, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/parity"))

import numpy as np
from minilm import WORDS


def texts(tokenizer, tokens, n):
    """Texts of about so many tokens, a fifth more or less."""
    rng = random.Random(tokens)
    out = []
    while len(out) < n:
        want = rng.randint(tokens * 4 // 5, tokens * 6 // 5)
        words = []
        while len(tokenizer.encode(" ".join(words)).ids) < want:
            words.append(rng.choice(WORDS))
        out.append(" ".join(words))
    return out


def export(model, folder):
    """The ONNX model, optimised."""
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(model, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    ids = torch.ones(2, 7, dtype=torch.long)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "length"} for name in names + ["hidden"]}
    plain = folder / "plain.onnx"
    torch.onnx.export(Hidden(), (ids, ids, ids * 0), str(plain), input_names=names, output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False)
    config = json.loads((model / "config.json").read_text())
    best = optimizer.optimize_model(str(plain), model_type="bert", num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"], opt_level=1)
    print("fused:", {k: v for k, v in best.get_fused_operator_statistics().items() if v}, flush=True)
    best.save_model_to_file(str(folder / "best.onnx"))
    return folder / "best.onnx"


class Onnx:
    def __init__(self, path, tokenizer, threads, size):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer, self.size = tokenizer, size

    def timed(self, all_texts):
        """(texts a second, vectors)."""
        start = time.perf_counter()
        vectors = self.embed(all_texts)
        return len(all_texts) / (time.perf_counter() - start), vectors

    def embed(self, all_texts):
        encoded = self.tokenizer.encode_batch(all_texts)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        out = [None] * len(encoded)
        for start in range(0, len(order), self.size):
            batch = order[start:start + self.size]
            longest = max(len(encoded[i].ids) for i in batch)
            ids, mask = np.zeros((len(batch), longest), np.int64), np.zeros((len(batch), longest), np.int64)
            for row, i in enumerate(batch):
                ids[row, :len(encoded[i].ids)], mask[row, :len(encoded[i].ids)] = encoded[i].ids, 1
            h = self.session.run(None, dict(input_ids=ids, attention_mask=mask, token_type_ids=ids * 0))[0]
            v = (h * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            v /= np.linalg.norm(v, axis=1, keepdims=True)
            for row, i in enumerate(batch):
                out[i] = v[row]
        return out


class Candle:
    def __init__(self, binary, model, tokenizer, threads, size):
        self.command, self.tokenizer, self.size = [binary, model, size, threads], tokenizer, size

    def timed(self, all_texts):
        """(texts a second, vectors)."""
        ids = json.dumps([e.ids for e in self.tokenizer.encode_batch(all_texts)])
        ran = subprocess.run([str(c) for c in self.command], input=ids, capture_output=True, text=True, check=True)
        said = json.loads(ran.stdout)
        return len(all_texts) / said["seconds"], [np.array(v) / np.linalg.norm(v) for v in said["vectors"]]


def alula(binary, model, threads, all_texts, *flags):
    """(texts a second, vectors)."""
    env = {**os.environ, "ALULA_MODELS": tempfile.gettempdir() + "/alula-encoders"}
    ran = subprocess.run([binary, "embed", str(model), "--threads", str(threads), "--stats", *flags], input="\n".join(all_texts), capture_output=True, text=True, check=True, env=env)
    speed = float(ran.stderr.strip().splitlines()[-1].split(" ms, ")[1].split(" texts/s")[0])
    return speed, [json.loads(line)["embedding"] for line in ran.stdout.splitlines()]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("alula"), p.add_argument("model", type=Path), p.add_argument("--threads", type=int, default=2)
    p.add_argument("--candle", type=Path)
    p.add_argument("--runs", type=int, default=5), p.add_argument("--texts", type=int, default=256), p.add_argument("--flag", action="append", default=[])
    a = p.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(a.threads)
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(a.model / "tokenizer.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    with tempfile.TemporaryDirectory() as folder:
        path = export(a.model, Path(folder))
        for tokens in (30, 200):
            all_texts = texts(tokenizer, tokens, a.texts * 30 // tokens)
            peers = {"onnxruntime": [Onnx(path, tokenizer, a.threads, size) for size in (1, 8, 32)]}
            if a.candle:
                peers["candle"] = [Candle(a.candle, a.model, tokenizer, a.threads, size) for size in (1, 8, 32)]
            for sizes in peers.values():
                sizes[0].timed(all_texts[:32])
            peers = {name: max(sizes, key=lambda p: p.timed(all_texts)[0]) for name, sizes in peers.items()}
            alula(a.alula, a.model, a.threads, all_texts, *a.flag)
            speeds = {name: [] for name in ["Alula", *peers]}
            least = 1
            for _ in range(a.runs):
                speed, ours = alula(a.alula, a.model, a.threads, all_texts, *a.flag)
                speeds["Alula"].append(speed)
                for name, peer in peers.items():
                    speed, theirs = peer.timed(all_texts)
                    speeds[name].append(speed)
                    least = min([least, *(float(np.dot(v, w) / np.linalg.norm(v)) for v, w in zip(ours, theirs))])
            middle = {name: statistics.median(s) for name, s in speeds.items()}
            print(f"{tokens} tokens, {len(all_texts)} texts, least cosine {least:.7f}", flush=True)
            for name, s in speeds.items():
                batch = f", batches of {peers[name].size}" if name in peers else ""
                print(f"  {name}: {middle[name]:.1f} ({min(s):.1f} to {max(s):.1f}) texts/s{batch}; ratio {middle['Alula'] / middle[name]:.2f}", flush=True)


if __name__ == "__main__":
    main()
