"""The fields that say what an answer must be, as clients write them: response_format and structured_outputs.

Parts of a GenerationRequest (protocol.py); constraints.py makes one Constraint of them. Schemas and
grammars in them are looked into by the tokenizer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .bounds import Items, Json, Text

_ABSENT = msgspec.Raw()
Pattern = Annotated[str | None, Text(1, setting="max_regex_size")]
Choices = Annotated[list[str] | None, Items(1, 1024, Text(1, 1024))]
GrammarText = Annotated[str | None, Text(1, setting="max_schema_size")]
Schema = Annotated[msgspec.Raw, Json(setting="max_schema_size")]


class JsonSchema(msgspec.Struct):
    """The schema is always enforced: `strict` false asks for less than that."""

    name: Annotated[str | None, Text(0, 256)] = None
    description: Annotated[str | None, Text(0, 64 << 10)] = None
    schema: Schema = _ABSENT
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """text, json_object (maybe with `schema`), json_schema, or structural_tag with `format`, or with `structures` and
    `triggers`."""

    type: Annotated[str, Text(1, 64)]
    json_schema: JsonSchema | None = None
    schema: Schema = _ABSENT
    """Beside json_object, as llama.cpp has it: the object's."""
    format: Schema = _ABSENT
    structures: Schema = _ABSENT
    triggers: Schema = _ABSENT


class StructuredOutputs(msgspec.Struct):
    """vLLM's; exactly one of the first six is to be given."""

    json: Schema = _ABSENT
    json_object: bool | None = None
    regex: Pattern = None
    choice: Choices = None
    grammar: GrammarText = None
    structural_tag: Schema = _ABSENT
    disable_any_whitespace: bool | None = None
    """False: JSON with white space between its parts. Otherwise compact."""
    disable_additional_properties: bool | None = None
    whitespace_pattern: Annotated[str | None, Text(0, setting="max_regex_size")] = None
