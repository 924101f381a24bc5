#!/usr/bin/env python3
"""/v1/responses over HTTP and WebSocket, /ws, and streams that are taken up again, with the official `openai` client and
`websockets`.

    pip install openai websockets httpx
    alula serve --port 8400 &
    python tests/clients/responses_py.py http://127.0.0.1:8400 [MODEL [KEY]]

Leaves with 1 if anything does not hold.
"""
import asyncio
import json
import random
import sys
import time

import httpx
import openai
import websockets

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
MODEL = sys.argv[2] if len(sys.argv) > 2 else "builtin"
KEY = sys.argv[3] if len(sys.argv) > 3 else "none"
HEADERS = {"Authorization": f"Bearer {KEY}"}
WS = BASE.replace("http", "ws", 1)
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key=KEY, max_retries=0)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather at a place",
    "parameters": {
        "type": "object",
        "properties": {"place": {"enum": ["Rome", "Oslo"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}


def create(**more):
    return client.responses.create(**{"model": MODEL, "input": "Say hello.", "max_output_tokens": 24, "temperature": 0} | more)


def refused(param, code=None, **more):
    try:
        create(**more)
    except openai.BadRequestError as e:
        assert e.param == param, (e.param, param)
        assert code is None or e.code == code, e.code
        return
    raise AssertionError(f"{more} was not refused")


def whole():
    r = create()
    assert r.object == "response" and r.status in ("completed", "incomplete")
    assert r.output[0].type == "message" and r.output_text
    assert r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens
    short = create(max_output_tokens=1)
    assert short.status == "incomplete" and short.incomplete_details.reason == "max_output_tokens"
    assert short.output[0].status == "incomplete" and short.usage.output_tokens == 1
    assert create(metadata={"a": "b"}, user="me").metadata == {"a": "b"}
    assert create(temperature=1, extra_body={"seed": 3}).output_text == create(temperature=1, extra_body={"seed": 3}).output_text


def streamed():
    text = create().output_text
    names, numbers, deltas, last = [], [], "", None
    for event in create(stream=True):
        names.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            deltas += event.delta
        last = event
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ], names[:4]
    assert names[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"], names
    assert last.type in ("response.completed", "response.incomplete")
    assert numbers == list(range(len(numbers)))
    assert deltas == text == last.response.output_text, (deltas, text)
    with client.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=24, temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert "response.output_text.delta" in kinds
        if "response.completed" in kinds:
            assert stream.get_final_response().output_text == text


def logprobs():
    r = create(include=["message.output_text.logprobs"], top_logprobs=2)
    found = r.output[0].content[0].logprobs
    assert found and len(found[0].top_logprobs) == 2 and found[0].logprob <= 0


def kept():
    a = create(input="My name is Ada.", instructions="Be brief.")
    again = client.responses.retrieve(a.id)
    assert again.output_text == a.output_text and again.status == a.status
    items = client.responses.input_items.list(a.id)
    assert [i.content[0].text for i in items.data] == ["My name is Ada."]
    b = create(input="What is my name?", previous_response_id=a.id)
    assert b.previous_response_id == a.id and b.usage.input_tokens > 0
    told = create(
        input=[
            {"role": "user", "content": "My name is Ada."},
            *[i.model_dump() for i in a.output],
            {"role": "user", "content": "What is my name?"},
        ]
    )
    assert told.output_text == b.output_text and told.usage.input_tokens == b.usage.input_tokens
    named = create(input=[{"type": "item_reference", "id": a.output[0].id}, {"role": "user", "content": "Go on."}])
    assert named.usage.input_tokens > 0
    client.responses.delete(a.id)
    for gone in (lambda: client.responses.retrieve(a.id), lambda: client.responses.delete(a.id)):
        try:
            gone()
            raise AssertionError("it is still there")
        except openai.NotFoundError:
            pass
    refused("previous_response_id", "previous_response_not_found", previous_response_id=a.id)
    assert create(input="And?", previous_response_id=b.id).status
    c = create(store=False)
    refused("previous_response_id", "previous_response_not_found", previous_response_id=c.id)


def tools():
    r = create(input="Weather in Rome?", tools=[WEATHER], tool_choice="required", max_output_tokens=60)
    call = next(i for i in r.output if i.type == "function_call")
    assert call.name == "weather" and json.loads(call.arguments)["place"] in ("Rome", "Oslo"), call
    back = create(
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        previous_response_id=r.id,
        tools=[WEATHER],
        tool_choice="none",
    )
    assert back.status in ("completed", "incomplete")
    arguments, done = "", None
    for event in create(
        input="Weather in Rome?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"}, max_output_tokens=60, stream=True
    ):
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        if event.type == "response.function_call_arguments.done":
            done = event.arguments
    assert done == arguments and json.loads(done)["place"] in ("Rome", "Oslo")


def formed():
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"], "additionalProperties": False}
    r = create(text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}, max_output_tokens=60)
    assert 0 <= json.loads(r.output_text)["n"] <= 9


def wrong():
    refused("reasoning.summary", reasoning={"summary": "auto"})
    refused("background", background=True)
    refused("tools[0].type", tools=[{"type": "web_search"}])
    refused("input[0].content[0]", input=[{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}])
    refused("frobnicate", "unknown_field", extra_body={"frobnicate": 1})
    refused("include[0]", include=["file_search_call.results"])
    refused("input", "call_not_found", input=[{"type": "function_call_output", "call_id": "x", "output": "y"}])
    refused("max_output_tokens", max_output_tokens=0)


def truncated():
    long = [{"role": "user", "content": f"{i}: " + "word " * 60} for i in range(12)]
    try:
        create(input=long)
        return
    except openai.BadRequestError as e:
        assert e.code == "context_length_exceeded" and e.param == "input" and any(c.isdigit() for c in str(e))
    r = create(input=long, truncation="auto")
    assert r.truncation == "auto" and r.truncated_items


def body(**more):
    return {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 60, "temperature": 1, "seed": 7, "stream": True} | more


def cut(path, request, text_of):
    """Breaks the connection at random places and takes the stream up again."""
    def events(response):
        event = {}
        for line in response.iter_lines():
            if not line:
                if "data" in event:
                    yield event
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(":")
                event[name] = value.strip()

    with httpx.Client(base_url=BASE, headers=HEADERS, timeout=120) as http:
        with http.stream("POST", path, json=request) as response:
            want = "".join(text_of(e["data"]) for e in events(response))
        for seed in range(8):
            rng, got, last, cuts, over = random.Random(seed), "", None, 0, False
            while not over:
                left = rng.randrange(1, 9)
                headers = {"x-alula-resume": "1"} if last is None else {"last-event-id": last}
                by_get = last is not None and rng.random() < 0.5
                method, url = ("GET", f"/v1/streams/{last.split(':')[0]}") if by_get else ("POST", path)
                with http.stream(method, url, headers=headers, json=None if by_get else request) as response:
                    assert response.status_code == 200, response.read()
                    over = True
                    for event in events(response):
                        last = event["id"]
                        got += text_of(event["data"])
                        left -= 1
                        if left == 0 and event["data"] != "[DONE]":
                            over, cuts = False, cuts + 1
                            break
                time.sleep(rng.random() * 0.02)
            assert got == want, (seed, cuts, got, want)
            assert cuts > 2


def chat_text(data):
    if data == "[DONE]":
        return ""
    return "".join(c["delta"].get("content") or "" for c in json.loads(data)["choices"])


def resumed():
    cut("/v1/chat/completions", body(), chat_text)

    def text(data):
        event = {} if data == "[DONE]" else json.loads(data)
        return event["delta"] if event.get("type") == "response.output_text.delta" else ""

    cut("/v1/responses", {"model": MODEL, "input": "Tell me a story.", "max_output_tokens": 40, "seed": 5, "stream": True}, text)
    with httpx.Client(base_url=BASE, headers=HEADERS) as http:
        assert http.get("/v1/streams/stream_none").status_code == 404
        assert http.post("/v1/chat/completions", json=body(), headers={"last-event-id": "nonsense"}).status_code in (400, 404)


async def talk(ws, request):
    await ws.send(json.dumps(request))
    events = []
    while True:
        event = json.loads(await asyncio.wait_for(ws.recv(), 120))
        events.append(event)
        if event["type"] in ("response.completed", "response.incomplete", "response.failed", "error"):
            return events


async def sockets():
    connect = lambda path: websockets.connect(WS + path, additional_headers=HEADERS)
    say = lambda **more: {"type": "response.create", "model": MODEL, "store": False, "input": "Say hello.", "max_output_tokens": 16, "temperature": 0} | more
    async with connect("/v1/responses") as ws:
        first = await talk(ws, say())
        assert [e["sequence_number"] for e in first] == list(range(len(first)))
        assert first[-1]["response"]["output"][0]["content"][0]["text"] == create(max_output_tokens=16).output_text
        previous = first[-1]["response"]["id"]
        second = await talk(ws, say(input="Go on.", previous_response_id=previous))
        assert second[-1]["response"]["previous_response_id"] == previous
        previous = second[-1]["response"]["id"]
        bad = await talk(ws, say(previous_response_id=previous, input=[{"type": "function_call_output", "call_id": "x", "output": "y"}]))
        assert bad[-1]["type"] == "error" and bad[-1]["status"] == 400
        gone = await talk(ws, say(previous_response_id=previous))
        assert gone[-1]["error"]["code"] == "previous_response_not_found"
        await ws.send("{")
        assert json.loads(await ws.recv())["error"]["code"] == "invalid_json"
        await ws.send(json.dumps(say(max_output_tokens=300, temperature=1)))
        created = json.loads(await ws.recv())
        await ws.send(json.dumps({"type": "response.cancel", "response_id": created["response"]["id"]}))
        while (event := json.loads(await ws.recv()))["type"] not in ("response.incomplete", "response.completed"):
            pass
        assert event["response"]["status"] in ("cancelled", "completed", "incomplete")
    async with connect("/v1/responses") as ws:
        lost = await talk(ws, say(previous_response_id=first[-1]["response"]["id"]))
        assert lost[-1]["error"]["code"] == "previous_response_not_found"
        assert (await talk(ws, say()))[-1]["type"] in ("response.completed", "response.incomplete")

    want = client.chat.completions.create(**body(stream=False)).choices[0].message.content
    async with connect("/ws") as ws:
        await ws.send(json.dumps(body()))
        got = ""
        while (event := json.loads(await ws.recv())).get("type") != "done":
            got += chat_text(json.dumps(event))
        assert got == want, (got, want)
        for name in "abc":
            await ws.send(json.dumps(body(request_id=name)))
        texts, ended = dict.fromkeys("abc", ""), set()
        while len(ended) < 3:
            event = json.loads(await ws.recv())
            if event.get("type") == "done":
                ended.add(event["request_id"])
            else:
                texts[event["request_id"]] += chat_text(json.dumps(event))
        assert set(texts.values()) == {want}, texts
        await ws.send(json.dumps(body(max_tokens=400)))
        await ws.recv()
        await ws.send(json.dumps({"type": "cancel"}))
        while (event := json.loads(await ws.recv())).get("type") not in ("cancelled", "done"):
            pass
        await ws.send(json.dumps({"messages": 3}))
        assert json.loads(await ws.recv())["status"] == 400
        await ws.send(json.dumps({"type": "ping"}))
        assert json.loads(await ws.recv())["type"] == "pong"
        await (await ws.ping())
    for seed in range(8):
        rng, got, last, over = random.Random(seed), "", None, False
        while not over:
            async with connect("/ws") as ws:
                await ws.send(json.dumps(body(resume=True) if last is None else {"type": "resume", "event_id": last}))
                over = True
                for _ in range(rng.randrange(1, 9)):
                    event = json.loads(await ws.recv())
                    if event.get("type") == "done":
                        break
                    assert event.get("type") != "error", event
                    last, got = event["event_id"], got + chat_text(json.dumps(event))
                else:
                    over = False
                ws.transport.abort() if not over else None
        assert got == want, (seed, got, want)
    try:
        async with websockets.connect(WS + "/ws", additional_headers=HEADERS, origin="http://evil.example"):
            raise AssertionError("a page of another origin got in")
    except websockets.InvalidStatus as e:
        assert e.response.status_code == 403
    async with connect("/ws") as ws:
        try:
            await ws.send("x" * (9 << 20))
            await ws.recv()
            raise AssertionError("a message over the limit was read")
        except websockets.ConnectionClosed as e:
            assert e.rcvd is None or e.rcvd.code == 1009, e


def main():
    failed = 0
    checks = [whole, streamed, logprobs, kept, tools, formed, wrong, truncated, resumed, lambda: asyncio.run(sockets())]
    for check in checks:
        name = check.__name__ if check.__name__ != "<lambda>" else "sockets"
        try:
            check()
            print("ok  ", name, flush=True)
        except Exception as e:
            failed += 1
            print("FAIL", name, type(e).__name__, str(e)[:600], "line", e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else "?", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
