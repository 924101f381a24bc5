"""The official `openai` client against `alula serve`: every field, streaming and not.

    v/bin/pip install -r tests/clients/requirements.txt
    v/bin/python tests/clients/openai_py.py target/debug/alula

Every body is read again by the client's own models, strictly: a field of the wrong type fails.
"""

import json
import math
import sys

import httpx2 as httpx
import openai
import pydantic
from openai import OpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from server import serving

SAY = [{"role": "user", "content": "Tell me about a bird"}]
MODEL = "builtin"


def strict(kind, value):
    """The body as the client's model has it, with no value of another type."""
    body = value if isinstance(value, dict) else value.model_dump(mode="json", exclude_unset=True)
    kind.model_validate_json(json.dumps(body), strict=True)
    return body


def ask(client, messages=SAY, **fields):
    """A chat answer, checked."""
    fields = {"model": MODEL, "seed": 1, "max_completion_tokens": 12, **fields}
    if fields.get("max_tokens"):
        del fields["max_completion_tokens"]
    answer = client.chat.completions.create(messages=messages, **fields)
    if not fields.get("stream"):
        strict(ChatCompletion, answer)
        assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return answer


def text(answer):
    return answer.choices[0].message.content


def joined(stream):
    """Texts by choice, and the chunks of a stream."""
    texts, chunks = {}, list(stream)
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert len({c.id for c in chunks}) == 1
    return [texts[i] for i in sorted(texts)], chunks


def refused(call, kind, param, code=None, words=()):
    """The exception of a refusal, with the field that it names."""
    try:
        call()
    except kind as e:
        assert type(e) is kind, type(e)
        assert e.param == param, (e.param, e.message)
        assert code is None or e.code == code, e.code
        for word in words:
            assert str(word) in e.message, (word, e.message)
        return e
    raise AssertionError(f"{kind.__name__} was expected for {param}")


def models(client):
    listed = client.models.list()
    assert [m.id for m in listed] == [MODEL]
    for model in listed:
        strict(Model, model)
        assert strict(Model, client.models.retrieve(model.id)) == strict(Model, model)
    refused(lambda: client.models.retrieve("nobody/there"), openai.NotFoundError, "model", "model_not_found", [MODEL])


def chat_answers(client):
    first, again = ask(client), ask(client)
    assert text(first) and text(first) == text(again), "same seed, same text"
    assert first.usage.completion_tokens <= 12 and first.choices[0].finish_reason in ("stop", "length")
    assert first.usage.prompt_tokens_details.cached_tokens >= 0
    assert first.usage.completion_tokens_details.reasoning_tokens == 0
    assert any(text(ask(client, seed=s)) != text(first) for s in range(2, 8)), "other seeds, other texts"
    assert text(ask(client, seed=None, temperature=0)) == text(ask(client, seed=5, temperature=0))
    roles = [{"role": "system", "content": "You write."}, *SAY, {"role": "assistant", "content": "A bird."},
             {"role": "user", "content": [{"type": "text", "text": "More"}]}]
    assert text(ask(client, roles))
    assert ask(client, max_tokens=3, extra_body={"ignore_eos": True}).usage.completion_tokens == 3
    assert ask(client, max_completion_tokens=4, extra_body={"ignore_eos": True}).choices[0].finish_reason == "length"


def counting(chunks):
    """Usage in every part, up to the whole."""
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[0] <= 1 and counts[-2] == counts[-1] > 1, counts
    assert len({chunk.usage.prompt_tokens for chunk in chunks}) == 1


def chat_streams(client):
    for fields in [{}, {"temperature": 0}, {"n": 3}, {"stop": ["the", " a"]}, {"logprobs": True, "top_logprobs": 2}]:
        whole = ask(client, max_completion_tokens=30, **fields)
        texts, chunks = joined(ask(client, stream=True, max_completion_tokens=30, **fields))
        assert texts == [c.message.content for c in whole.choices], f"{fields}: streaming differs"
        ends = {c.index: c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason}
        assert ends == {c.index: c.finish_reason for c in whole.choices}
        assert all(chunk.usage is None for chunk in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        if fields.get("logprobs"):
            kept = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content]
            assert kept == whole.choices[0].logprobs.content
    _, chunks = joined(ask(client, stream=True, stream_options={"include_usage": True}, n=2))
    assert not chunks[-1].choices and chunks[-1].usage == ask(client, n=2).usage or (
        chunks[-1].usage.completion_tokens == ask(client, n=2).usage.completion_tokens)
    each = {"include_usage": True, "continuous_usage_stats": True}
    _, chunks = joined(ask(client, stream=True, stream_options=each, n=2))
    counting(chunks)
    refused(lambda: ask(client, stream_options={"include_usage": True}), openai.BadRequestError, "stream_options")
    # The client's helper puts a stream together.
    with client.chat.completions.stream(model=MODEL, messages=SAY, seed=1, stop=".") as stream:
        for _ in stream:
            pass
        assert text(stream.get_final_completion()) == text(ask(client, stop=".", max_completion_tokens=None))


def chat_choices(client):
    three = ask(client, n=3, seed=10)
    assert [c.index for c in three.choices] == [0, 1, 2]
    alone = [text(ask(client, seed=10 + i)) for i in range(3)]
    assert [c.message.content for c in three.choices] == alone, "answer i of n has seed + i"
    assert three.usage.prompt_tokens == ask(client).usage.prompt_tokens


def chat_stops(client):
    whole = text(ask(client, max_completion_tokens=40))
    word = whole.split()[3]
    cut = ask(client, max_completion_tokens=40, stop=word)
    assert text(cut) == whole[: whole.index(word)] and cut.choices[0].finish_reason == "stop"
    assert text(ask(client, max_completion_tokens=40, stop=["never to be found", word])) == text(cut)


def chat_logprobs(client):
    entries = ask(client, logprobs=True, top_logprobs=3, temperature=0).choices[0].logprobs.content
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the likeliest"
        assert [t.logprob for t in entry.top_logprobs] == sorted((t.logprob for t in entry.top_logprobs), reverse=True)
        assert sum(math.exp(t.logprob) for t in entry.top_logprobs) <= 1.0001
    answer = ask(client, logprobs=True, temperature=0)
    entries = answer.choices[0].logprobs.content
    assert all(e.top_logprobs == [] for e in entries)
    assert b"".join(bytes(e.bytes) for e in entries).decode(errors="replace").strip().startswith(text(answer).strip()[:5])
    assert ask(client).choices[0].logprobs is None
    refused(lambda: ask(client, top_logprobs=2), openai.BadRequestError, "top_logprobs")
    refused(lambda: ask(client, logprobs=True, top_logprobs=21), openai.BadRequestError, "top_logprobs", words=[21, 20])


def chat_chooses(client, http):
    plain = ask(client, logprobs=True, temperature=0).choices[0]
    first = plain.logprobs.content[0].token
    ids = http.post("/tokenize", json={"prompt": first, "add_special_tokens": False}).json()["tokens"]
    for token in ids:
        banned = ask(client, temperature=0, logit_bias={str(token): -100}, logprobs=True)
        assert all(e.token != first for e in banned.choices[0].logprobs.content) or len(ids) > 1
    forced = ask(client, temperature=0, logit_bias={str(ids[0]): 100}, max_completion_tokens=3)
    assert forced.choices[0].message.content
    story = [{"role": "user", "content": "Tell me a story"}]
    written = [text(ask(client, story, temperature=0, max_completion_tokens=150, extra_body={"ignore_eos": True, **more})) for more in
               ({}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 1.8})]
    assert len(set(written)) == 4, "a penalty changes nothing"
    greedy = text(ask(client, temperature=0))
    for body in [{"top_k": 1}, {"min_p": 1.0}]:
        assert text(ask(client, temperature=2, extra_body=body)) == greedy, body
    assert text(ask(client, temperature=2, top_p=0)) == greedy


def chat_forms(client):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
              "required": ["name", "age"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    for stream in [False, True]:
        answer = ask(client, response_format=form, max_completion_tokens=400, stream=stream)
        written = joined(answer)[0][0] if stream else text(answer)
        value = json.loads(written)
        assert set(value) == {"name", "age"} and isinstance(value["age"], int) and 0 <= value["age"] <= 99, value

    class Person(pydantic.BaseModel):
        happy: bool

    parsed = client.chat.completions.parse(model=MODEL, messages=SAY, seed=1, max_completion_tokens=400, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    assert text(ask(client, response_format={"type": "text"})) == text(ask(client))
    for broken, place in [({"type": "json_schema"}, "response_format.json_schema"), ({"type": "xml"}, "response_format.type")]:
        refused(lambda broken=broken: ask(client, response_format=broken), openai.BadRequestError, place)
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}, "strict": True}}
    refused(lambda: ask(client, response_format=bad), openai.BadRequestError, "response_format", None, ["#/type"])


def chat_tools(client):
    tool = {"type": "function", "function": {"name": "look", "description": "Looks", "parameters": {
        "type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"], "additionalProperties": False}}}
    try:
        ask(client, tools=[tool])
    except openai.BadRequestError as e:
        # A model whose template has no tools says so.
        assert e.param == "tools", (e.param, e.message)
        return
    for choice in ["required", {"type": "function", "function": {"name": "look"}}]:
        answer = ask(client, tools=[tool], tool_choice=choice, max_completion_tokens=400)
        call = answer.choices[0].message.tool_calls[0]
        assert call.function.name == "look" and isinstance(json.loads(call.function.arguments)["far"], bool)
        assert answer.choices[0].finish_reason == "tool_calls"
    assert ask(client, tools=[tool], tool_choice="none").choices[0].message.tool_calls is None
    refused(lambda: ask(client, tools=[tool], tool_choice={"type": "function", "function": {"name": "jump"}}),
            openai.BadRequestError, "tool_choice")


def chat_refuses(client):
    bad = openai.BadRequestError
    for fields, param in [({"temperature": 2.5}, "temperature"), ({"top_p": 1.5}, "top_p"), ({"n": 0}, "n"), ({"n": 1000}, "n"),
                          ({"presence_penalty": 3}, "presence_penalty"), ({"frequency_penalty": -3}, "frequency_penalty"),
                          ({"logit_bias": {"x": 1}}, "logit_bias.x"), ({"logit_bias": {"1": 101}}, "logit_bias.1"),
                          ({"stop": [""]}, "stop[0]"), ({"stop": ["x"] * 17}, "stop"), ({"store": True}, "store"),
                          ({"modalities": ["audio"]}, "modalities"), ({"service_tier": "flex"}, "service_tier"),
                          ({"max_completion_tokens": 0}, "max_completion_tokens"), ({"seed": "x"}, "seed"),
                          ({"extra_body": {"min_p": 2}}, "min_p"), ({"extra_body": {"top_k": -2}}, "top_k"),
                          ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
                          ({"extra_body": {"typical_p": 0}}, "typical_p"),
                          ({"extra_body": {"stop_token_ids": [4000000000]}}, "stop_token_ids"),
                          ({"logit_bias": {"4000000000": 1}}, "logit_bias.4000000000")]:
        refused(lambda fields=fields: ask(client, **fields), bad, param)
    refused(lambda: ask(client, extra_body={"no_such_field": 1}), bad, "no_such_field", "unknown_field")
    refused(lambda: ask(client, []), bad, "messages")
    refused(lambda: ask(client, [{"role": "nobody", "content": "x"}]), bad, "messages[0].role")
    refused(lambda: ask(client, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), bad,
            "messages[0].content[0]")
    refused(lambda: ask(client, [{"role": "user", "content": "word " * 2000}]), bad, "messages", "context_length_exceeded", [512])
    refused(lambda: ask(client, model="none"), openai.NotFoundError, "model", "model_not_found")


def completions(client):
    def complete(**fields):
        answer = client.completions.create(**{"model": MODEL, "prompt": "Once upon", "seed": 1, "max_tokens": 12, **fields})
        if not fields.get("stream"):
            strict(Completion, answer)
            assert answer.object == "text_completion"
            return answer
        chunks = list(answer)
        for chunk in chunks:
            body = chunk.model_dump(mode="json")
            for choice in body["choices"]:
                # OpenAI sends null until the end, which the client's model does not know.
                choice["finish_reason"] = choice["finish_reason"] or "stop"
            strict(Completion, body)
        return chunks

    def streamed(**fields):
        texts = {}
        for chunk in complete(stream=True, **fields):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
        return [texts[i] for i in sorted(texts)]

    def texts(answer):
        return [c.text for c in answer.choices]

    for fields in [{}, {"echo": True}, {"n": 2, "best_of": 2}, {"prompt": ["One day", "A bird"]}, {"stop": ["the"]},
                   {"temperature": 0}, {"prompt": ["One day", "A bird"], "n": 2, "echo": True}]:
        assert texts(complete(**fields)) == texts(complete(**fields)) == streamed(**fields), fields
    assert complete(echo=True).choices[0].text == "Once upon" + complete().choices[0].text
    assert texts(complete(prompt=["Once upon", "A"]))[0] == complete().choices[0].text, "company changes nothing"
    assert complete(max_tokens=None, extra_body={"ignore_eos": True}).usage.completion_tokens == 16
    logprobs = complete(logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset)
    assert all(token in top for token, top in zip(logprobs.tokens, logprobs.top_logprobs))
    usage = complete(stream=True, stream_options={"include_usage": True})[-1].usage
    assert usage.completion_tokens == complete().usage.completion_tokens
    counting(complete(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    bad = openai.BadRequestError
    refused(lambda: complete(suffix="the end"), bad, "suffix")
    refused(lambda: complete(best_of=2), bad, "best_of")
    refused(lambda: complete(prompt=[]), bad, "prompt")
    refused(lambda: complete(prompt=[[1, 4000000000]]), bad, "prompt")
    refused(lambda: complete(prompt="word " * 2000), bad, "prompt", "context_length_exceeded", [512])


def tokens(_, http):
    ids = http.post("/tokenize", json={"prompt": "Once upon a time"}).json()
    assert ids["count"] == len(ids["tokens"]) and ids["max_model_len"] == 512
    plain = http.post("/tokenize", json={"content": "Once upon a time", "add_special_tokens": False, "return_token_strs": True}).json()
    assert "".join(plain["token_strs"]).strip() == "Once upon a time"
    assert http.post("/detokenize", json={"tokens": plain["tokens"]}).json()["prompt"].strip() == "Once upon a time"
    chat = http.post("/tokenize", json={"messages": SAY}).json()
    answer = http.post("/v1/chat/completions", json={"messages": SAY, "max_tokens": 1}).json()
    assert chat["count"] == answer["usage"]["prompt_tokens"]


def raw(_, http):
    """What no client sends."""
    for body, status in [(b"{", 400), (b"\xff\xfe", 400), (b"[]", 400), (b"null", 400), (b'{"messages": 1}', 400), (b"[" * 100000, 400)]:
        answer = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status and answer.json()["error"]["message"], (body[:20], answer.text)
    assert http.post("/v1/chat/completions", content=b"{}").status_code == 415
    assert http.post("/v1/chat/completions", json={"messages": SAY}, headers={"Content-Encoding": "gzip"}).status_code == 415
    answer = http.get("/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert http.get("/nothing").json()["error"]["code"] == "unknown_url"
    for path in ["/livez", "/readyz", "/health"]:
        assert http.get(path).status_code == 200


def main():
    with serving(sys.argv[1]) as url, httpx.Client(base_url=url, timeout=60) as http:
        client = OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=120)
        for case in [models, chat_answers, chat_streams, chat_choices, chat_stops, chat_logprobs, chat_forms, chat_tools,
                     chat_refuses, completions]:
            if len(sys.argv) < 3 or sys.argv[2] in case.__name__:
                case(client)
                print(f"ok {case.__name__}", flush=True)
        for case in [chat_chooses, tokens, raw]:
            if len(sys.argv) < 3 or sys.argv[2] in case.__name__:
                case(client, http)
                print(f"ok {case.__name__}", flush=True)


if __name__ == "__main__":
    main()
