"""How a call is written that must be made, in each family's form, as nodes of a structural tag.

Made of the table that the parser reads by. JSON arguments follow their schema as a whole; where a call names its
arguments one by one, each follows its own part of it. Knows no request and no grammar.
"""

from __future__ import annotations

import re
from typing import Any

from quire.shared.output_formats import ParameterForm, ToolFormat

from .tool_values import is_string

Node = dict[str, Any]
Schema = dict[str, Any]

_NOTES = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"})
"""Keywords that hold nobody to anything."""
_OF_OBJECTS = _NOTES | {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "strict"}
_OF_STRINGS = _NOTES | {"type", "enum", "const", "minLength", "maxLength"}
_KEY = re.compile(r"[A-Za-z0-9_.$-]{1,128}")
_PYTHON_KEY = re.compile(r"[A-Za-z_]\w{0,127}")
_MAX_OPTIONAL = 16
"""Arguments of which none need be there, where commas stand between them: each may be the first."""
_HARMONY_MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


class UnwritableError(ValueError):
    """A form cannot hold to a schema; the text names the part of it."""


def call_node(tools: ToolFormat, name: str, schema: Schema | None) -> Node:
    """schema: of the arguments; None: as the model writes them, if their end can be seen. Raises UnwritableError."""
    before, between, after = tools.call
    if tools.is_numbered:
        between = ":"
    if schema is None and len(after) > 1:
        content: Node = {"type": "any_text"}
    elif tools.parameter is not None:
        content = _Parameters(tools, tools.parameter, schema or {}).node()
    else:
        content = {"type": "json_schema", "json_schema": {"type": "object", **(schema or {})}}
    if tools.is_numbered:
        number = {"type": "regex", "pattern": "[0-9]{1,3}"}
        content = _sequence([number, {"type": "tag", "begin": tools.call[1], "content": content, "end": ""}])
    return {"type": "tag", "begin": before + name + between, "content": content, "end": after}


def calls_node(tools: ToolFormat, calls: list[Node], is_single: bool) -> Node:
    """One of the calls or several, and nothing else but what a model thinks and says before in channels of its own."""
    if tools.section is None:
        return channels(calls)
    before, between, after = tools.section
    node = {
        "type": "tags_with_separator",
        "tags": calls,
        "separator": between,
        "at_least_one": True,
        "stop_after_first": is_single,
    }
    return {"type": "tag", "begin": before, "content": node, "end": after} if before or after else node


def free_node(tools: ToolFormat, calls: list[Node], is_single: bool) -> Node:
    """Text, in which nothing else than the calls looks like one."""
    if tools.section is None:
        text = {"type": "any_text", "excludes": list(_HARMONY_MARKERS)}
        return channels([*calls, {"type": "tag", "begin": "<|channel|>final<|message|>", "content": text, "end": ""}])
    if tools.leads:
        signs = "".join(map(re.escape, tools.leads))
        text = {"type": "regex", "pattern": rf"\s*([^\s{signs}](.|\n)*)?", "excludes": list(tools.opens)}
        return {"type": "or", "elements": [calls_node(tools, calls, is_single), text]}
    tags = [calls_node(tools, calls, is_single)] if tools.section[0] else calls
    trigger = next(marker for marker in tools.opens if tags[0]["begin"].startswith(marker))
    return {
        "type": "triggered_tags",
        "triggers": [trigger],
        "tags": tags,
        "excludes": [marker for marker in tools.opens if marker != trigger],
        "stop_after_first": is_single,
    }


def channels(last: list[Node]) -> Node:
    """Harmony's messages: analysis and what is said before a call, then one of `last`."""
    text = {"type": "any_text", "excludes": list(_HARMONY_MARKERS)}
    before = [
        {"type": "tag", "begin": f"<|channel|>{name}<|message|>", "content": text, "end": "<|end|><|start|>assistant"}
        for name in ("analysis", "commentary")
    ]
    return _sequence(
        [{"type": "star", "content": {"type": "or", "elements": before}}, {"type": "or", "elements": last}]
    )


class _Parameters:
    """The arguments of one call, each named."""

    def __init__(self, tools: ToolFormat, form: ParameterForm, schema: Schema) -> None:
        self._form = form
        self._schema = schema
        self._ends = [] if form.is_python else list(tools.states["value"].exits)
        self._definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}

    def node(self) -> Node:
        schema = self._schema
        unknown = sorted(schema.keys() - _OF_OBJECTS)
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if unknown or schema.get("type", "object") != "object":
            raise UnwritableError(unknown[0] if unknown else "type")
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise UnwritableError("properties")
        if set(required) - properties.keys():
            raise UnwritableError("required")
        if "properties" not in schema and schema.get("additionalProperties", True) is not False:
            return self._any_arguments()
        parts = {name: self._part(name, value) for name, value in properties.items() if value is not False}
        if not self._form.separator:
            return _sequence([part if name in required else _optional(part) for name, part in parts.items()])
        return self._separated(parts, required)

    def _separated(self, parts: dict[str, Node], required: list[str]) -> Node:
        """What comes first has no separator before it."""
        needed = next((name for name in parts if name in required), None)
        if needed is not None:
            return _sequence([parts.pop(needed), *self._following(parts, required)])
        if len(parts) > _MAX_OPTIONAL:
            raise UnwritableError(f"more than {_MAX_OPTIONAL} arguments of which none is required")
        names = list(parts)
        chains = [
            _sequence([parts[name], *self._following({other: parts[other] for other in names[place + 1 :]}, required)])
            for place, name in enumerate(names)
        ]
        return _optional({"type": "or", "elements": chains}) if chains else _text("")

    def _following(self, parts: dict[str, Node], required: list[str]) -> list[Node]:
        separator = _text(self._form.separator)
        pairs = {name: _sequence([separator, part]) for name, part in parts.items()}
        return [pair if name in required else _optional(pair) for name, pair in pairs.items()]

    def _part(self, name: str, schema: Any) -> Node:
        form = self._form
        if not (_PYTHON_KEY if form.is_python else _KEY).fullmatch(name):
            raise UnwritableError(f"a property with the name {name[:64]!r}")
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise UnwritableError("properties")
        content = self._literal(schema) if form.is_python else self._value(schema)
        return {"type": "tag", "begin": form.before + name + form.between, "content": content, "end": form.after}

    def _any_arguments(self) -> Node:
        """Of a schema that says nothing of them."""
        form = self._form
        key = {"type": "regex", "pattern": "[A-Za-z_][A-Za-z0-9_]{0,63}"}
        content = self._literal({}) if form.is_python else self._bare_text({})
        value = {"type": "tag", "begin": form.between, "content": content, "end": form.after}
        part = {"type": "tag", "begin": form.before, "content": _sequence([key, value]), "end": ""}
        if not form.separator:
            return {"type": "star", "content": part}
        return {"type": "tags_with_separator", "tags": [part], "separator": form.separator}

    def _literal(self, schema: Schema) -> Node:
        """In Python: JSON is taken for it, but its words are Python's where that is all there can be."""
        if schema.keys() - _NOTES == {"type"} and schema["type"] == "boolean":
            return {"type": "or", "elements": [_text("True"), _text("False")]}
        return self._json(schema)

    def _value(self, schema: Schema) -> Node:
        if not is_string(schema):
            return self._json(schema)
        unknown = sorted(schema.keys() - _OF_STRINGS)
        if unknown:
            raise UnwritableError(unknown[0])
        texts = [schema["const"]] if "const" in schema else schema.get("enum")
        if texts is None:
            return self._bare_text(schema)
        if not all(isinstance(text, str) and not any(end in text for end in self._ends) for text in texts):
            raise UnwritableError("enum")
        return {"type": "or", "elements": [_text(text) for text in texts]}

    def _bare_text(self, schema: Schema) -> Node:
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if not least and most == "":
            return {"type": "any_text", "excludes": self._ends}
        return {"type": "regex", "pattern": rf"(.|\n){{{least},{most}}}", "excludes": self._ends}

    def _json(self, schema: Schema) -> Node:
        return {"type": "json_schema", "json_schema": {**self._definitions, **schema}}


def _text(value: str) -> Node:
    return {"type": "const_string", "value": value}


def _optional(content: Node) -> Node:
    return {"type": "optional", "content": content}


def _sequence(elements: list[Node]) -> Node:
    return {"type": "sequence", "elements": elements} if elements else _text("")
