"""Bodies against the schemas that OpenAI publishes (`openai_schemas.json`, made by tools/openai_schemas.py): what is sent keeps to
the schema of requests, and what comes back, whole, in events and as errors, to that of answers. Whole answers keep to the server's
own document too.

    v/bin/python tests/clients/openai_schema_py.py target/debug/alula
"""

import itertools
import json
import pathlib
import sys

import httpx
import jsonschema
from server import serving

HERE = pathlib.Path(__file__).resolve().parent
ENCODER = HERE.parents[1] / "testdata/encoders/mean"
PUBLISHED = json.loads((HERE / "openai_schemas.json").read_text())
SAY = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tell me about a bird"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
WEATHER = {"name": "weather", "description": "At a place", "parameters": {
    "type": "object", "properties": {"place": {"enum": ["Rome", "Oslo"]}}, "required": ["place"], "additionalProperties": False}}
CALLED = [*SAY, {"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place":"Rome"}'}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Sun."}]
CHATS = [
    {},
    {"n": 2, "temperature": 1.5, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"5": -100}},
    {"logprobs": True, "top_logprobs": 3, "stop": ["the"], "user": "me", "metadata": {"a": "b"}, "store": False},
    {"response_format": {"type": "json_object"}, "max_completion_tokens": 40},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}},
    {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required", "parallel_tool_calls": False, "max_completion_tokens": 60},
    {"messages": CALLED, "tools": [{"type": "function", "function": WEATHER}], "tool_choice": "none"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "max_completion_tokens": 1},
]
COMPLETIONS = [
    {},
    {"prompt": ["One", "Two"], "n": 2, "echo": True, "stop": "."},
    {"logprobs": 2, "logit_bias": {"5": -100}, "user": "me", "frequency_penalty": 0.5},
    {"prompt": [1, 403, 407], "max_tokens": 0, "echo": True, "logprobs": 1},
]
RESPONSES = [
    {},
    {"instructions": "Be short.", "temperature": 0, "top_p": 0.5, "metadata": {"a": "b"}, "truncation": "disabled"},
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}], "store": False},
    {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}, "max_output_tokens": 60},
    {"tools": [{"type": "function", "strict": True, **WEATHER}], "tool_choice": "required", "max_output_tokens": 60},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
]
CHECKED = 0


def own(document):
    """A check of answers against the server's own document."""
    def check(response):
        global CHECKED
        if response.headers.get("content-type") != "application/json" or response.url.path == "/openapi.json":
            return
        parts = response.url.path.split("/")
        fits = lambda path: all(a == b or a.startswith("{") for a, b in itertools.zip_longest(path.split("/"), parts, fillvalue=""))
        routes = [path for path in document["paths"] if fits(path)]
        if not routes and response.status_code == 404:
            return
        answers = document["paths"][min(routes, key=lambda p: p.count("{"))][response.request.method.lower()]["responses"]
        schema = answers[str(response.status_code)]["content"]["application/json"]["schema"]
        response.read()
        jsonschema.validators.Draft202012Validator({**document, **schema}).validate(response.json())
        CHECKED += 1
    return check


def by_type(body):
    """The schema of an event."""
    schemas = PUBLISHED["components"]["schemas"]
    names = [s["$ref"].rsplit("/", 1)[1] for s in schemas["ResponseStreamEvent"]["anyOf"]]
    fitting = [n for n in names if body["type"] in schemas[n]["properties"]["type"]["enum"]]
    assert fitting, f"no event is called {body['type']}"
    return fitting[0]


def holds(name, body):
    """The body is what the published schema says."""
    global CHECKED
    name = by_type(body) if name == "ResponseStreamEvent" else name
    kind = jsonschema.validators.Draft202012Validator({**PUBLISHED, "$ref": f"#/components/schemas/{name}"})
    errors = sorted(kind.iter_errors(body), key=lambda e: e.path)
    deepest = [jsonschema.exceptions.best_match([e]) for e in errors]
    assert not errors, f"{name}: {[(list(e.absolute_path), e.message[:300]) for e in deepest[:3]]} in {json.dumps(body)[:600]}"
    CHECKED += 1


def known(body):
    """Without what OpenAI's own answers have against the schema: null for the end of a completion that goes on, for the
    log-probability of a prompt's first token, for nobody, and for usage before the end."""
    for whole in (body, body.get("response", {})):
        for key in ("user", "usage") if whole.get("object") == "response" else ():
            if whole[key] is None:
                del whole[key]
    for choice in body["choices"] if body.get("object") == "text_completion" else []:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for key in ("token_logprobs", "top_logprobs") if choice["logprobs"] else ():
            choice["logprobs"][key] = [v for v in choice["logprobs"][key] or [] if v is not None]
    return body


def main():
    with serving(sys.argv[1], "builtin", f"vectors={ENCODER}") as address, httpx.Client(base_url=address, timeout=120) as http:
        http.event_hooks["response"].append(own(http.get("/openapi.json").json()))

        def both(path, body, request, answer, event, **more):
            """Whole and streamed."""
            holds(request, body)
            whole = http.post(path, json=body)
            assert whole.status_code == 200, whole.text
            holds(answer, known(whole.json()))
            if event:
                streamed = body | {"stream": True} | more
                holds(request, streamed)
                parts = http.post(path, json=streamed).text
                data = [line[6:] for line in parts.splitlines() if line.startswith("data: ")]
                for part in data:
                    if part != "[DONE]":
                        holds(event, known(json.loads(part)))
                assert len(data) > 2
            return whole.json()

        usage = {"stream_options": {"include_usage": True}}
        for more in CHATS:
            body = {"model": "builtin", "messages": SAY, "max_completion_tokens": 12, "seed": 1} | more
            both("/v1/chat/completions", body, "CreateChatCompletionRequest", "CreateChatCompletionResponse",
                 "CreateChatCompletionStreamResponse", **usage)
        print("ok   chat", flush=True)
        for more in COMPLETIONS:
            body = {"model": "builtin", "prompt": "Once upon", "max_tokens": 12, "seed": 1} | more
            both("/v1/completions", body, "CreateCompletionRequest", "CreateCompletionResponse", "CreateCompletionResponse")
        print("ok   completions", flush=True)
        for more in RESPONSES:
            body = {"model": "builtin", "input": "Say hello.", "max_output_tokens": 24} | more
            made = both("/v1/responses", body, "CreateResponse", "Response", "ResponseStreamEvent")
            if more.get("store") is not False:
                holds("Response", known(http.get(f"/v1/responses/{made['id']}").json()))
                holds("ResponseItemList", http.get(f"/v1/responses/{made['id']}/input_items").json())
        print("ok   responses", flush=True)
        for more in [{}, {"input": ["a", "b"], "encoding_format": "base64"}, {"dimensions": 8}]:
            body = {"model": "vectors", "input": "a bird"} | more
            holds("CreateEmbeddingRequest", body)
            answer = http.post("/v1/embeddings", json=body).json()
            if body.get("encoding_format") != "base64":  # the schema knows lists only
                holds("CreateEmbeddingResponse", answer)
        holds("ListModelsResponse", http.get("/v1/models").json())
        holds("Model", http.get("/v1/models/builtin").json())
        wrong = [("/v1/chat/completions", {"model": "builtin"}), ("/v1/completions", {"model": "none", "prompt": "a"}),
                 ("/v1/responses", {"model": "builtin", "input": 3}), ("/v1/embeddings", {}), ("/v1/none", {})]
        for path, body in wrong:
            answer = http.post(path, json=body)
            assert answer.status_code in (400, 404), answer.text
            holds("ErrorResponse", answer.json())
        print(f"ok   the rest; {CHECKED} bodies", flush=True)


if __name__ == "__main__":
    main()
