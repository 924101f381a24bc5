"""Makes what schemathesis sends short, and three of four bodies that keep to the document such that their fields fit each other."""

import schemathesis
from schemathesis.generation import GenerationMode

COUNT = {"sent": 0}
# A call to one of these fits only some models.
MODELS_OWN = ["reasoning_effort", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "logit_bias",
              "stop_token_ids", "model", "suffix", "verbosity", "prompt_cache_retention"]


@schemathesis.hook
def before_call(context, case, kwargs):
    body, path = case.body, case.operation.path
    if not isinstance(body, dict):
        return
    if case.meta and case.meta.generation.mode == GenerationMode.POSITIVE:
        COUNT["sent"] += 1
        if COUNT["sent"] % 4:
            mend(path, body)
    if path in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
        shorten(body, path)
    if path in ("/api/chat", "/api/generate") and not body.get("options"):
        body["options"] = {"num_predict": 4}


def shorten(body, path):
    """Asks for a few tokens, unless it is wrong what it asks for."""
    for field in ["max_tokens", "max_completion_tokens"]:
        if type(body.get(field)) is int and body[field] > 4:
            body[field] = 4
    if path != "/v1/messages" and body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
        body["max_tokens"] = 4
    if type(body.get("n")) is int and 2 < body["n"] <= 128:
        body["n"] = 2


def mend(path, body):
    """What no schema says: which fields go together, and what the model has."""
    for field in MODELS_OWN:
        body.pop(field, None)
    # Ollama's and Anthropic's bodies must name one.
    body["model"] = "builtin"
    if body.get("stream") is not True:
        body.pop("stream_options", None)
    if path == "/v1/chat/completions":
        if body.get("logprobs") is not True:
            body.pop("top_logprobs", None)
        if body.get("max_completion_tokens") is not None:
            body.pop("max_tokens", None)
        if (body.get("response_format") or {}).get("type") != "text":
            body["response_format"] = {"type": "text"}
        body["messages"] = messages(body["messages"])
    if path == "/v1/completions":
        body.pop("best_of", None)
        if not isinstance(body.get("prompt"), str):
            body["prompt"] = ["A", "B"]
        elif not body["prompt"]:
            body["prompt"] = "A"
    if path == "/tokenize":
        body.pop("messages", None)
        body["prompt"] = body.get("prompt") or body.pop("content", None) or "A"
        body.pop("content", None)
    if path == "/detokenize":
        body["tokens"] = [t % 256 for t in body["tokens"]]


def messages(given):
    """A conversation that every template takes: a person and the model by turns."""
    texts = [m["content"] for m in given if isinstance(m.get("content"), str)][:5]
    if len(texts) % 2 == 0:
        texts.append("Hello")
    return [{"role": "assistant" if i % 2 else "user", "content": t or "A"} for i, t in enumerate(texts)]
