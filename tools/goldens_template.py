#!/usr/bin/env python3
"""What transformers renders, for the tests of `alula-template`.

    goldens_template.py TEMPLATES           rewrites crates/template/tests/data/goldens.json
    goldens_template.py TEMPLATES --fuzz N FILE [--seed S]
                                            writes N random conversations per template, with what they render to

TEMPLATES is llama.cpp's `models/templates`. Needs transformers 5.23 and jinja2 3.1.6. The clock is stopped at
2026-02-03 04:05:06. `raise_exception` gives "refused" with its message; any other exception gives "error".
"""

import argparse
import datetime
import json
import pathlib
import random
import re

import jinja2
from transformers.utils import chat_template_utils

DATA = pathlib.Path(__file__).parent.parent / "crates/template/tests/data"


class Stopped(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 2, 3, 4, 5, 6)


chat_template_utils.datetime = Stopped


def render(source, case):
    """The text, the template's refusal, or an error."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]],
            tools=case.get("tools"),
            documents=case.get("documents"),
            chat_template=source,
            add_generation_prompt=case.get("add_generation_prompt", False),
            bos_token=case.get("bos_token", "<s>"),
            eos_token=case.get("eos_token", "</s>"),
            **case.get("extra", {}),
        )
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"refused": str(error)}
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def fnv(text):
    """64-bit FNV-1a."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def compact(result):
    """A result in few characters: the text's hash, `!` and the hash of a refusal, or `error`."""
    if "text" in result:
        return "address" if has_address(result["text"]) else fnv(result["text"])
    return "!" + fnv(result["refused"]) if "refused" in result else "error"


def has_address(text):
    """Did Python print where an object lies?"""
    return re.search(r"<(generator object|built-in method|bound method|function|method|Macro|jinja2).*0x[0-9a-f]+>", text)


STRINGS = [
    "Hello", "What is the weather in Paris?", "", " ", "  spaces  ", "line one\nline two", "tab\there", "\n\nleading",
    "trailing\n\n", "quotes \" and ' both", "it's", 'say "hi"', "back\\slash \\n", "<b>html & stuff</b>", "日本語のテキスト",
    "emoji 🎉👩‍👩‍👧 done", "accents éàü ß", "{\"json\": true}", "{{ not jinja }}", "{% raw %}", "<think>hmm</think>answer",
    "<think>\nlong\nthought\n</think>\n\nanswer", "</think>only end", "<think>only start", "[INST] x [/INST]",
    "<|im_end|>", "null", "0", "a" * 300, "\u200bzero\u00a0width\u2028sep", "e\u0301 combining", "\r\nwindows\r\n", "\x07bell \x1b[0m",
    "```python\nprint('x')\n```", "50% off", "100%s", "{0} {x}", "/no_think", "question /think", "عربى", "İstanbul ǅ ﬁ",
    "[{\"a\": 1}]", "<tool_call>x</tool_call>", "<|channel|>final", "a|b~c", "1e5", "-", "%Y", "\x1ctrim\x1f",
]
NAMES = ["get_weather", "search", "add_numbers", "execute", "lookup-user", "ns.tool", "Ünïcode", "browser", "python"]
KEYS = ["city", "unit", "query", "limit", "items", "values", "keys", "nested", "über", "x y", "a'b", "name", "type", "count", "get"]
IDS = ["call_1", "abcdefghi", "123456789", "call_weather_0", "functions.get_weather:0", "", "ABCdef012"]


class Maker:
    """Random conversations."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.tame = False

    def chance(self, p):
        # In a tame conversation what is rare does not happen.
        return self.r.random() < p and not (self.tame and p < 0.09)

    def string(self):
        s = self.r.choice(STRINGS)
        if self.chance(0.15):
            s += self.r.choice(["", " ", "\n"]) + self.r.choice(STRINGS)
        return s

    def number(self):
        return self.r.choice([
            0, 1, -1, 42, 7, 10**6, 2**40, -(2**33), 18446744073709551615, 0.5, -2.25, 3.0, 1e20, 1e-7, 1.5e300, 0.1, 100.0,
            123456789.123, 1e16, 1e15, 1e22, -1e-5, 0.0001, 0.00001, self.r.random(), self.r.uniform(-1e6, 1e6),
            self.r.randint(-100, 100),
        ])

    def value(self, depth=0):
        kind = self.r.random()
        if kind < 0.4 or depth > 2:
            return self.string()
        if kind < 0.6:
            return self.number()
        if kind < 0.7:
            return self.r.choice([True, False])
        if kind < 0.76:
            return None
        if kind < 0.88:
            return [self.value(depth + 1) for _ in range(self.r.randint(0, 3))]
        return {self.r.choice(KEYS): self.value(depth + 1) for _ in range(self.r.randint(0, 3))}

    def arguments(self):
        args = {self.r.choice(KEYS): self.value() for _ in range(self.r.randint(0, 4))}
        kind = self.r.random()
        if kind < 0.6 or self.tame:
            return args
        if kind < 0.85:
            return json.dumps(args, ensure_ascii=self.chance(0.5))
        return self.r.choice(["", "{}", "not json", None, [], {}, "{\"a\": }"])

    def schema(self, depth=0):
        kind = self.r.choice(["string", "string", "integer", "number", "boolean", "array", "object", "null", "enum", "union", "any", "anyOf", "const"])
        s = {}
        if kind == "enum":
            s = {"type": "string", "enum": [self.string() for _ in range(self.r.randint(0, 3))] + ([1] if self.chance(0.2) else [])}
        elif kind == "union":
            s = {"type": self.r.choice([["string", "null"], ["integer", "string"], ["null"], []])}
        elif kind == "any":
            s = {}
        elif kind in ("anyOf",):
            s = {self.r.choice(["anyOf", "oneOf", "allOf"]): [self.schema(depth + 1) if depth < 2 else {"type": "string"} for _ in range(self.r.randint(1, 2))]}
        elif kind == "const":
            s = {"const": self.value(2)}
        else:
            s = {"type": kind}
        if kind == "array" and self.chance(0.8):
            s["items"] = self.schema(depth + 1) if depth < 3 else {"type": "string"}
        if kind == "object" and self.chance(0.85):
            s.update(self.parameters(depth + 1) if depth < 3 else {"properties": {}})
        if self.chance(0.6):
            s["description"] = self.string()
        if self.chance(0.25):
            s["default"] = self.value(1)
        if self.chance(0.1):
            s["nullable"] = self.r.choice([True, False])
        if self.chance(0.1):
            s[self.r.choice(["minimum", "maximum", "minLength", "maxItems", "pattern", "format", "title", "examples", "example", "$ref"])] = self.r.choice([1, 2.5, "x", ["a", 1]])
        return s

    def parameters(self, depth=0):
        names = [self.r.choice(KEYS) for _ in range(self.r.randint(0, 3))]
        p = {"type": "object"}
        if self.chance(0.93):
            p["properties"] = {n: self.schema(depth) for n in names}
        if self.chance(0.6):
            p["required"] = [n for n in names if self.chance(0.6)]
        if self.chance(0.15):
            p["additionalProperties"] = self.r.choice([True, False, {"type": "string"}])
        if self.chance(0.05):
            p["$defs"] = {"x": {"type": "string"}}
        return p

    def tool(self):
        f = {"name": self.r.choice(NAMES)}
        if self.chance(0.9):
            f["description"] = self.string()
        if self.chance(0.92):
            f["parameters"] = self.parameters()
        elif self.chance(0.3):
            f["parameters"] = self.r.choice([None, {}])
        if self.chance(0.08):
            f["strict"] = True
        if self.chance(0.1):
            f["return"] = {"type": "string", "description": self.string()}
        if self.chance(0.06):
            return f
        t = {"type": "function", "function": f}
        if self.chance(0.04):
            t["type"] = self.r.choice(["custom", "code_interpreter"])
        return t

    def part(self):
        kind = self.r.random()
        if kind < 0.75:
            return {"type": "text", "text": self.string()}
        return self.r.choice([
            {"type": "image"}, {"type": "image_url", "image_url": {"url": "data:x"}}, {"type": "image", "image": "x.png"},
            {"type": "video", "video": "x.mp4"}, {"type": "audio", "audio": "x.wav"}, {"type": "input_text", "text": "in"},
            {"text": "untyped"}, "bare string", {"type": "text"}, {"type": "unknown", "x": 1}, {"type": "thinking", "thinking": "deep"},
            {"type": "reasoning", "text": "deep"}, {"type": "reference", "text": "[1]"},
        ])

    def content(self, null=0.02):
        kind = self.r.random()
        if self.tame and kind > null:
            return self.string()
        if kind < null:
            return None
        if kind < null + 0.18:
            return [self.part() for _ in range(self.r.randint(0, 3))]
        if kind < null + 0.2:
            return self.r.choice([{"text": "x"}, {"a": 1}, 5, True])
        return self.string()

    def tool_call(self):
        call = {"type": "function", "function": {"name": self.r.choice(NAMES), "arguments": self.arguments()}}
        if self.chance(0.7):
            call["id"] = self.r.choice(IDS)
        if self.chance(0.06):
            call = {"name": self.r.choice(NAMES), "arguments": self.arguments()}
        if self.chance(0.03):
            call.pop("type", None)
        return call

    def assistant(self, tools):
        m = {"role": "assistant"}
        calls = self.chance(0.45 if tools else 0.1)
        if not (calls and self.chance(0.3)):
            m["content"] = self.content(0.3 if calls else 0.04)
        if self.chance(0.3):
            m[self.r.choice(["reasoning_content", "reasoning_content", "thinking", "reasoning"])] = self.r.choice([self.string(), self.string(), "", None])
        if calls:
            m["tool_calls"] = [self.tool_call() for _ in range(self.r.choice([1, 1, 1, 2, 2, 3, 0]))]
        elif self.chance(0.05):
            m["tool_calls"] = self.r.choice([None, []])
        if self.chance(0.02):
            m["prefix"] = True
        if self.chance(0.02):
            m["tool_plan"] = self.string()
        return m

    def tool_result(self, call):
        m = {"role": "tool"}
        kind = self.r.random()
        m["content"] = (
            self.string() if kind < 0.5 or self.tame
            else json.dumps(self.value()) if kind < 0.75
            else self.value() if kind < 0.85
            else [self.part() for _ in range(self.r.randint(0, 2))]
        )
        if self.chance(0.8):
            m["tool_call_id"] = call.get("id", self.r.choice(IDS)) if call and self.chance(0.85) else self.r.choice(IDS)
        if self.chance(0.5):
            name = (call or {}).get("function", {}).get("name", "search")
            m["name"] = name if self.chance(0.9) else "other"
        return m

    def conversation(self, tools):
        messages = []
        if self.chance(0.5):
            messages.append({"role": self.r.choice(["system"] * 9 + ["developer"]), "content": self.content(0.01)})
        for _ in range(self.r.randint(0 if self.chance(0.05) else 1, 4)):
            messages.append({"role": "user", "content": self.content()})
            if self.chance(0.03):
                messages[-1]["name"] = "Bob"
            if self.chance(0.75):
                while True:
                    answer = self.assistant(tools)
                    messages.append(answer)
                    calls = answer.get("tool_calls") or []
                    for call in calls:
                        if self.chance(0.95):
                            messages.append(self.tool_result(call))
                    if not calls or self.chance(0.3):
                        break
            if self.chance(0.05):
                messages.append(self.r.choice([
                    {"role": "system", "content": self.string()}, {"role": "tool", "content": self.string()},
                    {"role": "user", "content": self.string()}, {"role": "assistant", "content": self.string()},
                    {"role": "weird", "content": self.string()}, {"role": "ipython", "content": self.string()},
                    {"role": "function", "name": "f", "content": self.string()}, {"content": "no role"},
                ]))
        return messages

    def case(self):
        self.tame = self.r.random() < 0.5
        tools = [self.tool() for _ in range(self.r.randint(1, 3))] if self.chance(0.5) else self.r.choice([None, None, None, []])
        case = {"messages": self.conversation(tools), "add_generation_prompt": self.chance(0.6)}
        if tools is not None:
            case["tools"] = tools
        if self.chance(0.05):
            case["documents"] = [{"title": self.string(), "text": self.string()} for _ in range(self.r.randint(0, 2))]
        extra = {}
        if self.chance(0.4):
            extra["enable_thinking"] = self.r.choice([True, False])
        options = {
            "thinking": [True, False], "reasoning_effort": ["low", "medium", "high", "none", "max"], "thinking_budget": [0, 512, 1000, -1],
            "tools_in_user_message": [True, False], "date_string": ["26 Jul 2024"], "custom_tools": [[]], "builtin_tools": [["browser", "python"]],
            "keep_past_thinking": [True, False], "clear_thinking": [True, False], "add_vision_id": [True], "model_identity": ["You are Alula."],
            "preserve_thinking": [True, False], "parallel_tool_calls": [True, False], "thinking_mode": ["thinking", "chat", "adaptive"],
            "functions": ["[]", "def f(x)"], "datetime": ["2024-07-26"], "documents": [[{"title": "t", "text": "x"}]], "controls": [{"length": "long"}], "drop_thinking": [True, False], "unk_token": ["<unk>"],
        }
        for name, values in options.items():
            if self.chance(0.05) and not (name == "documents" and "documents" in case):
                (case if name == "documents" else extra)[name] = self.r.choice(values)
        if extra:
            case["extra"] = extra
        if self.chance(0.3):
            case["bos_token"], case["eos_token"] = self.r.choice([("", ""), ("<|begin|>", "<|end|>"), ("<bos>", "<eos>")])
        return case


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("templates", type=pathlib.Path)
    parser.add_argument("--fuzz", nargs=2, metavar=("N", "FILE"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only")
    args = parser.parse_args()
    files = sorted(args.templates.glob("*.jinja"))
    sources = {f.name: f.read_text() for f in files if not args.only or args.only in f.name}
    if args.fuzz:
        with open(args.fuzz[1], "w") as out:
            for name, source in sources.items():
                maker = Maker(f"{args.seed} {name}")
                for _ in range(int(args.fuzz[0])):
                    # Through JSON and back, so that both sides see the same.
                    case = json.loads(json.dumps(maker.case()))
                    if "functions is not defined" in source or "functions |" in source or "datetime" in source:
                        case.setdefault("extra", {}).update({"functions": maker.string(), "datetime": "2024-07-26"})
                    want = render(source, case)
                    if "text" in want and has_address(want["text"]):
                        continue
                    out.write(json.dumps({"template": name, **case, "want": want}) + "\n")
        return
    cases = json.loads((DATA / "conversations.json").read_text())
    own = json.loads((DATA / "own.json").read_text())
    for entry in own["cases"]:
        given = entry.get("input", {})
        want = render(entry["template"], {"messages": [], **(own["shared"] if given == "shared" else given)})
        entry["want"] = {"address": True} if has_address(want.get("text", "")) else want
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in own["cases"])
    shared = json.dumps(own["shared"], ensure_ascii=False)
    (DATA / "own.json").write_text(f'{{"shared": {shared},\n"cases": [\n{lines}\n]}}\n')
    goldens = {name: " ".join(compact(render(source, case)) for case in cases) for name, source in sources.items()}
    (DATA / "goldens.json").write_text(json.dumps(goldens, indent=0) + "\n")


if __name__ == "__main__":
    main()
