#!/usr/bin/env python3
"""Alula and llama.cpp on the same files, interleaved in one run: medians, spread, ratios, shares of the machine's ceiling.

    python3 bench/peers/run.py MODEL.gguf [MODEL.gguf ...] [--json OUT.json]

Needs `cargo build --release` and llama-bench (`bench/peers/llama-cpp.sh` builds it and prints where it is). Standard library only.
Wants a quiet machine: it prints the load that it saw. The ceiling of a decoded token is the file's bytes at the bandwidth that
`alula bench --machine` measures with all threads; that of a prompt's token is its weights' products at the measured peak.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def output(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout


def alula(args, model):
    r = json.loads(output(args.alula, "bench", model, "--prompt", args.prompt, "--gen", args.gen, "--threads", args.threads, "--runs", 1, "--json"))
    return r["prefill_tps"], r["decode_tps"]


def llama(args, model):
    rows = json.loads(output(args.llama, "-m", model, "-p", args.prompt, "-n", args.gen, "-t", args.threads, "-r", 1, "-o", "json"))
    return tuple(next(r["avg_ts"] for r in rows if r[key] > 0) for key in ("n_prompt", "n_gen"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path)
    p.add_argument("--alula", type=Path, default=ROOT / "target/release/alula")
    p.add_argument("--llama", type=Path, default=ROOT / "target/peers/build/bin/llama-bench")
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--gen", type=int, default=32)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--json", type=Path)
    args = p.parse_args()
    machine = json.loads(output(args.alula, "bench", "--machine", "--json", "--threads", args.threads))
    read, dot = machine["read_bytes_per_second"]["all_threads"], machine["dot_ops"]["all_threads"]
    print(f"{machine['device']}: reads {read / 1e9:.1f} GB/s, byte products {dot / 1e9:.0f} GOPS; load {os.getloadavg()[0]:.2f}\n")
    print(f"| model | work | Alula, tokens/s | llama.cpp, tokens/s | ratio | share of the ceiling |\n|---|---|---|---|---|---|")
    report = {"machine": machine, "load": os.getloadavg(), "rows": []}
    for model in args.models:
        shown = json.loads(output(args.alula, "show", model, "--json"))
        rounds = {"alula": [], "llama.cpp": []}
        for _ in range(args.rounds):
            rounds["alula"].append(alula(args, model))
            rounds["llama.cpp"].append(llama(args, model))
        ceilings = [dot / 2 / shown["parameters"], read / model.stat().st_size]
        for i, (work, ceiling) in enumerate(zip([f"prompt {args.prompt}", f"decode {args.gen}"], ceilings)):
            ours, theirs = ([r[i] for r in rounds[who]] for who in ("alula", "llama.cpp"))
            a, b = statistics.median(ours), statistics.median(theirs)
            spread = lambda all: f"{statistics.median(all):.1f} ({min(all):.1f} to {max(all):.1f})"
            print(f"| {model.stem} | {work} | {spread(ours)} | {spread(theirs)} | {a / b:.2f} | {a / ceiling:.0%} |", flush=True)
            report["rows"].append({"model": model.name, "work": work, "alula": ours, "llama.cpp": theirs, "ratio": a / b, "share": a / ceiling})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
