#!/usr/bin/env python3
"""The cases of Open Responses' compliance suite (openresponses.org/compliance) over HTTP and WebSocket.

    pip install httpx websockets
    python tests/clients/openresponses_py.py http://127.0.0.1:8400 [MODEL [KEY]]

Two kinds of cases are refused by name, and so they are checked for: images (models read text) and compaction.
"""
import asyncio
import json
import sys

import httpx
import websockets

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
MODEL = sys.argv[2] if len(sys.argv) > 2 else "builtin"
HEADERS = {"Authorization": f"Bearer {sys.argv[3] if len(sys.argv) > 3 else 'none'}"}
# What the specification's ResponseResource requires, with the types that it allows.
NULL = type(None)
FIELDS = {
    "id": str, "object": str, "created_at": int, "completed_at": (int, NULL), "status": str, "incomplete_details": (dict, NULL),
    "model": str, "previous_response_id": (str, NULL), "instructions": (str, list, NULL), "output": list, "error": (dict, NULL),
    "tools": list, "tool_choice": (str, dict), "truncation": str, "parallel_tool_calls": bool, "text": dict, "top_p": (int, float),
    "presence_penalty": (int, float), "frequency_penalty": (int, float), "top_logprobs": int, "temperature": (int, float),
    "reasoning": (dict, NULL), "user": (str, NULL), "usage": (dict, NULL), "max_output_tokens": (int, NULL),
    "max_tool_calls": (int, NULL), "store": bool, "background": bool, "service_tier": str, "metadata": dict,
    "safety_identifier": (str, NULL), "prompt_cache_key": (str, NULL),
}
# What each event requires beside its type and number.
ITEM, TEXT = {"output_index", "item"}, {"item_id", "output_index", "content_index"}
EVENTS = {
    "response.created": {"response"}, "response.in_progress": {"response"}, "response.completed": {"response"},
    "response.incomplete": {"response"}, "response.failed": {"response"},
    "response.output_item.added": ITEM, "response.output_item.done": ITEM,
    "response.content_part.added": TEXT | {"part"}, "response.content_part.done": TEXT | {"part"},
    "response.output_text.delta": TEXT | {"delta"}, "response.output_text.done": TEXT | {"text"},
    "response.reasoning_text.delta": TEXT | {"delta"}, "response.reasoning_text.done": TEXT | {"text"},
    "response.function_call_arguments.delta": {"item_id", "output_index", "delta"},
    "response.function_call_arguments.done": {"item_id", "output_index", "arguments"},
}
LAST = ("response.completed", "response.incomplete", "response.failed")
TOOL = {
    "type": "function", "name": "get_weather", "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string", "maxLength": 20}}, "required": ["location"]},
}


def user(text):
    return {"type": "message", "role": "user", "content": text}


def resource(r):
    for name, kind in FIELDS.items():
        assert name in r, f"{name} is missing"
        assert isinstance(r[name], kind), (name, r[name])
    assert r["output"] and r["status"] in ("completed", "incomplete"), r
    for item in r["output"]:
        assert item["id"] and item["status"] in ("completed", "incomplete")
        for part in item.get("content", []):
            assert part["type"] in ("output_text", "reasoning_text") and isinstance(part["text"], str)
    usage = r["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert "cached_tokens" in usage["input_tokens_details"] and "reasoning_tokens" in usage["output_tokens_details"]
    return r


def stream(events):
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    for event in events:
        missing = EVENTS[event["type"]] - event.keys()
        assert not missing, (event["type"], missing)
    assert events[0]["type"] == "response.created" and events[-1]["type"] in LAST
    return resource(events[-1]["response"])


def post(http, expect=200, **body):
    response = http.post("/v1/responses", json={"model": MODEL, "max_output_tokens": 100} | body)
    assert response.status_code == expect, (response.status_code, response.text[:300])
    return response


def over_http():
    with httpx.Client(base_url=BASE, headers=HEADERS, timeout=120) as http:
        ask = lambda **body: resource(post(http, **body).json())
        ask(input=[user("Say hello in exactly 3 words.")])
        said = lambda phase, text: {"type": "message", "role": "assistant", "phase": phase, "content": text}
        ask(input=[said("commentary", "I should answer."), said("final_answer", "The number is four."), user("Repeat it.")])
        ask(input=[{"type": "message", "role": "system", "content": "You are a pirate."}, user("Say hello.")])
        ask(input=[user("My name is Alice."), {"type": "message", "role": "assistant", "content": "Hello Alice!"}, user("And?")])
        r = ask(input=[user("What's the weather like in San Francisco?")], tools=[TOOL], tool_choice="required")
        assert any(i["type"] == "function_call" for i in r["output"]), r["output"]
        text = post(http, input=[user("Count from 1 to 5.")], stream=True).text
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        stream([json.loads(line) for line in lines[:-1]])
        names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
        assert names == [json.loads(line)["type"] for line in lines[:-1]]
        image = [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]
        assert post(http, expect=400, input=image).json()["error"]["param"] == "input[0].content[0]"


async def over_websocket():
    async def session(*requests):
        turns = []
        async with websockets.connect(BASE.replace("http", "ws", 1) + "/v1/responses", additional_headers=HEADERS) as ws:
            for request in requests:
                request = request(turns) if callable(request) else request
                await ws.send(json.dumps({"type": "response.create", "model": MODEL, "max_output_tokens": 60} | request))
                turns.append([])
                while not turns[-1] or turns[-1][-1]["type"] not in (*LAST, "error"):
                    turns[-1].append(json.loads(await asyncio.wait_for(ws.recv(), 60)))
        return turns

    def failed(turn, code):
        event = turn[-1]
        assert event["type"] == "error" and event["status"] == 400 and event["error"]["code"] == code, event

    stream((await session({"input": [user("Count from 1 to 3.")]}))[0])
    for turn in await session({"store": False, "input": "first"}, {"store": False, "input": "second"}):
        stream(turn)
    first = lambda turns: turns[0][-1]["response"]["id"]
    goes_on = lambda turns: {"store": False, "previous_response_id": first(turns), "input": "What is the code word?"}
    begin = {"store": False, "input": "Remember the code word: cobalt."}
    turns = await session(begin, goes_on)
    assert stream(turns[1])["previous_response_id"] == first(turns)
    lost = {"store": False, "previous_response_id": first(turns), "input": "Go on."}
    turns = await session(lost, {"store": False, "input": [user("Start anew.")]})
    failed(turns[0], "previous_response_not_found")
    stream(turns[1])
    failed((await session(lost | {"previous_response_id": "resp_openresponses_missing"}))[0], "previous_response_not_found")
    orphan = {"type": "function_call_output", "call_id": "call_openresponses_missing", "output": "No call."}
    turns = await session(begin, lambda t: goes_on(t) | {"input": [orphan]}, goes_on)
    failed(turns[1], "call_not_found")
    failed(turns[2], "previous_response_not_found")


over_http()
print("ok   http", flush=True)
asyncio.run(over_websocket())
print("ok   websocket")
