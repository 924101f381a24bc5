"""Starts `alula serve` on a free port and stops it; as a program, for a suite that takes an address:

    python tests/clients/server.py target/release/alula tests/clients/responses_py.py
"""

import contextlib
import os
import re
import signal
import subprocess
import sys


@contextlib.contextmanager
def serving(binary, *args):
    """The address of a server that runs until the block ends. A binary that is an address is a server that runs already."""
    if str(binary).startswith("http"):
        yield str(binary)
        return
    command = [binary, "serve", "--port", "0", *args]
    env = {k: v for k, v in os.environ.items() if not k.startswith("ALULA_") or k == "ALULA_ISA"}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    try:
        lines = []
        for line in child.stderr:
            lines.append(line)
            if found := re.search(r"on (https?://[\d.]+:\d+)", line):
                break
        else:
            raise RuntimeError(f"it does not start: {''.join(lines)}")
        yield found[1]
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
    if child.returncode:
        raise RuntimeError(f"it ended with {child.returncode}")


if __name__ == "__main__":
    with serving(sys.argv[1]) as where:
        failed = subprocess.run([sys.executable, sys.argv[2], where]).returncode
    sys.exit(failed)
