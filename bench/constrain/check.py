#!/usr/bin/env python3
"""Validates the random texts that `--example masks` wrote: each must parse, and be valid for its schema.

    python3 -m venv V && V/bin/pip install jsonschema jsonschema-rs rfc3339-validator rfc3986-validator fqdn isoduration jsonpointer
    V/bin/python bench/constrain/check.py OUT.jsonl

Two validators judge, with formats: the Rust crate jsonschema, and Python's of the same name where that cannot read the
schema, or the text has a number beyond double precision, which the first refuses. Exits with 1 if any text is wrong.
"""
import json
import math
import sys

import jsonschema
import jsonschema_rs


def judges(schema):
    """What validates a schema: the two validators, those that can read it."""
    try:
        yield "rust", jsonschema_rs.validator_for(schema, validate_formats=True).is_valid
    except Exception:
        pass
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        yield "python", kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid
    except Exception:
        pass


def endless(value):
    """Whether a value has a number that no double holds."""
    if isinstance(value, dict):
        return any(map(endless, value.values()))
    if isinstance(value, list):
        return any(map(endless, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (abs(value) > 1e308 or math.isinf(value))


def main():
    wrong, checked, unread = [], 0, set()
    last = (None, [])
    for line in open(sys.argv[1]):
        case = json.loads(line)
        if last[0] != case["name"]:
            last = (case["name"], list(judges(case["schema"])))
        try:
            value = json.loads(case["text"])
        except ValueError as error:
            wrong.append((case["name"], "json", str(error), case["text"]))
            continue
        verdicts = []
        large = endless(value)
        for name, valid in last[1]:
            if name == "rust" and large:
                continue
            try:
                verdicts.append((name, valid(value)))
            except Exception:
                pass
        if not verdicts:
            unread.add(case["name"])
            continue
        checked += 1
        if not verdicts[0][1]:
            wrong.append((case["name"], *verdicts[0], case["text"]))
    for name, judge, what, text in wrong:
        print(f"{name}: {judge}: {what}: {text[:300]}")
    print(f"{checked} texts validated, {len(wrong)} wrong; {len(unread)} schemas that no validator reads")
    sys.exit(bool(wrong))


main()
