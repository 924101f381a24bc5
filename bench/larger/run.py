#!/usr/bin/env python3
"""A model in less memory than its file takes: the same tokens as with all of it, what was read, and how fast.

    python3 run.py ALULA MODEL [SHARE]        SHARE: of the file's bytes, 1/3 if not given

Runs in a control group with that limit where one can be made (version 1 or 2, as root), so that the system itself sees to it;
elsewhere only the peak of the process's memory is shown.
"""

import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def group(limit):
    """A control group with a limit: its folder, its peak, and how often it killed; or none."""
    for folder, file, peak, events in [
        (ROOT / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"),
        (ROOT, "memory.max", "memory.peak", "memory.events"),
    ]:
        own = folder / f"alula-{os.getpid()}"
        try:
            own.mkdir()
        except OSError:
            continue
        try:
            (own / file).write_text(str(limit))
            return own, own / peak, own / events
        except OSError:
            own.rmdir()
    return None


def run(args, place=None):
    def enter():
        if place:
            (place / "cgroup.procs").write_text(str(os.getpid()))

    return subprocess.run(args, preexec_fn=enter, capture_output=True, text=True, check=True)


def main():
    alula, model = sys.argv[1:3]
    files = [Path(model)] if Path(model).is_file() else list(Path(model).glob("*.safetensors"))
    size = sum(f.stat().st_size for f in files)
    limit = int(size * Fraction(sys.argv[3] if len(sys.argv) > 3 else "1/3"))
    # The rest is for the page cache, in which the group's files lie too.
    budget = ["--memory", str(limit * 97 // 100)]
    print(f"{model}: {size / 1e9:.2f} GB; limit {limit / 1e9:.2f} GB")
    ids = ["eval", "greedy", model, "--ids", "1,77,3011,42,9,500,77,8", "-n", "16", "--no-cache"]
    want = run([alula, *ids]).stdout
    made = group(limit)
    place = made[0] if made else None
    got = run([alula, *ids, *budget], place).stdout
    print("tokens:", "the same" if got == want else f"OTHERS\n{want}{got}")
    out = run([alula, "bench", model, *budget, "--prompt", "128", "--gen", "16", "--runs", "3", "--json"], place).stdout
    report = json.loads(out)
    print(f"prefill {report['prefill_tps']:.2f} tokens/s, decode {report['decode_tps']:.2f} tokens/s")
    if report["fetched"]:
        disk = report["fetched"]["disk_bytes_per_second"]
        for phase in ["prefill", "decode"]:
            speed = report["fetched"][phase]["bytes_per_second"]
            print(f"{phase} read {speed / 1e6:.0f} MB/s: {100 * speed / disk:.0f} % of the disk's {disk / 1e6:.0f}")
    if made:
        own, peak, events = made
        print(f"the group's peak {int(peak.read_text()) / 1e9:.2f} GB;", " ".join(events.read_text().split()))
        own.rmdir()
    else:
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        print(f"no control group could be made; the largest process so far {peak / 1e9:.2f} GB")
    return got != want


sys.exit(main())
