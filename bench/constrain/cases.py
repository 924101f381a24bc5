#!/usr/bin/env python3
"""Makes crates/constrain/tests/cases.json: schemas, values, and whether two validators call them valid.

    V/bin/python bench/constrain/cases.py > crates/constrain/tests/cases.json

The packages are those of check.py. Values on which the two validators do not agree are left out.
"""
import json
import sys

import jsonschema
import jsonschema_rs

VALUES = [None, True, False, 0, 1, -1, 2, 3, 7, 10, 99, 100, 101, -5, 0.5, 1.5, 2.25, -0.1, "", "a", "ab", "abc", "abcd",
          "A1", "a b", "é", "漢字", "x\ny", "\"q\"", "a/b", "12", "2024-02-29", "2023-02-29", "2024-13-01", "12:30:00Z",
          "2024-02-29T12:30:00Z", "2024-02-29 12:30:00", "a@b.de", "a@", "127.0.0.1", "256.1.1.1", "::1", "1::2::3",
          "123e4567-e89b-12d3-a456-426614174000", "https://a.b/c?d#e", "no uri", "P1DT2H", "P", "a.b-c.d", "-a",
          [], [1], [1, 2], [1, "a"], ["a", "b"], ["a", "b", "c"], [1, 2, 3, 4], [[]], [None], {}, {"a": 1}, {"a": "x"},
          {"a": "x", "b": 2}, {"b": 2}, {"a": 1, "b": 2, "c": 3}, {"x1": 5}, {"x1": "s"}, {"a": {"a": {"a": {}}}}, {"a": []},
          {"k": "p", "r": 1}, {"k": "q", "s": "t"}, {"k": "p"}, {"é": 1}]
SCHEMAS = [
    {}, True, {"type": "null"}, {"type": "boolean"}, {"type": "integer"}, {"type": "number"}, {"type": "string"},
    {"type": "array"}, {"type": "object"}, {"type": ["string", "null"]}, {"type": ["integer", "boolean", "array"]},
    {"enum": [1, "a", None, [1, 2], {"a": 1}]}, {"const": 1.5}, {"const": {"a": "x", "b": 2}}, {"enum": [True, 0, ""]},
    {"type": "integer", "minimum": 0, "maximum": 10}, {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 100},
    {"type": "number", "minimum": -0.5, "maximum": 2.25}, {"type": "number", "exclusiveMinimum": 0.5},
    {"type": "number", "maximum": -0.1}, {"type": "integer", "multipleOf": 5}, {"type": "number", "multipleOf": 0.5},
    {"type": "integer", "multipleOf": 3, "minimum": 1}, {"minimum": 2},
    {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer", "minimum": 1, "allOf": [{"type": "integer"}],
     "exclusiveMinimum": True},
    {"type": "string", "minLength": 2}, {"type": "string", "maxLength": 2}, {"type": "string", "minLength": 1, "maxLength": 3},
    {"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "b"}, {"type": "string", "pattern": "^[a-z]{2,3}$"},
    {"type": "string", "pattern": "^a|b$"}, {"type": "string", "pattern": "^\\d+$"}, {"type": "string", "pattern": "\\s"},
    {"type": "string", "pattern": "^[^\\W\\d]+$"}, {"type": "string", "pattern": "^(a|b)*$", "minLength": 1},
    {"type": "string", "pattern": "^.{2}$"}, {"type": "string", "pattern": "^[\\w/ -]+$"}, {"maxLength": 1},
    *({"type": "string", "format": name} for name in
      ["date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "uri", "duration", "hostname"]),
    {"type": "string", "format": "date", "pattern": "29$"},
    {"type": "array", "items": {"type": "integer"}}, {"type": "array", "minItems": 2}, {"type": "array", "maxItems": 2},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
    {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}],
     "allOf": [{"type": "array"}], "additionalItems": {"type": "integer"}},
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}, {"items": {"type": "null"}},
    {"type": "array", "uniqueItems": False}, {"type": "array", "uniqueItems": True, "maxItems": 1},
    {"type": "object", "properties": {"a": {"type": "string"}}},
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
    {"type": "object", "patternProperties": {"^x\\d$": {"type": "integer"}}, "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}},
    {"type": "object", "minProperties": 1}, {"type": "object", "maxProperties": 1}, {"type": "object", "maxProperties": 0},
    {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1, "additionalProperties": False},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]},
    {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 10}]},
    {"allOf": [{"properties": {"a": {"type": "string"}}}, {"required": ["b"]}], "type": "object"},
    {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "p"}, "r": {"type": "integer"}}, "required": ["k", "r"]},
               {"type": "object", "properties": {"k": {"const": "q"}, "s": {"type": "string"}}, "required": ["k"]}]},
    {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
                                          "additionalProperties": False}}},
    {"items": {"$ref": "#"}, "type": "array"}, {"$ref": "#/definitions/a~1b%25", "definitions": {"a/b%": {"type": "string"}}},
    {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "boolean"}}},
    {"$id": "http://x.y/root", "$ref": "item", "$defs": {"i": {"$id": "item", "type": "array", "items": {"$ref": "#/$defs/t"},
                                                              "$defs": {"t": {"type": "integer"}}}}},
    {"title": "t", "description": "d", "default": 1, "examples": [1], "x-any": {"type": 3}, "type": "integer"},
    {"if": {"type": "string"}}, {"type": "integer", "format": "int32"},
]


def main():
    cases = []
    for schema in SCHEMAS:
        tests = []
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        python = kind(schema, format_checker=kind.FORMAT_CHECKER)
        rust = jsonschema_rs.validator_for(schema, validate_formats=True)
        for value in VALUES:
            if python.is_valid(value) == rust.is_valid(value):
                tests.append({"value": value, "valid": rust.is_valid(value)})
        # All that are valid, and some that are not.
        valid = [test for test in tests if test["valid"]]
        types = schema.get("type") if isinstance(schema, dict) else None
        near = [test for test in tests if not test["valid"]]
        alike = {"string": str, "array": list, "object": dict, "integer": (int, float), "number": (int, float)}.get(types if isinstance(types, str) else "", object)
        near = [test for test in near if isinstance(test["value"], alike)][:14]
        cases.append({"schema": schema, "tests": valid[:14] + near})
    print("[")
    print(",\n".join(json.dumps(case, ensure_ascii=False) for case in cases))
    print("]")


main()
