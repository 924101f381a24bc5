"""Three replicas behind the router SMG: one is killed and one drained under load, and no request is lost; requests that begin
alike go to the replica that has seen the beginning.

    pip install smg openai httpx
    python tests/clients/smg_py.py target/release/alula [REQUESTS]
"""

import asyncio
import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile

import httpx
import openai

BINARY, REQUESTS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ready(address, path, process, seconds=60):
    for _ in range(seconds * 10):
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(address + path, timeout=2).status_code == 200:
                return
        if process.poll() is not None:
            break
        import time

        time.sleep(0.1)
    raise RuntimeError(f"{address}{path} is not ready")


@contextlib.contextmanager
def started(command, log):
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def counter(address, name):
    found = re.findall(rf"^{name}{{[^}}]*}} (\S+)$", httpx.get(address + "/metrics").text, re.M)
    return sum(map(float, found))


def beginning(i):
    return " ".join(f"word{i}x{j % 7}" for j in range(60))


async def answer(client, i, stream):
    asked = dict(model="builtin", prompt=f"Story {i % 40} of the sea", max_tokens=40, seed=i % 40, temperature=0.8)
    if not stream:
        return (await client.completions.create(**asked)).choices[0].text
    chunks = [chunk.choices[0] async for chunk in await client.completions.create(**asked, stream=True)]
    assert chunks[-1].finish_reason, "a stream without an end"
    return "".join(chunk.text for chunk in chunks)


async def load(client, expected, streams, during):
    """All requests, eight at a time, every other one streamed if `streams`, and what happens meanwhile."""
    gate, done = asyncio.Semaphore(8), 0

    async def one(i):
        nonlocal done
        async with gate:
            text = await answer(client, i, streams and i % 2)
            done += 1
            assert text and text == expected.setdefault(i % 40, text), f"another answer to request {i}"

    tasks = [asyncio.create_task(one(i)) for i in range(REQUESTS)]
    for share, act in during:
        while done < share * REQUESTS and not all(t.done() for t in tasks):
            await asyncio.sleep(0.005)
        act()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    lost = [repr(r)[:300] for r in results if isinstance(r, BaseException)]
    assert not lost, f"{len(lost)} of {REQUESTS} lost: {lost[:3]}"


def main():
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        log = stack.enter_context(open(pathlib.Path(folder) / "log", "w+b"))
        ports = [free_port() for _ in range(3)]
        addresses = [f"http://127.0.0.1:{p}" for p in ports]
        replicas = [
            stack.enter_context(started([BINARY, "serve", "--port", str(p), "--log-format", "off"], log)) for p in ports
        ]
        for address, replica in zip(addresses, replicas):
            ready(address, "/readyz", replica)
        port = free_port()
        smg = pathlib.Path(sys.executable).parent / "smg"
        # Health is asked for often, so that a replica that is gone is left out soon; until then a request is tried again.
        router = [smg, "launch", "--host", "127.0.0.1", "--port", port, "--policy", "cache_aware", "--prometheus-port", free_port(),
                  "--health-check-endpoint", "/readyz", "--health-check-interval-secs", 1, "--health-failure-threshold", 1,
                  "--retry-max-retries", 8, "--retry-initial-backoff-ms", 20, "--retry-max-backoff-ms", 500,
                  "--worker-urls", *addresses]
        address = f"http://127.0.0.1:{port}"
        process = stack.enter_context(started([str(c) for c in router], log))
        try:
            ready(address, "/readiness", process)
            client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)

            async def all_of_it():
                expected = {}
                await load(client, expected, True, [])
                print("ok   three replicas", flush=True)
                hits = sum(counter(a, "alula_prefix_cache_hits_total") for a in addresses)
                for i in range(12):
                    for _ in range(4):
                        await client.completions.create(model="builtin", prompt=beginning(i % 3), max_tokens=2)
                hits = sum(counter(a, "alula_prefix_cache_hits_total") for a in addresses) - hits
                print(f"ok   {hits:.0f} tokens found again", flush=True)
                assert hits > 1000, hits
                # What was streamed before a machine dies cannot be taken back, so here nothing is streamed.
                await load(client, expected, False, [(0.3, lambda: replicas[0].send_signal(signal.SIGKILL))])
                print("ok   one killed", flush=True)
                await load(client, expected, True, [(0.3, lambda: replicas[1].send_signal(signal.SIGTERM))])
                assert replicas[1].wait(30) == 0, "a drained replica ends well"
                print("ok   one drained", flush=True)

            asyncio.run(all_of_it())
        except BaseException:
            log.flush()
            log.seek(0)
            print(log.read()[-3000:].decode(errors="replace"), file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
