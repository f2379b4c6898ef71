"""Mutations of bytes and random values of message types: what the fuzzers feed. Deterministic by their seed."""

from __future__ import annotations

import random
import types
import typing
from typing import Any

import msgspec

JSON_BITS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"-0",
    b"1" * 40,
    b"\\ud800",
    b"\\u0000",
    b"\\",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"[" * 70,
    b'{"a":' * 70,
    b"[" * 5000,
    b"9223372036854775808",
    b"0.1",
    b"\xef\xbb\xbf",
]
MSGPACK_BITS = [
    b"\xc0",
    b"\xc1",
    b"\xc4\x05",
    b"\xc7\x04\x01",
    b"\xc8\x00\x01\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd4\x01\x00",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\xd7\xff" + b"\x00" * 8,
    b"\xd8\x02" + b"\x00" * 16,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 3000,
    b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xcf" + b"\xff" * 8,
    b"\xd3" + b"\x80" + b"\x00" * 7,
    b"\xa3abc",
    b"\xa1\xff",
    b"\x81\xa1a\x01",
]
TEXT_BITS = [
    b"\x00",
    b"\xff",
    b"\n",
    b"#",
    b"=",
    b"[[",
    b"'''",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{% for a in b %}",
    b"{{ a.b[",
    b"| tojson",
    b"(" * 500,
    b"-",
    b"--",
    b"1e999",
    b"KiB",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"{#",
    b"{% raw %}",
]


def mutate(random_: random.Random, data: bytes, other: bytes, bits: list[bytes]) -> bytes:
    """One to four changes; `other` is what may be spliced in."""
    found = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(found) + 1)
        end = min(len(found), at + random_.choice((1, 1, 2, 4, 16, 64)))
        match random_.randrange(7):
            case 0 if found:
                found[at % len(found)] ^= 1 << random_.randrange(8)
            case 1 if found:
                found[at % len(found)] = random_.randrange(256)
            case 2:
                del found[at:end]
            case 3:
                found[at:at] = random_.choice(bits)
            case 4:
                found[at:end] = random_.choice(bits)
            case 5:
                found[at:at] = found[at:end] * random_.choice((1, 3, 40))
            case 6 if other:
                start = random_.randrange(len(other))
                found[at:end] = other[start : start + random_.randrange(1, 64)]
    return bytes(found[: 1 << 16])


def value_of(hint: Any, random_: random.Random, depth: int = 0) -> Any:
    """A random value of a message's field type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return value_of(arguments[0], random_, depth)
    if origin in (typing.Union, types.UnionType):
        return value_of(random_.choice(arguments), random_, depth)
    if hasattr(hint, "__supertype__"):
        return value_of(hint.__supertype__, random_, depth)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        hints = typing.get_type_hints(hint)
        return hint(**{name: value_of(hints[name], random_, depth + 1) for name in hint.__struct_fields__})
    number = random_.randrange(4) if depth <= 3 else 0
    if origin is list:
        return [value_of(arguments[0], random_, depth + 1) for _ in range(number)]
    if origin is tuple:
        return tuple(value_of(argument, random_, depth + 1) for argument in arguments)
    if origin is dict:
        return {
            value_of(arguments[0], random_, depth + 1): value_of(arguments[1], random_, depth + 1)
            for _ in range(number)
        }
    if hint is type(None):
        return None
    if hint is bool:
        return random_.random() < 0.5
    if hint is int:
        return random_.choice((0, 1, -1, 7, 255, 1 << 31, (1 << 63) - 1, random_.randrange(1 << 40)))
    if hint is float:
        return random_.choice((0.0, -1.5, float("inf"), float("nan"), random_.random() * 1e9))
    if hint is bytes:
        return random_.randbytes(random_.choice((0, 4, 8, 7, 40)))
    if hint is str:
        return random_.choice(("", "tokenizer-0", "é\u2028", "x" * 40, "[]", '{"a": 1}', "\x00"))
    raise TypeError(hint)
