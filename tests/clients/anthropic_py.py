"""The official `anthropic` client against `alula serve`: every field, streaming and not.

    v/bin/pip install -r tests/clients/requirements-dialects.txt
    v/bin/python tests/clients/anthropic_py.py target/debug/alula

Every body is read again by the client's own models, strictly: a field of the wrong type fails.
"""

import json
import sys

import anthropic
from anthropic import Anthropic
from anthropic.types import Message, MessageTokensCount
from server import serving

SAY = [{"role": "user", "content": "Tell me about a bird"}]
TOOL = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
BEFORE = ["message_start"]
AFTER = ["message_delta", "message_stop"]


def strict(kind, value):
    kind.model_validate_json(json.dumps(value.model_dump(mode="json", exclude_unset=True)), strict=True)
    return value


def filled(fields):
    """With what is asked for by default. The client has no arguments for these, but the API has the fields."""
    fields = {"model": "builtin", "max_tokens": 16, "messages": SAY, **fields}
    extra = {k: fields.pop(k) for k in ("temperature", "top_k", "top_p") if k in fields}
    return {**fields, "extra_body": {"temperature": 0, **extra, **fields.get("extra_body", {})}}


def ask(client, **fields):
    fields = filled(fields)
    return strict(Message, client.messages.create(**fields))


def streamed(client, **fields):
    """The message that the client puts together, the events being in order on the wire."""
    fields = filled(fields)
    types = [e.type for e in client.messages.create(stream=True, **fields)]
    with client.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        message = strict(Message, stream.get_final_message())
    assert text == "".join(b.text for b in message.content if b.type == "text")
    # Each block: a start, deltas, a stop.
    middle = [t for t in types if t != "ping"]
    assert middle[:1] == BEFORE and middle[-2:] == AFTER, types
    open_block = False
    for kind in middle[1:-2]:
        assert kind in ("content_block_start", "content_block_delta", "content_block_stop"), kind
        assert (kind == "content_block_start") != open_block
        open_block = kind != "content_block_stop"
    assert not open_block
    return message


def same(a, b):
    def plain(m):
        blocks = [[getattr(b, k, None) for k in ("type", "text", "thinking", "name", "input")] for b in m.content]
        return blocks, m.stop_reason, m.stop_sequence, m.usage.output_tokens, m.role, m.model

    assert plain(a) == plain(b), (a, b)


def refused(call, kind, *words):
    try:
        call()
    except kind as e:
        body = e.body
        assert body["type"] == "error" and set(body["error"]) == {"type", "message"}, body
        assert all(w in body["error"]["message"] for w in words), body
        return body["error"]["type"]
    raise AssertionError(f"not refused: {words}")


def messages(client):
    whole = ask(client)
    assert whole.type == "message" and whole.role == "assistant" and whole.id.startswith("msg_")
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 16
    same(whole, streamed(client))
    again = ask(client)
    same(whole, again)
    total = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert again.usage.input_tokens + again.usage.cache_read_input_tokens == total
    count = client.messages.count_tokens(model="builtin", messages=SAY)
    assert strict(MessageTokensCount, count).input_tokens == total
    longer = client.messages.count_tokens(model="builtin", messages=SAY, system="Be short.", tools=[TOOL])
    assert longer.input_tokens > total


def fields(client):
    text = ask(client).content[0].text
    word = text.split()[2]
    stopped = ask(client, stop_sequences=["never in it", word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert stopped.content[0].text == text.split(word)[0]
    same(stopped, streamed(client, stop_sequences=["never in it", word]))
    everything = dict(
        system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": ask(client).content},
            {"role": "user", "content": "Go on."},
        ],
        metadata={"user_id": "me"},
        service_tier="standard_only",
        temperature=0.7,
        top_k=3,
        top_p=0.9,
        tools=[TOOL],
        tool_choice={"type": "none"},
        extra_headers={"anthropic-beta": "prompt-caching-2024-07-31"},
    )
    ask(client, **everything)
    streamed(client, **everything)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}, "max_tokens": 120}
    formed = ask(client, **form)
    assert 1 <= json.loads(formed.content[0].text)["n"] <= 9
    same(formed, streamed(client, **form))


def tools(client):
    for choice in ({"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "get_weather"}):
        fields = dict(tools=[TOOL], tool_choice=choice, max_tokens=120)
        whole = ask(client, **fields)
        assert whole.stop_reason == "tool_use", whole
        call = next(b for b in whole.content if b.type == "tool_use")
        assert call.name == "get_weather" and isinstance(call.input["city"], str)
        same(whole, streamed(client, **fields))
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain", "is_error": False}
        turns = [*SAY, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
        answer = ask(client, messages=turns, tools=[TOOL], tool_choice={"type": "none"})
        assert all(b.type == "text" for b in answer.content)


def errors(client):
    bad, missing = anthropic.BadRequestError, anthropic.NotFoundError
    assert refused(lambda: ask(client, model="other"), missing, "`other`") == "not_found_error"
    for fields, words in [
        ({"max_tokens": 0}, ["`max_tokens`"]),
        ({"temperature": 3}, ["`temperature`"]),
        ({"messages": []}, ["`messages`"]),
        ({"messages": [*SAY, {"role": "assistant", "content": "A bird"}]}, ["assistant"]),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, ["512"]),
        ({"extra_body": {"frequency_penalty": 1}}, ["`frequency_penalty`"]),
        ({"container": "x"}, ["`container`"]),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, ["`thinking`"]),
        ({"tool_choice": {"type": "any"}}, ["`tool_choice`"]),
        ({"tool_choice": {"type": "tool", "name": "other"}, "tools": [TOOL]}, ["`tool_choice`"]),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, ["tools[0]"]),
    ]:
        assert refused(lambda fields=fields: ask(client, **fields), bad, *words) == "invalid_request_error"
    image = {"type": "image", "source": {"type": "url", "url": "http://localhost/a.png"}}
    refused(lambda: ask(client, messages=[{"role": "user", "content": [image]}]), bad, "`image`")


def main():
    with serving(*sys.argv[1:]) as address:
        client = Anthropic(base_url=address, api_key="none", max_retries=0)
        for test in (messages, fields, tools, errors):
            test(client)
            print(f"{test.__name__}: ok")


if __name__ == "__main__":
    main()
