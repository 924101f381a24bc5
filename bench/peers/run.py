#!/usr/bin/env python3
"""Alula, llama.cpp and candle on the same files, in turns: medians, spread, ratios, shares of the machine's ceilings.

    python3 bench/peers/run.py --build          # once: Alula, the peers (cargo, clang, cmake, ninja, pip); half an hour
    python3 bench/peers/run.py                  # the table; an hour, and 20 GB in target/peers/models

`run.py --build --table` does both. `--only decode` (part of a row's name, repeatable) measures some rows, `--quick` measures
short work once, `--large` adds the 7B model (10 GB more), `run.py MODEL.gguf ...` measures these files instead. Standard
library only. Models are made when needed, with random weights (`models.py`). What is not there is printed as "not measured"
with the reason. Wants a quiet machine, and prints the load that it saw.

A ceiling is measured before each row, by `alula bench --machine` with all threads: for a decoded token, the bytes of the
weights that it reads at the bandwidth of reads; for a prompt's token, its products at the peak of products of bytes, and of
floats for F16 and BF16. The cell is the median and, in brackets, the lowest and the highest.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import models

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PEERS = TARGET / "peers"
FILES = PEERS / "models"
# Packed weights lie beside the models; the person's own settings stay out.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("ALULA_")} | {"ALULA_MODELS": str(FILES)}
PEAKS = {"integer": ["dot_ops", "tile_int8_ops"], "float": ["fma_flops"], "fast": ["bf16_flops"]}
MODES = {"avx2": {"ALULA_ISA": "avx2"}, "avx512vnni": {"ALULA_ISA": "avx512vnni"}, "fast": {"ALULA_NUMERICS": "fast"}}
SETS = ["avx2", "avx512vnni"]
# The highest peaks of products that were measured, by mode.
BEST = {}
# candle is run once where a run takes so many seconds; others every round.
LONG = 20
MB = 1e6


class Missing(Exception):
    """Why something cannot be measured."""


@dataclass
class Row:
    """One line of the table, and the goals for it: a ratio, a share of a ceiling, a value."""

    work: str
    key: str
    unit: str = "tokens/s"
    ratio: float = None
    share: float = None
    ceiling: str = None  # "read" or "products"
    value: object = None  # a number, or what makes one of the file

    @property
    def less(self):
        return self.unit in ("ms", "MB")


@dataclass
class Case:
    """Rows that one run of each program gives. `who` says for each how: from the file to values by their keys."""

    model: str
    rows: list
    who: dict
    mode: str = None  # of MODES
    warm: bool = False
    report: dict = field(default_factory=dict)

    @property
    def named(self):
        """Whether a person named the file: there are no goals for it."""
        return self.model.endswith(".gguf")


def spent(command, env=None):
    """Runs a command: its output, milliseconds of wall time, MB of memory at most."""
    command = [str(c) for c in command]
    if not Path(command[0]).exists():
        raise Missing(f"{command[0]} is not built")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=ENV | (env or {}))
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        if child.returncode:
            said = err.read().decode(errors="replace").strip().splitlines()
            raise Missing(said[-1] if said else f"{Path(command[0]).name} ended with {child.returncode}")
        return out.read().decode(errors="replace"), wall * 1e3, usage.ru_maxrss * 1024 / MB


class Programs:
    """Everybody's command lines."""

    def __init__(self, args):
        self.args, self.threads = args, args.threads

    def llama_bin(self, name, mode=None):
        folder = PEERS / f"build-{mode}" / "bin" if mode in SETS else self.args.llama
        return folder / name

    def alula(self, prompt, gen, depth=0, streams=1, mode=None):
        def run(model):
            sizes = ["--prompt", prompt, "--gen", gen, "--depth", depth, "--streams", streams]
            command = [self.args.alula, "bench", model, *sizes, "--threads", self.threads, "--runs", 1, "--json"]
            return json.loads(spent(command, MODES.get(mode))[0])

        return run

    def llama(self, prompt, gen, depth=0, mode=None):
        def run(model):
            sizes = ["-p", prompt, "-n", gen, "-d", depth, "-t", self.threads, "-r", 1, "-o", "json"]
            rows = json.loads(spent([self.llama_bin("llama-bench", mode), "-m", model, *sizes])[0])
            return {key: r["avg_ts"] for key, n in (("prefill_tps", "n_prompt"), ("decode_tps", "n_gen")) for r in rows if r[n] > 0}

        return run

    def llama_streams(self, prompt, gen, streams):
        def run(model):
            sizes = ["-npp", prompt, "-ntg", gen, "-npl", streams, "-c", (prompt + gen) * streams, "-t", self.threads]
            out = spent([self.llama_bin("llama-batched-bench"), "-m", model, *sizes, "--output-format", "jsonl"])[0]
            last = [line for line in out.splitlines() if line.startswith("{")][-1]
            return {"decode_tps": json.loads(last)["speed_tg"]}

        return run

    def candle(self, prompt, gen):
        return lambda model: json.loads(spent([self.args.candle, model, prompt, gen, self.threads])[0])

    def alula_start(self, text):
        def run(model):
            command = [self.args.alula, "run", model, text, "-n", 1, "--temp", 0, "--ctx", 2048, "--threads", self.threads]
            _, wall, memory = spent(command)
            return {"wall": wall, "memory": memory}

        return run

    def llama_start(self, text):
        def run(model):
            flags = ["-n", 1, "--temp", 0, "-c", 2048, "-t", self.threads, "-no-cnv", "--no-warmup", "--no-display-prompt"]
            _, wall, memory = spent([self.llama_bin("llama-completion"), "-m", model, "-p", text, *flags])
            return {"wall": wall, "memory": memory}

        return run

    def alula_words(self, text):
        def run(model):
            said = spent([self.args.alula.parent / "examples/speed", text(), model])[0]
            return {"mb_per_second": float(re.search(r"first ([\d.]+)", said)[1])}

        return run

    def llama_words(self, text):
        def run(model):
            flags = ["--ids", "--log-disable", "-m", model]
            long, short = (spent([self.llama_bin("llama-tokenize"), *flags, *of])[1] for of in (["-f", text()], ["-p", "a"]))
            return {"mb_per_second": text().stat().st_size / MB / ((long - short) / 1e3)}

        return run


def source():
    """The sources of llama.cpp, which bring vocabularies and a text."""
    found = [Path(os.environ["ALULA_VOCABS"]).parent] if "ALULA_VOCABS" in os.environ else []
    found += sorted(PEERS.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not found:
        raise Missing("no vocabularies: bench/peers/llama-cpp.sh fetches them")
    return found[0]


def text():
    """1 MB of English and code that no tokenizer has seen: llama.cpp's documents."""
    path = FILES / "text.txt"
    if not path.exists():
        docs = (p.read_text(errors="ignore") for p in sorted(source().rglob("*.*")) if p.suffix in (".md", ".cpp"))
        path.write_bytes("".join(docs).encode()[:1_000_000].decode(errors="ignore").encode())
    return path


def file_of(model):
    """The file behind a name: a path, the built-in model, a vocabulary, or one that is made."""
    if model == "builtin":
        return ROOT / "crates/alula/assets/builtin.gguf"
    if model.startswith("vocabulary "):
        return source() / "models" / f"ggml-vocab-{model.split()[1]}.gguf"
    if model.endswith(".gguf"):
        return Path(model)
    FILES.mkdir(parents=True, exist_ok=True)
    return models.make(model, FILES, source() / "models")


def room(path):
    """Most memory that a model may take at 2,048 positions: its file, the cache, 50 MB."""
    s = models.SHAPES["tinyllama"]
    return (path.stat().st_size + s["layers"] * 2 * (s["d"] // s["heads"] * s["kv"]) * 2048 * 2) / MB + 50


def cases(args, do):
    """The table: what is measured, by whom, and the goals."""
    prompt, gen, depth, each = (64, 8, 256, 16) if args.quick else (512, 64, 1900, 128)
    short = gen // 2

    def both(model, mode=None, candle=True, **goals):
        rows = [Row(f"prefill {prompt}", "prefill_tps", ceiling="products", **goals.get("prefill", {}))]
        rows += [Row(f"decode {gen}", "decode_tps", ceiling="read", **goals["decode"])] if "decode" in goals else []
        n = gen if len(rows) == 2 else 0
        who = {"Alula": do.alula(prompt, n, mode=mode), "llama.cpp": do.llama(prompt, n, mode=mode)}
        return Case(model, rows, who | ({"candle": do.candle(prompt, n)} if candle else {}), mode)

    if args.models:
        return [both(str(m), decode={}) for m in args.models]
    table = []
    for mix in models.MIXES:
        floats = mix in ("F16", "BF16")
        prefill = dict(ratio=2, share=0.30) if floats else dict(ratio=3, share=0.25)
        decode = dict(ratio=1.25, share=0.92) if floats or mix == "Q8_0" else dict(ratio=1.5, share=0.80)
        table.append(both(f"tinyllama-{mix}", prefill=prefill, decode=decode))
    for mix in models.MIXES:
        goals = dict(ratio=6, share=0.30) if mix in ("F16", "BF16") else dict(ratio=5, share=0.25)
        table.append(both(f"tinyllama-{mix}", "fast", candle=False, prefill=goals))
    for mode in SETS:
        for mix in models.MIXES:
            table.append(both(f"tinyllama-{mix}", mode, candle=False, prefill=dict(ratio=1.3, share=0.60)))
    q4 = "tinyllama-Q4_K_M"
    who = {"Alula": do.alula(0, short, depth), "llama.cpp": do.llama(0, short, depth)}
    table.append(Case(q4, [Row(f"decode {short} at depth {depth}", "decode_tps", ratio=2)], who))
    for n in (8, 16):
        who = {"Alula": do.alula(each, short, each, n), "llama.cpp": do.llama_streams(each, short, n)}
        table.append(Case(q4, [Row(f"decode {short}, {n} streams", "decode_tps", ratio=3)], who))
    if args.large:
        table.append(both("mistral-7b-Q4_K_M", prefill=dict(ratio=3), decode=dict(ratio=1.2)))
    table.append(both("distilgpt2-Q8_0", candle=False, prefill=dict(value=4500)))
    who = {"Alula": do.alula(0, 4 * gen), "llama.cpp": do.llama(0, 4 * gen)}
    table.append(Case("builtin", [Row(f"decode {4 * gen}", "decode_tps", value=4500)], who))
    hello = "Once upon a time, there was a little bird"
    who = {"Alula": do.alula_start(hello), "llama.cpp": do.llama_start(hello)}
    table.append(Case(q4, [Row("start to first token", "wall", "ms", ratio=3, value=150)], who, warm=True))
    # A token each.
    full = " ".join(["bird"] * depth)
    who = {"Alula": do.alula_start(full), "llama.cpp": do.llama_start(full)}
    table.append(Case(q4, [Row(f"peak memory, {depth} of 2048 positions", "memory", "MB", value=room)], who, warm=True))
    for words in ("qwen2", "llama-bpe"):
        who = {"Alula": do.alula_words(text), "llama.cpp": do.llama_words(text)}
        table.append(Case(f"vocabulary {words}", [Row("tokenising 1 MB", "mb_per_second", "MB/s", value=75)], who))
    return table


def ceilings(args, case, path):
    """Values that nobody can go beyond here, for the rows that have such."""
    if not any(r.ceiling for r in case.rows):
        return {}
    command = [args.alula, "bench", "--machine", "--json", "--threads", args.threads]
    machine = json.loads(spent(command, MODES.get(case.mode))[0])
    read, products = models.work(path)
    floats = re.search(r"F16|F32", path.stem)
    kind = "fast" if case.mode == "fast" else "float" if floats else "integer"
    # Other work on the host lowers what is measured: the best of the run so far counts.
    best = BEST.setdefault(case.mode, {})
    for name in PEAKS[kind]:
        if machine.get(name):
            best[name] = max(best.get(name, 0), machine[name]["all_threads"])
    peaks = [best[name] for name in PEAKS[kind] if name in best]
    # Without AMX, bfloat16 is at best faster than floats.
    if not peaks or kind == "fast" and not floats and not machine["tile_int8_ops"]:
        raise Missing("computed as in strict mode on this machine")
    bandwidth = machine["read_bytes_per_second"]
    case.report["machine"] = machine
    return {"products": max(peaks) / 2 / products, "read": bandwidth and bandwidth["all_threads"] / read}


def measure(args, case):
    """Rounds of everybody in turns: values by name and key, and what kept somebody from it."""
    values, why, once = {}, {}, set()
    try:
        path = file_of(case.model)
        tops = ceilings(args, case, path)
    except (Missing, OSError, ValueError, KeyError) as e:
        return {}, {name: str(e) for name in case.who}, {}, None
    for i in range(-case.warm, args.rounds):
        for name, run in case.who.items():
            if name in why or name in once:
                continue
            began = time.monotonic()
            try:
                got = run("builtin" if case.model == "builtin" and name == "Alula" else path)
            except (Missing, OSError, ValueError, KeyError, IndexError, TypeError) as e:
                why[name] = str(e) or type(e).__name__
                continue
            for key, value in got.items() if i >= 0 else ():
                values.setdefault(name, {}).setdefault(key, []).append(value)
            if name == "candle" and time.monotonic() - began > LONG:
                once.add(name)
        print(f"{case.model} {case.mode or ''}: round {i + 1} of {args.rounds}", file=sys.stderr)
    return values, why, tops, path


def line(case, row, values, why, tops, path):
    """A line of the table as text, and as data."""
    def cell(name):
        if name not in case.who:
            return "–"
        all = values.get(name, {}).get(row.key)
        if name in why or not all:
            reason = " ".join(why.get(name, "no figure").split()).replace("|", "/")
            return f"not measured: {reason[:100]}"
        digits = 0 if statistics.median(all) >= 1000 else 1
        shown = [f"{f(all):,.{digits}f}" for f in (statistics.median, min, max)]
        return "{} ({} to {})".format(*shown)

    median = {name: statistics.median(v[row.key]) for name, v in values.items() if name not in why and v.get(row.key)}
    ours = median.get("Alula")
    ratio = lambda name: (median[name] / ours if row.less else ours / median[name]) if ours and name in median else None
    top = tops.get(row.ceiling)
    share = ours / top if ours and top else None
    want = row.value(path) if callable(row.value) and path else None if callable(row.value) else row.value
    goals = [(row.ratio, ratio("llama.cpp"), f"{row.ratio}x", False), (row.share, share, f"{row.share or 0:.0%}", False)]
    goals += [(want, ours, f"{'at most' if row.less else 'at least'} {want or 0:,.0f} {row.unit}", row.less)]
    goals += [(2, ratio("candle"), "candle 2x", False)] if "candle" in case.who and not case.named else []
    goals = [g for g in goals if g[0]]
    met = lambda goal, got, less: "?" if got is None else "yes" if (got <= goal if less else got >= goal) else "no"
    said = ", ".join(f"{text}: {met(goal, got, less)}" for goal, got, text, less in goals)
    shown = lambda x, form: "–" if x is None else format(x, form)
    work = row.work + (f", {case.mode}" if case.mode else "") + ("" if row.unit == "tokens/s" else f", {row.unit}")
    peers = [c for name in ("llama.cpp", "candle") for c in (cell(name), shown(ratio(name), ".2f"))]
    cells = [Path(case.model).stem if case.named else case.model, work, cell("Alula"), *peers, shown(share, ".0%"), said]
    data = {"model": case.model, "work": row.work, "mode": case.mode, "unit": row.unit}
    data |= {"ratio": ratio("llama.cpp"), "ratio_candle": ratio("candle"), "share": share, "goals": said}
    data |= {"not_measured": why, "load": os.getloadavg(), **case.report}
    return "| " + " | ".join(cells) + " |", data | {name: v[row.key] for name, v in values.items() if row.key in v}


def build():
    """Alula and all peers; goes on where one cannot be built."""
    cargo = ["cargo", "build", "--release", "--locked"]
    steps = [(ROOT, [*cargo, "-p", "alula"]), (ROOT, [*cargo, "-p", "alula-tokenizer", "--example", "speed"])]
    steps += [(ROOT, ["bash", HERE / "llama-cpp.sh", mode, PEERS]) for mode in ("native", *SETS)]
    steps += [(HERE / "candle", [*cargo, "--target-dir", PEERS / "candle"])]
    for folder, step in steps:
        if subprocess.run([str(s) for s in step], cwd=folder).returncode:
            print(f"failed: {' '.join(str(s) for s in step)}", file=sys.stderr)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*", type=Path, help="files to measure instead of the table")
    p.add_argument("--build", action="store_true", help="build Alula and the peers, and do no more")
    p.add_argument("--table", action="store_true", help="with --build: the table too")
    p.add_argument("--only", action="append", metavar="PART", help="rows whose name has this in it (repeatable)")
    p.add_argument("--quick", action="store_true", help="short work, one round")
    p.add_argument("--large", action="store_true", help="Mistral 7B too")
    p.add_argument("--rounds", type=int)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--alula", type=Path, default=TARGET / "release/alula")
    p.add_argument("--llama", type=Path, default=PEERS / "build/bin", help="folder of llama.cpp's programs")
    p.add_argument("--candle", type=Path, default=PEERS / "candle/release/alula-peer-candle")
    p.add_argument("--json", type=Path, default=PEERS / "table.json", help="where the figures go")
    args = p.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    if args.build:
        build()
        if not args.table:
            return
    print(f"load {os.getloadavg()[0]:.2f}, {args.threads} threads, {args.rounds} rounds, {time.strftime('%Y-%m-%d')}\n")
    print("| model | work | Alula | llama.cpp | ratio | candle | ratio | share of the ceiling | goals |")
    print("|---|---|---|---|---|---|---|---|---|")
    report = []
    for case in cases(args, Programs(args)):
        name = lambda row: f"{case.model} {row.work} {case.mode or ''}"
        case.rows = [r for r in case.rows if not args.only or any(part in name(r) for part in args.only)]
        if not case.rows:
            continue
        measured = measure(args, case)
        for row in case.rows:
            said, data = line(case, row, *measured)
            print(said, flush=True)
            report.append(data)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"threads": args.threads, "rounds": args.rounds, "rows": report}, indent=1))


if __name__ == "__main__":
    main()
