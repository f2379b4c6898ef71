"""Bounds of the fields clients send: written beside each field's type, checked in one pass.

A field is `temperature: Annotated[float | None, Number(0, 2)] = None`; `check` walks the fields of
a decoded request, and of the structs in it, and raises ApiError for the first that is out of bounds, with
the field, the allowed range and the value in its message. openapi_schema.py writes down the same bounds.
A bound whose upper end is a flag has its name as `setting`, and that end is put in by `bounds_in`. Knows no field.
"""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Callable

import msgspec

from quire.shared.errors import INVALID_VALUE, ApiError, echo

from .field_limits import flag, forget_on_change, most

MAX_ID = (1 << 31) - 1
"""Token ids travel as int32; the vocabulary's own limit is the tokenizer's to check."""


class Number(msgspec.Struct, frozen=True):
    """`ge` <= value <= `le`; with `is_open`, ge itself is out."""

    ge: float
    le: float = 0
    is_open: bool = False
    setting: str = ""

    def check(self, name: str, value: float) -> None:
        if not (self.ge <= value <= self.le) or (self.is_open and value == self.ge):
            low = "(" if self.is_open else "["
            allowed = f"{low}{_plain(self.ge)}, {_plain(self.le)}]{_by(self.setting)}"
            raise out_of_bounds(name, f"must be in {allowed}, got {echo(value)}")


class Text(msgspec.Struct, frozen=True):
    """`min_bytes` <= UTF-8 length <= `max_bytes`, none of the characters `without`, only characters `of` a class."""

    min_bytes: int
    max_bytes: int = 0
    without: str = ""
    of: str = ""
    """What stands between the brackets of a regex."""
    setting: str = ""

    def check(self, name: str, value: str) -> None:
        if 4 * len(value) > self.max_bytes or len(value) < self.min_bytes:
            size = len(value) if value.isascii() else len(value.encode())
            if not self.min_bytes <= size <= self.max_bytes:
                allowed = f"{self.min_bytes} to {self.max_bytes} bytes{_by(self.setting)}"
                raise out_of_bounds(name, f"must have {allowed}, got {size}")
        if self.of and re.fullmatch(f"[{self.of}]*", value) is None:
            raise out_of_bounds(name, f"must have only characters of {self.of}, got {echo(value)}")
        if self.without and any(character in value for character in self.without):
            shown = " ".join(repr(character)[1:-1] for character in self.without)
            raise out_of_bounds(name, f"must not contain any of {shown}, got {echo(value)}")


class Choice(msgspec.Struct, frozen=True):
    """One of these strings."""

    values: tuple[str, ...]

    def check(self, name: str, value: str) -> None:
        if value not in self.values:
            raise out_of_bounds(name, f"must be one of {', '.join(self.values)}, got {echo(value)}")


class Items(msgspec.Struct, frozen=True):
    """A list or object of `min_items` to `max_items`, each item within `of`, each key within `keys`."""

    min_items: int
    max_items: int = 0
    of: Number | Text | Choice | Items | None = None
    keys: Text | None = None
    setting: str = ""

    def check(self, name: str, value: list[typing.Any] | dict[str, typing.Any]) -> None:
        if not self.min_items <= len(value) <= self.max_items:
            allowed = f"{self.min_items} to {self.max_items} items{_by(self.setting)}"
            raise out_of_bounds(name, f"must have {allowed}, got {len(value)}")
        if isinstance(value, dict):
            for key, item in value.items():
                if self.keys is not None:
                    self.keys.check(f"{name}.{echo(key)}", key)
                if self.of is not None:
                    self.of.check(f"{name}.{echo(key)}", item)
        elif isinstance(self.of, Number):
            if value and not (self.of.ge <= min(value) and max(value) <= self.of.le):
                for index, item in enumerate(value):
                    self.of.check(f"{name}[{index}]", item)
        elif self.of is not None:
            for index, item in enumerate(value):
                self.of.check(f"{name}[{index}]", item)


_EMPTY_JSON = (b"", b"null", b"[]", b"{}", b'""', b"false")


class Json(msgspec.Struct, frozen=True):
    """JSON kept as the client sent it, at most `max_bytes` of it; `kind` is what it is decoded as elsewhere."""

    max_bytes: int = 0
    kind: typing.Any = None
    is_refused: bool = False
    """Known, and taken only while it asks for nothing."""
    instead: str = ""
    """What a refusal says after a colon."""
    nothing: tuple[str, ...] = ()
    """JSON that asks for nothing, beside what is empty."""

    def asks_for_nothing(self, raw: msgspec.Raw) -> bool:
        text = bytes(raw).strip()
        return text in _EMPTY_JSON or text.decode() in self.nothing

    is_required: bool = False
    setting: str = ""

    def check(self, name: str, value: msgspec.Raw) -> None:
        size = memoryview(value).nbytes
        if size > self.max_bytes:
            allowed = f"at most {self.max_bytes} bytes of JSON{_by(self.setting)}"
            raise out_of_bounds(name, f"must have {allowed}, got {size}")


Bound = Number | Text | Choice | Items | Json
_KINDS: dict[type, tuple[type, ...]] = {
    int: (Number,),
    float: (Number,),
    str: (Text, Choice),
    list: (Items,),
    dict: (Items,),
    msgspec.Raw: (Json,),
}


def out_of_bounds(name: str, sentence: str) -> ApiError:
    return ApiError(INVALID_VALUE, f"{name} {sentence}.", param=name)


@functools.cache
def bounds_of(cls: type[msgspec.Struct]) -> dict[str, tuple[Bound, ...]]:
    """The bounds beside the type of each field that has any."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: bounds for name, hint in hints.items() if (bounds := bounds_in(hint))}


def bounds_in(hint: typing.Any) -> tuple[Bound, ...]:
    """The bounds written beside one type, as they are in this process."""
    return tuple(_in_force(extra) for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Bound))


_UPPER_ENDS: dict[type, str] = {Number: "le", Text: "max_bytes", Items: "max_items", Json: "max_bytes"}
BoundT = typing.TypeVar("BoundT", bound=Bound)


def _in_force(bound: BoundT) -> BoundT:
    """With the limits that flags set, in it and in what is within it."""
    parts = {name: getattr(bound, name, None) for name in ("of", "keys")}
    changed: dict[str, typing.Any] = {name: _in_force(part) for name, part in parts.items() if isinstance(part, Bound)}
    setting = getattr(bound, "setting", "")
    if setting:
        changed[_UPPER_ENDS[type(bound)]] = most(setting)
    return msgspec.structs.replace(bound, **changed) if changed else bound


Checks = dict[type, tuple[Callable[[str, typing.Any], None], ...]]
"""Type of a value -> what checks it."""


@functools.cache
def _checks_of(hint: typing.Any) -> Checks:
    bounds = bounds_in(hint)
    found: Checks = {
        kind: tuple(bound.check for bound in bounds if isinstance(bound, fitting)) for kind, fitting in _KINDS.items()
    }
    for cls in _structs_in(hint):
        found[cls] = (check_struct,)
        found[list] = (*found[list], _check_structs)
    return {kind: checks for kind, checks in found.items() if checks}


@functools.cache
def _checks(cls: type[msgspec.Struct]) -> tuple[tuple[str, Checks], ...]:
    """By field, those that have something to check."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple((name, checks) for name, hint in hints.items() if (checks := _checks_of(hint)))


def _structs_in(hint: typing.Any) -> list[type[msgspec.Struct]]:
    """Structs that a value of this type is, or is a list of."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if typing.get_origin(hint) in (typing.Annotated, typing.Union, types.UnionType, list):
        return [cls for part in typing.get_args(hint) for cls in _structs_in(part)]
    return []


def check(struct: msgspec.Struct) -> None:
    """Raise ApiError for the first field out of its bounds. None is always within."""
    check_struct("", struct)


def check_struct(path: str, struct: msgspec.Struct) -> None:
    """The same for a struct that stands at `path` in the request."""
    for name, checks in _checks(type(struct)):
        value = getattr(struct, name)
        if value is not None:
            for check_value in checks.get(type(value), ()):
                check_value(f"{path}.{name}" if path else name, value)


def _check_structs(path: str, values: list[typing.Any]) -> None:
    for index, value in enumerate(values):
        if isinstance(value, msgspec.Struct):
            check_struct(f"{path}[{index}]", value)


def check_value(path: str, value: typing.Any, hint: typing.Any) -> None:
    """The same for a part that was decoded as `hint`."""
    for check_one in _checks_of(hint).get(type(value), ()):
        check_one(path, value)


def _by(setting: str) -> str:
    return f" ({flag(setting)})" if setting else ""


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else repr(number)


for _kept in (bounds_of, _checks_of, _checks):
    forget_on_change(_kept.cache_clear)
