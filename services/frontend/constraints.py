"""What an answer must be: response_format, structured_outputs and the older guided_* fields, as one Constraint.

Between protocol.py and the tokenizer, which checks whether the schema or grammar itself can be followed.
A field that is there is never ignored. Knows no grammar.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.errors import INVALID_TYPE, INVALID_VALUE, MISSING_PARAMETER, ApiError, echo
from quire.shared.messages import Constraint

from .constraint_fields import ResponseFormat, StructuredOutputs
from .protocol import GenerationRequest, decode_part, json_of, unsupported

ANY_OBJECT = '{"type":"object"}'


def constraint_of(request: GenerationRequest) -> Constraint | None:
    """The one constraint of a request, or None. Raises ApiError."""
    guided = (
        _json(request.guided_json, "guided_json"),
        _text("regex", request.guided_regex, "guided_regex"),
        _choice(request.guided_choice, "guided_choice"),
        _text("grammar", request.guided_grammar, "guided_grammar"),
    )
    asked, outputs = request.response_format, request.structured_outputs
    found = [
        constraint
        for constraint in (
            None if asked is None else _of_response_format(asked),
            None if outputs is None else _of_structured_outputs(outputs),
            *guided,
        )
        if constraint is not None
    ]
    if len(found) > 1:
        names = " and ".join(constraint.field for constraint in found)
        raise ApiError(INVALID_VALUE, f"{names} cannot both be given: an answer has one constraint.", found[1].field)
    return found[0] if found else None


def _of_response_format(asked: ResponseFormat) -> Constraint | None:
    field = "response_format"
    match asked.type:
        case "text":
            return None
        case "json_object":
            return _json(asked.schema, field) or Constraint("json", ANY_OBJECT, field)
        case "json_schema":
            schema = None if asked.json_schema is None else _json(asked.json_schema.schema, field)
            if schema is None:
                where = f"{field}.json_schema" + ("" if asked.json_schema is None else ".schema")
                raise ApiError(MISSING_PARAMETER, f"{where} is required.", where)
            return schema
        case "structural_tag":
            parts = {name: getattr(asked, name) for name in ("format", "structures", "triggers")}
            given = {name: msgspec.Raw(json_of(raw)) for name, raw in parts.items() if json_of(raw)}
            return Constraint("structural_tag", msgspec.json.encode(given).decode(), field)
        case other:
            message = f"{field}.type must be text, json_object, json_schema or structural_tag, got {echo(other)!r}."
            raise ApiError(INVALID_VALUE, message, f"{field}.type")


def _of_structured_outputs(asked: StructuredOutputs) -> Constraint | None:
    field = "structured_outputs"
    if asked.whitespace_pattern is not None:
        raise unsupported(f"{field}.whitespace_pattern")
    if asked.disable_additional_properties:
        raise unsupported(f"{field}.disable_additional_properties", "(set additionalProperties: false in the schema)")
    found = [
        constraint
        for constraint in (
            _json(asked.json, field),
            Constraint("json", ANY_OBJECT, field) if asked.json_object else None,
            _text("regex", asked.regex, field),
            _choice(asked.choice, field),
            _text("grammar", asked.grammar, field),
            _structural_tag(asked.structural_tag, field),
        )
        if constraint is not None
    ]
    if len(found) != 1:
        message = (
            f"{field} needs exactly one of json, json_object, regex, choice, grammar and structural_tag,"
            f" and has {len(found)}."
        )
        raise ApiError(INVALID_VALUE, message, field)
    return msgspec.structs.replace(found[0], is_whitespace_flexible=asked.disable_any_whitespace is False)


def _text(kind: str, body: str | None, field: str) -> Constraint | None:
    return None if body is None else Constraint(kind, body, field)


def _choice(choices: list[str] | None, field: str) -> Constraint | None:
    return None if choices is None else Constraint("choice", msgspec.json.encode(choices).decode(), field)


def _json(schema: msgspec.Raw, field: str) -> Constraint | None:
    return _of_object("json", schema, field)


def _structural_tag(tag: msgspec.Raw, field: str) -> Constraint | None:
    return _of_object("structural_tag", tag, field)


def _of_object(kind: str, raw: msgspec.Raw, field: str) -> Constraint | None:
    """JSON of an object (a schema may also be true), which some clients send as a string."""
    text = json_of(raw)
    if not text:
        return None
    value: Any = decode_part(text, Any, field)
    if not isinstance(value, str | dict) and value is not True:
        raise ApiError(INVALID_TYPE, f"{field}: a JSON object is expected.", field)
    return Constraint(kind, value if isinstance(value, str) else text.decode(), field)
