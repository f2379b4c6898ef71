"""Bodies just inside and just outside of every bound of the OpenAPI document, made of the document itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from quire.services.frontend.openapi import document

PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "Hello.", "max_tokens": 1},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/tokenize": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
    "/detokenize": {"tokens": [1]},
}
"""Path -> a body that is answered quickly."""
WHOLE = {
    "Message": {"role": "user", "content": "x"},
    "AnthropicMessage": {"role": "user", "content": "x"},
    "ResponseItem": {"role": "user", "content": "x"},
    "ResponsePart": {"type": "input_text", "text": "x"},
    "ResponseTool": {"type": "function", "name": "f"},
    "ChosenTool": {"type": "function", "name": "f"},
    "ResponseTextFormat": {"type": "text"},
    "Block": {"type": "text", "text": "x"},
    "AnthropicTool": {"name": "f"},
    "AnthropicToolChoice": {"type": "none"},
    "Thinking": {"type": "enabled"},
    "Part": {"type": "text", "text": "x"},
    "ToolCall": {"function": {"name": "f"}},
    "Function": {"name": "f"},
    "Tool": {"type": "function", "function": {"name": "f"}},
    "ToolFunction": {"name": "f"},
    "ResponseFormat": {"type": "text"},
}
"""What an object needs beside the field in question."""
COMPANIONS = {
    "prompt": {"messages": None},
    "top_logprobs": {"logprobs": True},
    "stream_options": {"stream": True},
    "tool_choice": {"tools": None},
    **dict.fromkeys(("beam_width", "length_penalty", "early_stopping"), {"use_beam_search": True}),
}
LARGEST = 1 << 20
"""Longer values are the body's own limit to refuse."""


class Case(NamedTuple):
    path: str
    field: str
    """As errors name it."""
    value: Any
    is_inside: bool
    limit: str
    """A number or word that the refusal must name."""
    body: bytes

    def __repr__(self) -> str:
        shown = json.dumps(self.value)
        return f"{self.path}-{self.field}-{'in' if self.is_inside else 'out'}-{len(shown)}:{shown[:30]}"


def cases() -> Iterator[Case]:
    whole = document()
    for path, base in PATHS.items():
        body = whole["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for name, schema in _resolved(body, whole)["properties"].items():

            def put(value: Any, name: str = name, base: dict[str, Any] = base) -> dict[str, Any]:
                return {**base, **COMPANIONS.get(name, {}), name: value}

            if not _may_be_boolean(schema):
                yield Case(path, name, True, False, "", json.dumps(put(True)).encode())
            for field, value, is_inside, limit, filled in _walk(name, schema, put, whole):
                yield Case(path, field, value, is_inside, limit, json.dumps(filled).encode())


def _may_be_boolean(schema: dict[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_may_be_boolean(one) for one in schema["anyOf"])
    if not {"type", "enum", "$ref"} & set(schema):
        return True  # any JSON
    return "boolean" in str(schema.get("type")) or any(isinstance(value, bool) for value in schema.get("enum", ()))


def _walk(
    field: str, schema: dict[str, Any], put: Callable[[Any], Any], whole: dict[str, Any]
) -> Iterator[tuple[str, Any, bool, str, Any]]:
    for value, is_inside, limit in _edges(schema, whole):
        yield field, value, is_inside, limit, put(value)
    for one in schema.get("anyOf", []):
        yield from _walk(field, one, put, whole)
    if "$ref" in schema:
        yield field, 5, False, "", put(5)
        name, target = schema["$ref"].rpartition("/")[2], _resolved(schema, whole)
        for inner, inner_schema in target.get("properties", {}).items():

            def put_inner(value: Any, inner: str = inner) -> Any:
                return put({**copy.deepcopy(WHOLE.get(name, {})), inner: value})

            yield from _walk(f"{field}.{inner}", inner_schema, put_inner, whole)
    if "items" in schema:
        yield from _walk(f"{field}[0]", schema["items"], lambda value: put([value]), whole)
    if schema.get("additionalProperties"):
        key = "0" if "pattern" in schema.get("propertyNames", {}) else "a"
        yield from _walk(f"{field}.{key}", schema["additionalProperties"], lambda value: put({key: value}), whole)


def _edges(schema: dict[str, Any], whole: dict[str, Any]) -> Iterator[tuple[Any, bool, str]]:
    """(value, is inside, limit) of this one schema."""
    if "enum" in schema:
        yield from ((value, True, "") for value in schema["enum"])
        yield "no such value", False, ""
        return
    if "boolean" in str(schema.get("type")):
        yield True, True, ""
        yield "yes", False, ""
    step = 1 if "integer" in str(schema.get("type")) else 0.001
    if "minimum" in schema:
        yield schema["minimum"], True, ""
        yield schema["minimum"] - step, False, str(schema["minimum"])
    if "exclusiveMinimum" in schema:
        yield schema["exclusiveMinimum"] + step, True, ""
        yield schema["exclusiveMinimum"], False, str(schema["exclusiveMinimum"])
    if "maximum" in schema:
        yield schema["maximum"], True, ""
        yield schema["maximum"] + step, False, str(schema["maximum"])
    for kind, make in (("Length", _text), ("Items", _list), ("Properties", _object)):
        if (low := schema.get(f"min{kind}")) is not None:
            yield make(low, schema, whole), True, ""
            if low:
                yield make(low - 1, schema, whole), False, str(low)
        if (high := schema.get(f"max{kind}")) is not None and high < LARGEST:
            yield make(high, schema, whole), True, ""
            yield make(high + 1, schema, whole), False, str(high)
    if "propertyNames" in schema:
        item = smallest(schema["additionalProperties"], whole)
        for key, is_inside, limit in _edges(schema["propertyNames"], whole):
            yield {key: item}, is_inside, limit


def _text(length: int, schema: dict[str, Any], whole: dict[str, Any]) -> str:
    return ("0" if "0-9]" in schema.get("pattern", "") else "a") * length


def _list(length: int, schema: dict[str, Any], whole: dict[str, Any]) -> list[Any]:
    return [smallest(schema["items"], whole)] * length


def _object(length: int, schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return {str(key): smallest(schema["additionalProperties"], whole) for key in range(length)}


def smallest(schema: dict[str, Any], whole: dict[str, Any]) -> Any:
    """A value that this schema allows."""
    if "$ref" in schema:
        return copy.deepcopy(WHOLE.get(schema["$ref"].rpartition("/")[2], {}))
    if "anyOf" in schema:
        return smallest(schema["anyOf"][0], whole)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "null")
    kind = kind if isinstance(kind, str) else kind[0]
    if kind == "string":
        return _text(schema.get("minLength", 0), schema, whole)
    if kind == "array":
        return _list(schema.get("minItems", 0), schema, whole)
    return {"integer": schema.get("minimum"), "number": schema.get("minimum"), "object": {}}.get(kind)


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return whole["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
