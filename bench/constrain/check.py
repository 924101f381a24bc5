#!/usr/bin/env python3
"""Validates the random texts that `--example masks` wrote: each must parse, and be valid for its schema.

    python3 -m venv V && V/bin/pip install jsonschema jsonschema-rs rfc3339-validator rfc3986-validator fqdn isoduration jsonpointer
    V/bin/python bench/constrain/check.py OUT.jsonl

Two validators judge, with formats: Python's jsonschema, and the Rust crate of the same name; a text is wrong if the
second says so, or if it cannot and the first says so. Exits with 1 if any is.
"""
import json
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
        for name, valid in last[1]:
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
