"""JSON Schema of a request, read off the struct that checks it: every type with the bound beside it.

Used by openapi.py. Bounds that JSON Schema cannot say exactly (texts are bounded in UTF-8 bytes, not
in characters) are also in the description. Knows no particular field.
"""

from __future__ import annotations

import types
import typing
from typing import Any

import msgspec

from .bounds import Bound, Choice, Items, Json, Number, Text, bounds_in

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
}
_NOTHING = [None, False, "", [], {}]
"""What a field that is known and refused may hold."""


class Schemas:
    """Schemas by the name of their struct, as they are met."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def of(self, cls: type[msgspec.Struct]) -> Schema:
        """A reference to the struct's schema."""
        name = cls.__name__
        if name not in self.found:
            self.found[name] = {}  # reserves the place, and ends the recursion of a struct that holds itself
            self.found[name] = self._struct(cls)
        return {"$ref": f"#/components/schemas/{name}"}

    def _struct(self, cls: type[msgspec.Struct]) -> Schema:
        hints = typing.get_type_hints(cls, include_extras=True)
        schema: Schema = {
            "type": "object",
            "properties": {name: self._schema(hint) for name, hint in hints.items()},
        }
        required = {field.encode_name for field in msgspec.structs.fields(cls) if field.required}
        required |= {
            name for name, hint in hints.items() if (json := _bound(bounds_in(hint), Json)) and json.is_required
        }
        if required:
            schema["required"] = sorted(required)
        if cls.__doc__:
            schema["description"] = " ".join(cls.__doc__.split())
        return schema

    def _schema(self, hint: Any, bounds: tuple[Bound, ...] = ()) -> Schema:
        if typing.get_origin(hint) is typing.Annotated:
            return self._schema(typing.get_args(hint)[0], (*bounds_in(hint), *bounds))
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return _any_of([self._schema(part, bounds) for part in typing.get_args(hint)])
        if hint is msgspec.Raw:
            return self._raw(bounds)
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.of(hint)
        if typing.get_origin(hint) is list:
            (of,) = typing.get_args(hint)
            items = _bound(bounds, Items)
            inner = () if items is None or items.of is None else (items.of,)
            return {"type": "array", "items": self._schema(of, inner), **_size("Items", items)}
        if typing.get_origin(hint) is dict:
            _, of = typing.get_args(hint)
            return self._object(of, _bound(bounds, Items))
        schema = dict(_PLAIN[hint])
        if hint in (int, float):
            return {**schema, **_range(_bound(bounds, Number))}
        if hint is str:
            return {**schema, **_text(_bound(bounds, Text), _bound(bounds, Choice))}
        return schema

    def _raw(self, bounds: tuple[Bound, ...]) -> Schema:
        json = _bound(bounds, Json)
        if json is None:
            return {}
        if json.is_refused:
            instead = f": {json.instead}" if json.instead else ""
            nothing = [*_NOTHING, *map(msgspec.json.decode, json.nothing)]
            return {"enum": nothing, "description": f"Known, and not supported by this server{instead}."}
        size = f"At most {json.max_bytes} bytes of JSON."
        if json.kind is None:
            return {"description": size}
        absent = [] if json.is_required else [_PLAIN[type(None)]]
        return {**_any_of([self._schema(json.kind), *absent]), "description": size}

    def _object(self, of: Any, items: Items | None) -> Schema:
        inner = () if items is None or items.of is None else (items.of,)
        schema: Schema = {"type": "object", "additionalProperties": self._schema(of, inner)}
        if items is not None and items.keys is not None:
            schema["propertyNames"] = _text(items.keys, None)
        return {**schema, **_size("Properties", items)}


BoundT = typing.TypeVar("BoundT", Number, Text, Choice, Items, Json)


def _bound(bounds: tuple[Bound, ...], kind: type[BoundT]) -> BoundT | None:
    return next((bound for bound in bounds if isinstance(bound, kind)), None)


def _any_of(schemas: list[Schema]) -> Schema:
    """One of these; written as a list of types where only one of them says more than its type."""
    flat = [inner for schema in schemas for inner in schema.get("anyOf", [schema])]
    if len(flat) == 2 and flat[1] == {"type": "null"} and isinstance(flat[0].get("type"), str):
        schema = {**flat[0], "type": [flat[0]["type"], "null"]}
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return schema
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _range(number: Number | None) -> Schema:
    if number is None:
        return {}
    return {"exclusiveMinimum" if number.is_open else "minimum": number.ge, "maximum": number.le}


def _text(text: Text | None, choice: Choice | None) -> Schema:
    if choice is not None:
        return {"enum": list(choice.values)}
    if text is None:
        return {}
    schema: Schema = {"minLength": text.min_bytes, "maxLength": text.max_bytes}
    if text.of:
        schema["pattern"] = f"^[{text.of}]*$"
    elif text.without:
        refused = "".join(f"\\x{ord(character):02x}" for character in text.without)
        schema["pattern"] = f"^[^{refused}]*$"
    if not text.of:
        schema["description"] = f"{text.min_bytes} to {text.max_bytes} bytes of UTF-8."
    return schema


def _size(kind: str, items: Items | None) -> Schema:
    return {} if items is None else {f"min{kind}": items.min_items, f"max{kind}": items.max_items}
