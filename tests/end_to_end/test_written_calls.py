"""Calls that must be made, in every family's form, drawn at random under their grammar: all are read as calls again.

Every token that the grammar allows is as likely as any other, as a model of random weights has it. The markers of a
family are special tokens, or written in ordinary ones, as checkpoints differ in that.
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import AddedToken, Tokenizer

from quire.services.engine.grammars import Facts, Table
from quire.services.frontend.call_constraints import call_constraint, written_format
from quire.services.frontend.chat_tools import ToolFunction, ToolUse
from quire.services.frontend.output_events import Text, ToolArgs, ToolStart
from quire.services.frontend.output_machine import machine
from quire.services.frontend.output_parser import OutputParser
from quire.services.frontend.protocol import ApiError
from quire.services.tokenizer.constraints import grammar_text
from quire.services.tokenizer.untrusted import Untrusted
from quire.shared.messages import Constraint, Grammar
from quire.shared.model_files import DEMO_MODEL
from quire.shared.output_formats import TOOL_FORMATS

EOS = 2
MOST_TOKENS = 1500
DEEP = {
    "type": "object",
    "properties": {
        "x": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2},
        "s": {"type": "string", "maxLength": 4},
    },
    "required": ["x"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "units": {"enum": ["c", "f"]},
            "city": {"type": "string", "minLength": 1, "maxLength": 6},
            "days": {"type": "integer", "minimum": 0, "maximum": 9},
            "deep": {"$ref": "#/$defs/deep"},
            "is_long": {"type": "boolean"},
            "either": {"type": ["string", "null"], "maxLength": 3},
        },
        "required": ["city", "deep"],
        "additionalProperties": False,
        "$defs": {"deep": DEEP},
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
    "note": {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "number", "minimum": 0, "maximum": 2}},
        "additionalProperties": False,
    },
}
KINDS = ("special", "ordinary")
# Text drawn at random never spells the end of a harmony message.
FORMS = [(name, kind) for name in TOOL_FORMATS for kind in KINDS if (name, kind) != ("harmony", "ordinary")]


def use(choice: str, name: str = "", is_parallel: bool = True, strict: bool | None = None) -> ToolUse:
    functions = [ToolFunction(one, parameters=schema, strict=strict) for one, schema in SCHEMAS.items()]
    return ToolUse(functions, choice, name, is_parallel)


class Model(NamedTuple):
    tokenizer: Tokenizer
    table: Table
    special_ids: dict[str, int]
    size: int


@functools.cache
def model(tool_format: str, kind: str) -> Model:
    """The demo model's tokenizer, with the markers of a family as special tokens, or without any."""
    written = json.loads((DEMO_MODEL / "tokenizer.json").read_text())
    written["added_tokens"] = [one for one in written["added_tokens"] if "tool_call" not in one["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    if kind == "special":
        markers = machine(tool_format, tool_format).markers
        wanted = [one for one in markers if one[0] + one[-1] in ("<>", "[]")]
        tokenizer.add_special_tokens([AddedToken(one, special=True) for one in wanted])
    special_ids = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    size = tokenizer.get_vocab_size()
    return Model(tokenizer, Table(tokenizer.to_str().encode(), Facts(size, (EOS,))), special_ids, size)


def matcher_of(of: Model, constraint: Constraint | None) -> LLMatcher:
    assert constraint is not None
    text = grammar_text(constraint, of.special_ids, Untrusted())
    return of.table.compiled(Grammar(text, constraint.field)).deep_copy()


def draw(of: Model, matcher: LLMatcher, generator: random.Random, begin: str = "") -> str:
    """To the end of the grammar; where an answer may end, or a message of it, it often does."""
    ids = of.tokenizer.encode(begin, add_special_tokens=False).ids if begin else []
    for token in ids:
        assert matcher.consume_token(token), f"{begin!r} cannot begin an answer"
    ends = set(of.special_ids.values()) | {EOS}
    while not matcher.is_stopped():
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: of.size]).tolist()
        ending = [token for token in allowed if token in ends]
        token = generator.choice(ending if ending and generator.random() < 0.3 else allowed)
        matcher.consume_token(token)
        ids.append(token)
        assert len(ids) < MOST_TOKENS
    assert not matcher.is_error(), matcher.get_error()
    return b"".join(of.table.text_of(token) for token in ids if token != EOS).decode()


def parse(tool_format: str, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Text and calls."""
    reasoning = "harmony" if tool_format == "harmony" else ""
    parser = OutputParser(machine(tool_format, reasoning), False, SCHEMAS)
    text, calls = "", []
    for event in [event for piece in pieces for event in parser.feed(piece)] + parser.finish("stop"):
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, ToolStart):
            calls.append([event.name, ""])
        elif isinstance(event, ToolArgs):
            calls[event.index][1] += event.text
    return text, [(name, arguments) for name, arguments in calls]


def expect_valid(written: str, calls: list[tuple[str, str]]) -> None:
    assert calls, written
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize(("tool_format", "kind"), FORMS)
def test_forced_calls_are_read_as_calls_with_valid_arguments_wherever_they_are_cut(tool_format: str, kind: str):
    of, generator = model(tool_format, kind), random.Random(1)
    assert written_format(tool_format, use("required")) == tool_format
    counts = set()
    for number in range(6):
        written = draw(of, matcher_of(of, call_constraint(tool_format, use("required"))), generator)
        text, calls = parse(tool_format, [written])
        expect_valid(written, calls)
        assert tool_format == "harmony" or not text, written
        counts.add(len(calls))
        for cut in range(len(written) + 1) if number < 2 else ():
            assert parse(tool_format, [written[:cut], written[cut:]]) == (text, calls), written[:cut]
    assert max(counts) > 1 or TOOL_FORMATS[tool_format].section is None


@pytest.mark.parametrize(("tool_format", "kind"), FORMS)
def test_one_call_is_one_call(tool_format: str, kind: str):
    of, generator = model(tool_format, kind), random.Random(2)
    for one in (use("named", "note"), use("required", is_parallel=False)):
        for _ in range(3):
            written = draw(of, matcher_of(of, call_constraint(tool_format, one)), generator)
            (call,) = parse(tool_format, [written])[1]
            expect_valid(written, [call])
            assert one.choice == "required" or call[0] == "note"


@pytest.mark.parametrize(("tool_format", "kind"), FORMS)
def test_where_calls_are_strict_whatever_begins_as_one_is_one(tool_format: str, kind: str):
    of, generator, tools = model(tool_format, kind), random.Random(3), TOOL_FORMATS[tool_format]
    begins = ["", *tools.leads, *(["Well, " + next(iter(tools.opens))] if not tools.leads and tools.opens else [])]
    if tool_format == "harmony":
        begins = ["<|channel|>commentary to=functions.", "<|channel|>analysis<|message|>hm<|end|>"]
    for begin in begins:
        for _ in range(3):
            matcher = matcher_of(of, call_constraint(tool_format, use("auto", strict=True)))
            written = draw(of, matcher, generator, begin)
            _, calls = parse(tool_format, [written])
            if begin and "analysis" not in begin:
                assert calls, written
            for name, arguments in calls:
                jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("tool_format", ["qwen3_coder", "glm", "pythonic"])
def test_what_a_form_cannot_hold_to_is_forced_in_another_and_refused_where_it_is_strict(tool_format: str):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "minProperties": 1}
    function = ToolFunction("f", parameters=schema, strict=True)
    assert written_format(tool_format, ToolUse([function], "required")) == "hermes"
    with pytest.raises(ApiError, match="minProperties in the parameters of f"):
        call_constraint(tool_format, ToolUse([function], "auto"))
