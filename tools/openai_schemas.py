#!/usr/bin/env python3
"""Takes out of OpenAI's published document (github.com/openai/openai-openapi, MIT licence, `openapi.json`) the schemas that
`tests/clients/openai_schema_py.py` compares with, without descriptions.

    tools/openai_schemas.py openapi.json > tests/clients/openai_schemas.json
"""

import json
import sys

ROOTS = ["CreateChatCompletionRequest", "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse", "CreateCompletionRequest",
         "CreateCompletionResponse", "CreateEmbeddingRequest", "CreateEmbeddingResponse", "ListModelsResponse", "Model", "CreateResponse",
         "Response", "ResponseStreamEvent", "ResponseItemList", "ErrorResponse"]
DROPPED = {"description", "example", "examples", "title", "deprecated", "default", "externalDocs", "discriminator"}


def plain(node, names=False):
    """Without what does not bind; below `properties` keys are names."""
    if isinstance(node, list):
        return [plain(n) for n in node]
    if not isinstance(node, dict):
        return node
    kept = {k: plain(v, k == "properties") for k, v in node.items() if names or k not in DROPPED and not k.startswith("x-")}
    # Its alternatives overlap.
    if not names and "oneOf" in kept:
        kept["anyOf"] = kept.pop("oneOf")
    # The document is of OpenAPI 3.1, which has no such word, and means it all the same.
    if not names and kept.pop("nullable", False) is True:
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def references(node):
    if isinstance(node, list):
        for n in node:
            yield from references(n)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"].removeprefix("#/components/schemas/")
        for n in node.values():
            yield from references(n)


all_of_them = json.load(open(sys.argv[1]))["components"]["schemas"]
taken, wanted = {}, list(ROOTS)
while wanted:
    name = wanted.pop()
    if name not in taken:
        taken[name] = plain(all_of_them[name])
        wanted.extend(references(taken[name]))
json.dump({"components": {"schemas": dict(sorted(taken.items()))}}, sys.stdout, separators=(",", ":"), sort_keys=True)
print()
