#!/usr/bin/env python3
"""Alula's server and llama.cpp's on the same file under the same load, in turns; and Alula's when ten times more comes than it can do.

    python3 bench/serve/run.py --build            # once: Alula, llama-server (clang, cmake, ninja), guidellm (pip)
    python3 bench/serve/run.py                    # 16 clients, mixed requests, three rounds; half an hour
    python3 bench/serve/run.py --overload         # ten times the arrivals that were served
    python3 bench/serve/run.py --idle             # processor time of a server that has served and waits

The load is made by guidellm (PyPI) over loopback. Prompts have 32 to 1,024 words and answers 16 to 192 tokens, both spread
evenly over their logarithms; the weights are random, TinyLlama's size (`bench/peers/models.py`); `--model FILE` takes another
file. Each server gets two threads, 16 slots and the same requests. Printed: medians over rounds with [lowest, highest], and
ratios. Wants a quiet machine, and prints the load that it saw.
"""

import argparse
import json
import math
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PEERS = TARGET / "peers"
ENV = {k: v for k, v in os.environ.items() if not k.startswith("ALULA_")} | {"HF_HUB_OFFLINE": "1"}
WORDS = "the of a sea light bird wing morning river stone quick number letter house garden music winter carry small heavy".split()


def build():
    subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
    subprocess.run([ROOT / "bench/peers/llama-cpp.sh", "native", PEERS], env=ENV | {"LLAMA_SERVER": "1"}, check=True)
    if not (PEERS / "guidellm/bin/guidellm").exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS / "guidellm"], check=True)
        subprocess.run([PEERS / "guidellm/bin/pip", "install", "-q", "guidellm==0.8.1"], check=True)


def requests(seed, count, folder, sizes=None):
    """Prompts and lengths of answers, as guidellm reads them: mixed, or all of the given sizes."""
    draw = random.Random(seed)
    path = Path(folder) / f"requests-{seed}.jsonl"
    with open(path, "w") as f:
        for i in range(count):
            mixed = (int(math.exp(draw.uniform(math.log(a), math.log(b)))) for a, b in [(32, 1024), (16, 192)])
            words, answer = sizes or mixed
            prompt = f"Case {seed}.{i}: " + " ".join(draw.choice(WORDS) for _ in range(words))
            f.write(json.dumps({"prompt": prompt, "prompt_tokens_count": words, "output_tokens_count": answer}) + "\n")
    return path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server that is ready, until the block ends."""

    def __init__(self, name, args, extra=()):
        self.port = free_port()
        model, slots, threads = str(args.model), args.slots, str(args.threads)
        if name == "alula":
            command = [args.alula, "serve", f"m={model}", "--port", self.port, "--log-format", "off", "--parallel", slots]
            command += ["-t", threads, *extra]
        else:
            command = [args.llama, "-m", model, "--port", self.port, "-np", slots, "-c", 2048 * slots, "-t", threads]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(c) for c in command], env=ENV, stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                if urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200:
                    return
            except OSError:
                if self.process.poll() is not None:
                    break
            time.sleep(0.1)
        self.log.seek(0)
        sys.exit(f"{name} does not start:\n{self.log.read()[-2000:].decode(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def seconds(self):
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counts(self):
        """Of Alula so far: tokens written, first tokens, and the seconds that all of these took."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30).read().decode()
        names = ["generated_tokens_total", "time_to_first_token_seconds_count", "time_to_first_token_seconds_sum"]
        return [sum(float(n) for n in re.findall(rf"^alula_{name}{{.*}} (\S+)$", text, re.M)) for name in names]

    def pace(self, seconds, out):
        """Tokens a second while all places are taken, without the first quarter of the time and the last two seconds; and a
        second of the server's processor time, which the load's own does not shorten; and milliseconds to a first token, without
        the time in which the load did not look."""
        time.sleep(seconds / 4)
        began, spent, before = time.monotonic(), self.seconds(), self.counts()
        time.sleep(seconds * 3 / 4 - 2)
        written, firsts, waited = (now - then for now, then in zip(self.counts(), before))
        out.extend([written / (time.monotonic() - began), written / (self.seconds() - spent), 1e3 * waited / max(firsts, 1)])

    def load(self, args, data, profile, constraint, before=()):
        """What guidellm measured."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "report.json"
            backend = f"kind=openai_http,target=http://127.0.0.1:{self.port},model=m,request_format=/v1/completions"
            command = [*before, args.guidellm, "run", "--backend", backend, "--profile", profile, "--disable-console"]
            command += ["--constraint", constraint, "--data", f"kind=json_file,path={data}", "--output", f"kind=json,path={out}"]
            run = subprocess.run([str(c) for c in command], env=ENV, capture_output=True, text=True)
            if run.returncode or not out.exists():
                sys.exit(f"guidellm failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
            return Figures(json.loads(out.read_text())["benchmarks"][0]["requests"])


class Figures:
    """Of the requests that were answered: tokens a second, and times to the first token and between tokens in milliseconds."""

    def __init__(self, requests):
        done = requests["successful"]
        if not done:
            errors = [r["info"].get("error") for r in requests["errored"][:1]]
            sys.exit(f"no request was answered: {errors}")
        times = [r["info"]["timings"] for r in done]
        tokens = [r["output_metrics"]["text_tokens"] for r in done]
        self.done, self.refused = len(done), len(requests["errored"])
        self.errors = sorted({str(r["info"].get("error")).split("\n")[0] for r in requests["errored"]})
        begin = min(t["request_start"] for t in times)
        self.span = max(t["request_end"] for t in times) - begin
        self.rate = sum(tokens) / self.span
        first = [1e3 * (t["first_token_iteration"] - t["request_start"]) for t in times]
        between = [
            1e3 * (t["last_token_iteration"] - t["first_token_iteration"]) / (n - 1)
            for t, n in zip(times, tokens)
            if n > 1
        ]
        self.first = (statistics.median(first), percentile(first, 95))
        self.between = (statistics.median(between), percentile(between, 95))
        self.arrivals = self.done / self.span


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, math.ceil(p / 100 * len(values)) - 1)]


def spread(values, digits=1):
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


ROWS = [
    ("output tokens/s", lambda f: f.rate, False),
    ("time to first token, p50 ms", lambda f: f.first[0], True),
    ("time to first token, p95 ms", lambda f: f.first[1], True),
    ("time per token, p50 ms", lambda f: f.between[0], True),
    ("time per token, p95 ms", lambda f: f.between[1], True),
]


def compare(args, folder):
    """Both servers, in turns."""
    seen = {"alula": [], "llama-server": []}
    for round in range(args.rounds):
        data = requests(round, args.requests, folder)
        for name in sorted(seen, reverse=round % 2 == 1):
            with Server(name, args) as server:
                warm = requests(1000, 4, folder)
                server.load(args, warm, "kind=concurrent,streams=4", "kind=max_requests,count=4")
                count = f"kind=max_requests,count={args.requests}"
                figures = server.load(args, data, f"kind=concurrent,streams={args.streams}", count)
            seen[name].append(figures)
            print(f"round {round} {name}: {figures.rate:.1f} tokens/s, first token p95 {figures.first[1]:.0f} ms, "
                  f"{figures.done} answered, {figures.refused} not {figures.errors[:3] or ''}", file=sys.stderr)
    print(f"| {args.streams} clients, {args.requests} requests | alula | llama-server | ratio |\n|---|---|---|---|")
    for name, of, less in ROWS:
        ours, theirs = ([of(f) for f in seen[who]] for who in ("alula", "llama-server"))
        print(f"| {name} | {spread(ours)} | {spread(theirs)} | {statistics.median(ours) / statistics.median(theirs):.2f} |")


def overload(args, folder):
    """As many clients as there are places, then ten times as many requests as were served; what finds no place is refused.

    All requests are of one size: in mixed ones, of which a minute answers few, chance moves the pace by more than what is looked
    for. Who is in the middle of an answer when the time is over counts in the pace of tokens, which the server tells. The load
    takes processor time of the same machine, the more the more it sends, so it has the lowest priority here."""
    rows = []
    for round in range(args.rounds):
        many, rate = requests(100 + round, 10_000, folder, (200, 64)), None
        for times in (1, 10):
            profile = f"kind=poisson,rate={rate:.3f}" if rate else f"kind=concurrent,streams={args.slots + args.queue}"
            with Server("alula", args, ["--max-queue", args.queue]) as server:
                paces = []
                watch = threading.Thread(target=server.pace, args=(args.seconds, paces))
                # guidellm begins a few seconds late, each time.
                watch.start()
                figures = server.load(args, many, profile, f"kind=max_duration,seconds={args.seconds}", ["nice", "-n", "19"])
                watch.join()
            rate = 10 * figures.arrivals
            figures.rate, figures.work, figures.wait = paces
            rows.append(figures)
            print(f"round {round}, {times} times: {figures.rate:.1f} tokens/s, first token p95 {figures.first[1]:.0f} ms, "
                  f"{figures.done} answered, {figures.refused} refused", file=sys.stderr)
    print("| | all that it can do | ten times as much | ratio |\n|---|---|---|---|")
    told = [("output tokens a second of the server's processor time", lambda f: f.work, False),
            ("time to first token by the server's own count, mean ms", lambda f: f.wait, True)]
    for name, of, _ in [*ROWS, *told]:
        full, over = [of(f) for f in rows[::2]], [of(f) for f in rows[1::2]]
        print(f"| {name} | {spread(full)} | {spread(over)} | {statistics.median(over) / statistics.median(full):.2f} |")


def idle(args, folder):
    """A share of one processor, over a minute, after having served."""
    with Server("alula", args) as server:
        server.load(args, requests(0, 8, folder), "kind=concurrent,streams=4", "kind=max_requests,count=8")
        time.sleep(5)
        before = server.seconds()
        time.sleep(60)
        print(f"idle: {100 * (server.seconds() - before) / 60:.2f} % of a processor over 60 s")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", action="store_true")
    p.add_argument("--overload", action="store_true")
    p.add_argument("--idle", action="store_true")
    p.add_argument("--model", type=Path)
    p.add_argument("--type", default="Q4_K_M", help="of the random weights")
    p.add_argument("--streams", type=int, default=16)
    p.add_argument("--slots", type=int, default=16)
    p.add_argument("--queue", type=int, default=4, help="requests that may wait, with --overload")
    p.add_argument("--seconds", type=int, default=120, help="of each load, with --overload")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--requests", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--alula", default=TARGET / "release/alula")
    p.add_argument("--llama", default=PEERS / "build/bin/llama-server")
    p.add_argument("--guidellm", default=PEERS / "guidellm/bin/guidellm")
    args = p.parse_args()
    if args.build:
        return build()
    if not args.model:
        sys.path.insert(0, str(ROOT / "bench/peers"))
        import models

        source = next(PEERS.glob("llama_cpp_python-*/vendor/llama.cpp/models"), None)
        if not source:
            sys.exit("no vocabularies: run with --build first")
        (PEERS / "models").mkdir(exist_ok=True)
        args.model = models.make(f"tinyllama-{args.type}", PEERS / "models", source)
    print(f"load before: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        (overload if args.overload else idle if args.idle else compare)(args, folder)


if __name__ == "__main__":
    main()
