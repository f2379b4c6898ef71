"""response_format, structured_outputs and guided_*: one Constraint, or a refusal; never ignored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.services.frontend.chat_protocol import parse_chat
from quire.services.frontend.constraints import ANY_OBJECT, constraint_of
from quire.shared.errors import ApiError
from quire.shared.messages import Constraint

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
BODY = json.dumps(SCHEMA, separators=(",", ":"))


def constraint(**fields: Any) -> Constraint | None:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    return constraint_of(parse_chat(json.dumps(body, separators=(",", ":")).encode())[0])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": None, "guided_json": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json", ANY_OBJECT, "response_format")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            Constraint("json", BODY, "response_format"),
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
            Constraint("structural_tag", '{"format":{"type":"any_text"}}', "response_format"),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, Constraint("json", BODY)),
        ({"structured_outputs": {"json": BODY}}, Constraint("json", BODY)),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, Constraint("json", BODY)),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": False}},
            Constraint("json", BODY, is_whitespace_flexible=True),
        ),
        ({"structured_outputs": {"json_object": True}}, Constraint("json", ANY_OBJECT)),
        ({"structured_outputs": {"regex": "a+"}}, Constraint("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "é"]}}, Constraint("choice", '["a","é"]')),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint("grammar", 'start: "a"')),
        (
            {"structured_outputs": {"structural_tag": {"format": {}}}},
            Constraint("structural_tag", '{"format":{}}'),
        ),
        ({"guided_json": SCHEMA}, Constraint("json", BODY, "guided_json")),
        ({"guided_json": BODY, "guided_decoding_backend": "xgrammar"}, Constraint("json", BODY, "guided_json")),
        ({"guided_regex": "a"}, Constraint("regex", "a", "guided_regex")),
        ({"guided_choice": ["a"]}, Constraint("choice", '["a"]', "guided_choice")),
        ({"guided_grammar": "x"}, Constraint("grammar", "x", "guided_grammar")),
    ],
)  # fmt: skip
def test_every_way_of_asking_becomes_one_constraint(fields: dict[str, Any], expected: Constraint | None) -> None:
    assert constraint(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema", "required"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs", "has 2"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs", "JSON object"),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}},
         "structured_outputs.whitespace_pattern", ""),
        ({"structured_outputs": {"json": SCHEMA, "disable_additional_properties": True}},
         "structured_outputs.disable_additional_properties", "additionalProperties"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", ""),
        ({"structured_outputs": {"regex": "a" * 4097}}, "structured_outputs.regex", "4096"),
        ({"guided_json": [1]}, "guided_json", "JSON object"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex and guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "cannot both"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        constraint(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert words in caught.value.message
