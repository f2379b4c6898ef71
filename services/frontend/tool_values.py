"""Values of tool parameters that a model did not write as JSON, turned into JSON.

For call styles that write a value as bare text (XML) or as a Python literal. Knows no markers.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_MAX_DEPTH = 32
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign>[\[\](){},:]))""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}

encode_text = msgspec.json.Encoder().encode


def json_of_text(written: str, schema: Any) -> str:
    """A value written as bare text, as JSON: a string where the schema says so or nothing else fits."""
    if is_string(schema):
        return _quoted(written)
    bare = written.strip()
    word = _WORDS.get(bare)
    if word is not None:
        return word
    try:
        msgspec.json.decode(bare)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _quoted(written)
    return bare


def json_of_literal(written: str) -> str:
    """A Python literal as JSON; what is none becomes a string."""
    try:
        value, rest = _value(written, 0, 0)
    except (ValueError, msgspec.DecodeError):
        return _quoted(written.strip())
    return value if not written[rest:].strip() else _quoted(written.strip())


def is_string(schema: Any) -> bool:
    """Whether a value of this schema is a string for certain, and so written without quotes."""
    if not isinstance(schema, dict):
        return False
    kind = schema.get("type")
    if kind is None and isinstance(schema.get("enum"), list):
        return all(isinstance(value, str) for value in schema["enum"])
    return kind == "string" or kind == ["string"]


def _quoted(text: str) -> str:
    return encode_text(text.encode("utf-8", "replace").decode()).decode()


def _value(text: str, position: int, depth: int) -> tuple[str, int]:
    """The JSON of the literal at `position` and where it ends. Raises ValueError."""
    match = _TOKEN.match(text, position)
    if match is None or depth > _MAX_DEPTH:
        raise ValueError("not a literal")
    if match["number"]:
        msgspec.json.decode(match["number"])
        return match["number"], match.end()
    if match["word"]:
        if match["word"] not in _WORDS:
            raise ValueError("not a literal")
        return _WORDS[match["word"]], match.end()
    if match["string"]:
        text = _ESCAPE.sub(_unescaped, match["string"][1:-1])
        # Two escapes may be the halves of one character, as JSON writes them.
        return _quoted(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")), match.end()
    closing = {"[": "]", "(": ")", "{": "}"}.get(match["sign"])
    if closing is None:
        raise ValueError("not a literal")
    items, end = _items(text, match.end(), closing, depth)
    return ("{" + ", ".join(items) + "}" if closing == "}" else "[" + ", ".join(items) + "]"), end


def _items(text: str, position: int, closing: str, depth: int) -> tuple[list[str], int]:
    items: list[str] = []
    while True:
        match = _TOKEN.match(text, position)
        if match is not None and match["sign"] == closing:
            return items, match.end()
        item, position = _value(text, position, depth + 1)
        if closing == "}":
            colon = _TOKEN.match(text, position)
            if colon is None or colon["sign"] != ":" or not item.startswith('"'):
                raise ValueError("not a literal")
            value, position = _value(text, colon.end(), depth + 1)
            item = f"{item}: {value}"
        items.append(item)
        match = _TOKEN.match(text, position)
        if match is None or match["sign"] not in (",", closing):
            raise ValueError("not a literal")
        if match["sign"] == ",":
            position = match.end()


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else "\N{REPLACEMENT CHARACTER}"
    return _ESCAPED.get(code, code)
