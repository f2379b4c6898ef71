"""Constraints: what a client says its answer must be, made into a grammar that the engine can follow.

Runs on an encoding thread, before anything else of the request; what cannot be followed exactly is
refused here, by name, and nothing is left out in silence. Knows no tokens but special ones, by id.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from quire.shared.errors import INVALID_VALUE, UNSUPPORTED_VALUE, ApiError, echo
from quire.shared.messages import Constraint, Grammar, Program

from .byte_lru import ByteLru
from .lark import literal, regex_rule
from .structural_tags import structural_grammar
from .untrusted import Untrusted


def max_bytes(schema: int = 64 << 10, regex: int = 4 << 10) -> dict[str, int]:
    """Of the body, by kind; as --max-schema-size and --max-regex-size say."""
    return {"json": schema, "regex": regex, "choice": schema, "grammar": schema, "structural_tag": schema}


MAX_BYTES = max_bytes()
MAX_CHOICES = 1024
MAX_CACHED_BYTES = 8 << 20
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*?\])")


def grammar_text(
    constraint: Constraint,
    special_ids: Mapping[str, int],
    untrusted: Untrusted,
    most: Mapping[str, int] = MAX_BYTES,
) -> str:
    """The constraint in llguidance's form, not yet checked by it. Raises ApiError.

    special_ids: of the strings that are special tokens.
    """
    kind, body, field = constraint.kind, constraint.body, constraint.field
    limit = most.get(kind)
    if limit is None:
        raise ApiError(INVALID_VALUE, f"{field} has a constraint of the kind {echo(kind)}, which is not known", field)
    size = len(body.encode())
    if not 1 <= size <= limit:
        flag = "--max-regex-size" if kind == "regex" else "--max-schema-size"
        message = f"{field} has {size} bytes of {kind}; 1 to {limit} are allowed ({flag})"
        raise ApiError(INVALID_VALUE, message, field)
    match kind:
        case "json":
            return _json_grammar(constraint)
        case "regex":
            return _grammars({"lark_grammar": f"start: {regex_rule(body)}"})
        case "choice":
            return _grammars({"lark_grammar": f"start: {' | '.join(map(literal, _choices(body, field)))}"})
        case "grammar":
            return _grammars({"lark_grammar": _lark(body, field, untrusted)})
        case _:
            return structural_grammar(body, constraint.is_whitespace_flexible, special_ids, field)


def _grammars(*grammars: dict[str, Any]) -> str:
    return msgspec.json.encode({"grammars": grammars}).decode()


def _json_grammar(constraint: Constraint) -> str:
    try:
        schema = msgspec.json.decode(constraint.body)
    except (msgspec.MsgspecError, RecursionError):
        raise ApiError(INVALID_VALUE, f"{constraint.field}: the schema is not valid JSON", constraint.field) from None
    return _grammars({"json_schema": _with_options(schema, constraint.is_whitespace_flexible, constraint.field)})


def _with_options(schema: Any, is_whitespace_flexible: bool, field: str) -> dict[str, Any]:
    """A schema that says how white space is to be written, and that nothing of it may be left out."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ApiError(INVALID_VALUE, f"{field}: a JSON schema must be an object", field)
    options = {"whitespace_flexible": is_whitespace_flexible, "lenient": False, "coerce_one_of": False}
    return {**schema, "x-guidance": options}


def _choices(body: str, field: str) -> list[str]:
    try:
        choices = msgspec.json.decode(body, type=list[str])
    except (msgspec.MsgspecError, RecursionError):
        raise ApiError(INVALID_VALUE, f"{field}: the choices must be a list of strings", field) from None
    if not 1 <= len(choices) <= MAX_CHOICES or not all(choices):
        raise ApiError(INVALID_VALUE, f"{field} must have 1 to {MAX_CHOICES} choices, none of them empty", field)
    return choices


def _lark(body: str, field: str, untrusted: Untrusted) -> str:
    """Lark as it is; GBNF (`root ::= ...`) converted."""
    if "::=" not in body:
        return body
    outcome = untrusted.run(Program("gbnf", body))
    if outcome.result != "ok":
        raise _unusable(field, outcome.text)
    return outcome.text


def _unusable(field: str, problem: str) -> ApiError:
    """The answer to a grammar that llguidance refuses, whose problem names a part of the client's own text."""
    unimplemented = _UNIMPLEMENTED.search(problem)
    if unimplemented:
        names = ", ".join(msgspec.json.decode(unimplemented[1], type=list[str]))
        return ApiError(UNSUPPORTED_VALUE, f"{field}: the schema uses {echo(names)}, which is not supported", field)
    if "oneOf" in problem:
        message = f"{field}: the schema uses oneOf with alternatives that overlap, which is not supported; use anyOf"
        return ApiError(UNSUPPORTED_VALUE, message, field)
    if "look-around" in problem or "lookaround" in problem:
        message = f"{field}: look-around in regular expressions is not supported"
        return ApiError(UNSUPPORTED_VALUE, message, field)
    return ApiError(INVALID_VALUE, f"{field} cannot be followed: {problem}", field)


class Constraints:
    """Grammars of one checkpoint's constraints, with those that were checked lately. Thread-safe."""

    def __init__(
        self, special_ids: Mapping[str, int], untrusted: Untrusted, most: Mapping[str, int] = MAX_BYTES
    ) -> None:
        self._special_ids = special_ids
        self._most = most
        self._untrusted = untrusted
        self._checked: ByteLru[str] = ByteLru(MAX_CACHED_BYTES)
        self._lock = threading.Lock()

    def is_known(self, constraint: Constraint) -> bool:
        """Whether `grammar` has its answer at hand."""
        with self._lock:
            return self._checked.get(_key(constraint)) is not None

    def grammar(self, constraint: Constraint) -> Grammar:
        """Raises ApiError (400), naming what cannot be followed. May wait for the helper process."""
        key = _key(constraint)
        with self._lock:
            text = self._checked.get(key)
        if text is None:
            text = grammar_text(constraint, self._special_ids, self._untrusted, self._most)
            outcome = self._untrusted.run(Program("constraint", text))
            if outcome.result != "ok":
                raise _unusable(constraint.field, outcome.text)
            with self._lock:
                self._checked.put(key, text, len(text.encode()))
        return Grammar(text, constraint.field, constraint.after)


def _key(constraint: Constraint) -> bytes:
    parts = (constraint.kind, constraint.body, constraint.is_whitespace_flexible)
    return blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()
