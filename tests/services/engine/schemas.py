"""JSON schemas in the style of public test suites: some written by hand, the others drawn with a fixed seed.

All are bounded, so that tokens drawn at random come to an end.
"""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]


def closed(required: list[str] | None = None, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties] if required is None else required,
        "additionalProperties": False,
    }


WORD: Schema = {"type": "string", "maxLength": 5}
HAND_WRITTEN: list[Schema] = [
    {"type": "boolean"},
    {"type": "null"},
    {"const": {"a": [1, None, "é"]}},
    {"const": "a \"quoted\" \\ back/slash \n line"},
    {"enum": ["red", "green", 3, None, [1, 2], {"k": True}]},
    {"enum": ["日本", "ключ", "🎉", "naïve"]},
    {"type": "integer", "minimum": -5, "maximum": 5},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 100},
    {"type": "integer", "minimum": 10, "maximum": 500, "multipleOf": 10},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.25},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "maxLength": 0},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "pattern": "^(alpha|beta)+_x?$", "maxLength": 12},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": ["integer", "boolean"], "minimum": 0, "maximum": 9},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": 1}, WORD], "items": False, "minItems": 2},
    {"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2}, "maxItems": 2},
    {"type": "array", "maxItems": 0},
    closed(),
    closed(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 130}),
    closed(required=["a"], a=WORD, b=WORD, c={"type": "null"}),
    closed(inner=closed(inner=closed(leaf={"type": "boolean"}))),
    closed(**{"with space": WORD, "quote\"d": WORD, "ключ": WORD, "": {"type": "null"}}),
    {"anyOf": [WORD, {"type": "integer", "minimum": 1, "maximum": 3}, closed(x={"const": 1})]},
    {"oneOf": [closed(kind={"const": "a"}, v=WORD), closed(kind={"const": "b"}, n={"type": "null"})]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    {"$defs": {"point": closed(x={"type": "boolean"}, y={"type": "boolean"})}, **closed(p={"$ref": "#/$defs/point"})},
    {
        "$defs": {"node": closed(required=["v"], v={"type": "boolean"}, next={"$ref": "#/$defs/node"})},
        "$ref": "#/$defs/node",
    },
    {"definitions": {"w": WORD}, "type": "array", "items": {"$ref": "#/definitions/w"}, "maxItems": 2},
    {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "boolean"}}, "additionalProperties": False,
     "maxProperties": 2},
    closed(when={"type": "string", "format": "date-time"}, kind={"enum": ["x", "y"], "description": "either"}),
    {"title": "Pydantic", "description": "as a client writes it", "$defs": {"Color": {"enum": ["r", "g"]}},
     **closed(color={"allOf": [{"$ref": "#/$defs/Color"}]}, note={"anyOf": [WORD, {"type": "null"}], "default": None})},
]  # fmt: skip


def drawn(count: int, seed: int = 20261121) -> list[Schema]:
    """So many, nested up to three deep. References point into the root, so only roots have any."""
    random_ = random.Random(seed)
    return [_schema(random_, 3) for _ in range(count)]


def _schema(r: random.Random, depth: int) -> Schema:
    leaves = [_string, _integer, _number, _enum, _literal]
    return r.choice(
        [*leaves, *([_object, _object, _array, _any_of] if depth else []), *([_reference] if depth == 3 else [])]
    )(r, depth)


def _string(r: random.Random, depth: int) -> Schema:
    low = r.randint(0, 3)
    patterns = ["^[a-z]{1,4}$", "^\\d{2,3}$", "^(x|yy|é)+$", "^[^aeiou]{2}$", "^\\w+@\\w{1,3}\\.com$"]
    if r.random() < 0.4:
        return {"type": "string", "pattern": r.choice(patterns), "maxLength": 14}
    return {"type": "string", "minLength": low, "maxLength": low + r.randint(0, 6)}


def _integer(r: random.Random, depth: int) -> Schema:
    low = r.randint(-1000, 1000)
    return {"type": "integer", "minimum": low, "maximum": low + r.randint(0, 5000)}


def _number(r: random.Random, depth: int) -> Schema:
    low = round(r.uniform(-10, 10), 2)
    return {"type": "number", "minimum": low, "maximum": round(low + r.uniform(0.5, 20), 2)}


def _enum(r: random.Random, depth: int) -> Schema:
    values = ["red", "grün", "синий", 1, 2.5, None, True, "", "a\tb", [], {"z": 0}]
    return {"enum": r.sample(values, r.randint(1, 5))}


def _literal(r: random.Random, depth: int) -> Schema:
    return r.choice([{"type": "boolean"}, {"type": "null"}, {"const": r.choice(["k", 7, "ü"])}])


def _object(r: random.Random, depth: int) -> Schema:
    names = r.sample(["id", "name", "größe", "tags", "a b", "n", "items"], r.randint(1, 4))
    properties = {name: _schema(r, depth - 1) for name in names}
    return closed([name for name in names if r.random() < 0.7], **properties)


def _array(r: random.Random, depth: int) -> Schema:
    low = r.randint(0, 2)
    return {"type": "array", "items": _schema(r, depth - 1), "minItems": low, "maxItems": low + r.randint(0, 2)}


def _any_of(r: random.Random, depth: int) -> Schema:
    return {"anyOf": [_schema(r, depth - 1) for _ in range(r.randint(2, 3))]}


def _reference(r: random.Random, depth: int) -> Schema:
    return {"$defs": {"part": _schema(r, 0)}, **closed(first={"$ref": "#/$defs/part"}, then={"$ref": "#/$defs/part"})}
