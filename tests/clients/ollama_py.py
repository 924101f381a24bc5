"""The official `ollama` client against `alula serve`: chat, generate, tools, forms, lists, errors, vectors.

    v/bin/pip install -r tests/clients/requirements-dialects.txt
    v/bin/python tests/clients/ollama_py.py target/debug/alula
"""

import json
import pathlib
import sys

import ollama
from server import serving

SAY = [{"role": "user", "content": "Tell me about a bird"}]
GREEDY = {"temperature": 0, "num_predict": 16, "repeat_penalty": 1.0}
ENCODERS = pathlib.Path(__file__).parents[2] / "testdata/encoders"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


def chat(client):
    whole = client.chat("builtin", SAY, options=GREEDY)
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 16 and whole.model == "builtin"
    assert min(whole.total_duration, whole.prompt_eval_count, whole.eval_duration, whole.load_duration) > 0
    pieces = list(client.chat("builtin:latest", SAY, options=ollama.Options(**GREEDY), stream=True, keep_alive="5m"))
    assert "".join(p.message.content for p in pieces) == whole.message.content
    assert [p.done for p in pieces] == [False] * (len(pieces) - 1) + [True] and pieces[-1].done_reason == "length"
    assert len({p.created_at for p in pieces}) > 1
    seeded = {"temperature": 1.0, "seed": 7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "num_predict": 8, "stop": ["zz"]}
    assert client.chat("builtin", SAY, options=seeded).message == client.chat("builtin", SAY, options=seeded).message
    formed = client.chat("builtin", SAY, format=SCHEMA, options={"seed": 1})
    assert 1 <= json.loads(formed.message.content)["n"] <= 9
    more = [*SAY, whole.message, {"role": "user", "content": "Go on."}]
    assert client.chat("builtin", more, options=GREEDY).prompt_eval_count > whole.prompt_eval_count


def generate(client):
    whole = client.generate("builtin", "Tell me about a bird", options=GREEDY)
    assert whole.response == client.chat("builtin", SAY, options=GREEDY).message.content
    pieces = client.generate("builtin", "Tell me about a bird", options=GREEDY, stream=True)
    assert "".join(p.response for p in pieces) == whole.response
    raw = client.generate("builtin", "Once upon", raw=True, options=GREEDY)
    assert raw.response and raw.prompt_eval_count < whole.prompt_eval_count
    assert 1 <= json.loads(client.generate("builtin", "a", format=SCHEMA, options={"seed": 1}).response)["n"] <= 9


def tools(client):
    def add(a: int, b: int) -> int:
        """Adds two numbers.

        Args:
          a: The first.
          b: The second.
        """
        return a + b

    client.chat("builtin", SAY, tools=[add], options=GREEDY)
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    turns = [
        *SAY,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_name": "add"},
    ]
    assert client.chat("builtin", turns, tools=[add], options=GREEDY).done


def lists(client):
    names = [m.model for m in client.list().models]
    assert names == ["builtin:latest", "mean:latest"], names
    shown = client.show("builtin")
    assert shown.capabilities[0] == "completion" and "gguf" in shown.details.format.lower() and shown.template
    assert shown.modelinfo["llama.context_length"] == 512
    assert client.show("mean").capabilities == ["embedding"]
    client.chat("builtin", [])
    assert "builtin:latest" in [m.model for m in client.ps().models]


def vectors(client):
    want = json.loads((ENCODERS / "mean/golden.json").read_text())["texts"][:2]
    got = client.embed("mean", [t["text"] for t in want], keep_alive=60)
    for vector, text in zip(got.embeddings, want):
        assert max(abs(a - b) for a, b in zip(vector, text["vector"])) < 1e-4
    assert got.prompt_eval_count == sum(len(t["ids"]) for t in want)
    assert len(client.embed("mean", "a", dimensions=8).embeddings[0]) == 8
    assert list(client.embeddings("mean", want[0]["text"]).embedding) == list(got.embeddings[0])
    refused(lambda: client.embed("mean", "sea " * 500), 400, "truncate")
    client.embed("mean", "sea " * 500, truncate=True)


def refused(call, status, *words):
    try:
        call()
    except ollama.ResponseError as e:
        assert e.status_code == status and all(w in e.error for w in words), (e.status_code, e.error)
        return
    raise AssertionError(f"not refused: {words}")


def errors(client):
    refused(lambda: client.chat("other", SAY), 404, "`other`")
    for options, words in [
        ({"num_ctx": 100_000}, ["100000", "512"]),
        ({"num_gpu": 3}, ["num_gpu"]),
        ({"mirostat": 1}, ["mirostat"]),
        ({"temperature": -1.0}, ["options.temperature"]),
    ]:
        refused(lambda options=options: client.chat("builtin", SAY, options=options), 400, *words)
    refused(lambda: client.chat("builtin", SAY, think=True), 400, "`think`")
    refused(lambda: client.chat("builtin", [{"role": "user", "content": "word " * 2000}]), 400, "512")
    refused(lambda: client.generate("builtin", "a", images=[b"\x89PNG"]), 400, "images")
    refused(lambda: client.generate("builtin", "a", template="{{ .Prompt }}"), 400, "template")
    refused(lambda: client.generate("builtin", "a", suffix="b"), 400, "suffix")
    refused(lambda: client.pull("llama3"), 404)
    refused(lambda: next(client.chat("other", SAY, stream=True)), 404, "`other`")


def main():
    with serving(sys.argv[1], "builtin", str(ENCODERS / "mean"), *sys.argv[2:]) as address:
        client = ollama.Client(host=address)
        for test in (chat, generate, tools, lists, vectors, errors):
            test(client)
            print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
