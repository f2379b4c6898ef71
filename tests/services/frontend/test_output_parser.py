"""The output parser over transcripts of every family: what they say, and that no cut changes it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from output_corpus import CORPUS, SCHEMAS, Transcript

from quire.services.frontend.output_events import End, Event, Reasoning, Text, ToolArgs, ToolEnd, ToolStart
from quire.services.frontend.output_machine import machine
from quire.services.frontend.output_parser import OutputParser
from quire.services.frontend.tool_values import json_of_literal, json_of_text
from quire.shared.output_formats import REASONING_FORMATS, TOOL_FORMATS, reasoning_format_of, tool_format_of


def parser_of(one: Transcript) -> OutputParser:
    return OutputParser(machine(one.tools, one.reasoning), one.starts_inside, SCHEMAS)


def parse(one: Transcript, pieces: list[str], reason: str = "stop") -> list[Event]:
    parser = parser_of(one)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish(reason)


def fold(events: list[Event]) -> dict[str, Any]:
    """What a client would hold at the end; checks the order of events on the way."""
    reasoning, text, calls, open_call, ends = "", "", [], None, []
    for event in events:
        assert not ends, "nothing comes after the end"
        if isinstance(event, Reasoning):
            reasoning += event.text
        elif isinstance(event, Text):
            text += event.text
        elif isinstance(event, ToolStart):
            assert open_call is None and event.index == len(calls) and event.id
            open_call = event.index
            calls.append([event.name, ""])
        elif isinstance(event, ToolArgs):
            assert event.index == open_call and event.text
            calls[event.index][1] += event.text
        elif isinstance(event, ToolEnd):
            assert event.index == open_call
            open_call = None
        else:
            ends.append(event.reason)
    assert open_call is None and len(ends) == 1
    return {"reasoning": reasoning, "text": text, "calls": calls, "end": ends[0]}


@pytest.mark.parametrize("name", CORPUS)
def test_a_transcript_says_what_it_says(name: str) -> None:
    one = CORPUS[name]
    found = fold(parse(one, [one.written]))
    assert found["reasoning"] == one.thought
    assert found["text"] == one.text
    assert [(name, json.loads(arguments)) for name, arguments in found["calls"]] == one.calls
    assert found["end"] == ("tool_calls" if one.calls else "stop")


@pytest.mark.parametrize("name", CORPUS)
def test_no_cut_in_two_changes_what_is_found(name: str) -> None:
    one = CORPUS[name]
    whole = fold(parse(one, [one.written]))
    for cut in range(len(one.written) + 1):
        assert fold(parse(one, [one.written[:cut], one.written[cut:]])) == whole, f"cut at {cut}"
    assert fold(parse(one, list(one.written))) == whole


@pytest.mark.parametrize("name", CORPUS)
def test_random_cuts_change_nothing_and_neither_does_a_text_that_is_cut_short(name: str) -> None:
    one = CORPUS[name]
    rng = random.Random(name)
    for _ in range(40):
        text = one.written[: rng.randint(0, len(one.written))]
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(0, 8))))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for reason in ("stop", "length"):
            assert fold(parse(one, pieces, reason)) == fold(parse(one, [text], reason))


MARKERS = sorted({marker for one in CORPUS.values() for marker in machine(one.tools, one.reasoning).markers})
PIECES = st.one_of(
    st.sampled_from(
        [*MARKERS, "{", "}", "[", "]", '"', "\\", ",", ":", '"name": "f"', '"arguments": {', "f(", "a=1", ")", "\n"]
    ),
    st.text("ab <{\"'|\\", max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TOOL_FORMATS)), st.lists(PIECES, max_size=14), st.booleans(), st.randoms())
def test_no_text_whatever_depends_on_how_it_is_cut(tools: str, parts: list[str], inside: bool, rng: Any) -> None:
    reasoning = "harmony" if tools == "harmony" else "think"
    one = Transcript(tools, reasoning, inside, "".join(parts), "", "", [])
    cuts = sorted(rng.sample(range(len(one.written) + 1), min(len(one.written), 6)))
    pieces = [one.written[a:b] for a, b in zip([0, *cuts], [*cuts, len(one.written)], strict=True)]
    whole = fold(parse(one, [one.written]))
    assert fold(parse(one, pieces)) == whole
    assert fold(parse(one, list(one.written))) == whole


@pytest.mark.parametrize("name", ["hermes, two calls, after thinking", "deepseek_v31", "harmony"])
def test_json_arguments_go_out_character_by_character(name: str) -> None:
    parser = parser_of(CORPUS[name])
    pieces = [event.text for char in CORPUS[name].written for event in parser.feed(char) if isinstance(event, ToolArgs)]
    assert len(pieces) > 60 and max(map(len, pieces)) < 16


def test_parameters_go_out_one_by_one() -> None:
    parser = parser_of(CORPUS["qwen3_coder"])
    written = CORPUS["qwen3_coder"].written
    pieces = [event.text for char in written for event in parser.feed(char) if isinstance(event, ToolArgs)]
    assert pieces == ['{"city": "Paris"', ', "days": 3', ', "deep": {"a": [1, 2]}', "}", "{}"]


GROWING = {
    "text": lambda n: "some text, with < and { and spaces  \n" * n,
    "spaces": lambda n: " " * (20 * n) + "x",
    "thinking": lambda n: "<think>" + "so <tool_call> it </thin k " * n + "</think>x",
    "arguments": lambda n: '<tool_call>{"name": "f", "arguments": {"a": ["' + 'x\\"{}<' * n + '"]}}</tool_call>',
    "brackets": lambda n: '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * n + "]" * n + "}}</tool_call>",
    "calls": lambda n: '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n' * n,
    "no calls": lambda n: "<tool_call>x" * n,
    "half markers": lambda n: "<tool_cal" * n,
    "values": lambda n: "<function=f><parameter=a>" + "</para <" * n + "</parameter></function>",
    "python": lambda n: "[f(a='" + "(\\'[" * n + "')]",
}


@pytest.mark.parametrize("kind", GROWING)
@pytest.mark.parametrize("size", [1, 7, None])
def test_twice_the_text_takes_twice_the_steps(kind: str, size: int | None) -> None:
    def steps(n: int) -> int:
        text = GROWING[kind](n)
        tools = {"values": "qwen3_coder", "python": "pythonic"}.get(kind, "hermes")
        parser = OutputParser(machine(tools, "think"), False, SCHEMAS)
        for start in range(0, len(text), size or len(text)):
            parser.feed(text[start : start + (size or len(text))])
        parser.finish("stop")
        return parser.num_steps

    assert steps(400) <= 2.5 * steps(200)


@pytest.mark.parametrize("tools", ["", *TOOL_FORMATS])
@pytest.mark.parametrize("reasoning", ["", *REASONING_FORMATS])
def test_no_marker_of_a_state_begins_another(tools: str, reasoning: str) -> None:
    for name, stage in machine(tools, reasoning).stages.items():
        strings = stage.structure.strings
        clashes = [(a, b) for a in strings for b in strings if a != b and b.startswith(a)]
        assert not clashes, f"{name}: whether {clashes} is found would depend on the cut"
        assert set(stage.next.values()) <= {*machine(tools, reasoning).stages, "body", "+arguments"}


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{{ '<tool_call>\n' }}", "hermes", ""),
        ("<tool_call><function=x><parameter=y>", "qwen3_coder", ""),
        ("{%- set c = m.content.split('</think>')[-1] %}<tool_call>", "hermes", "think"),
        ("<tool_call>{name}<arg_key>k</arg_key> </think>", "glm", "think"),
        ("[TOOL_CALLS] [THINK] [/THINK]", "mistral", "mistral"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "harmony", "harmony"),
        ("<｜tool▁calls▁begin｜>```json", "deepseek_v3", ""),
        ("<｜tool▁calls▁begin｜></think>", "deepseek_v31", "think"),
        ("<|tool_calls_section_begin|>", "kimi_k2", ""),
        ('Respond in the format {"name": function name, "parameters": dictionary}', "llama3_json", ""),
        ("[func_name1(params_name1=params_value1)]", "pythonic", ""),
        ("{{ message.content }}", "", ""),
    ],
)
def test_the_template_tells_the_formats(template: str, tools: str, reasoning: str) -> None:
    assert (tool_format_of(template), reasoning_format_of(template)) == (tools, reasoning)


def test_ids_are_of_the_form_that_the_family_expects() -> None:
    def ids(name: str) -> list[str]:
        one = CORPUS[name]
        return [event.id for event in parse(one, [one.written]) if isinstance(event, ToolStart)]

    assert ids("kimi_k2, thinking not closed") == ["functions.weather:0", "functions.now:1"]
    assert all(len(one) == 9 and one.isalnum() for one in ids("mistral, names before arguments"))
    assert all(one.startswith("call_") and len(one) == 29 for one in ids("glm"))
    assert len({*ids("glm")}) == 2


def test_a_call_cut_by_max_tokens_ends_by_length_with_what_there_is() -> None:
    one = CORPUS["hermes"]
    found = fold(parse(one, [one.written[:80]], "length"))
    assert found["end"] == "length" and found["calls"][0][0] == "weather"
    assert json.dumps(one.calls[0][1]).startswith(found["calls"][0][1])
    assert isinstance(parse(one, ["x"], "length")[-1], End)


@pytest.mark.parametrize(
    ("written", "schema", "expected"),
    [
        ("3", {"type": "integer"}, 3),
        ("3", {"type": "string"}, "3"),
        ("3", None, 3),
        ("True", {"type": "boolean"}, True),
        ("None", None, None),
        ("abc", {"type": "integer"}, "abc"),
        ('{"a": 1}', {"type": "string"}, '{"a": 1}'),
        ("c", {"enum": ["c"]}, "c"),
        ("1e3", {"type": "number"}, 1000.0),
        ("[1", None, "[1"),
        ("\ud800", None, "?"),
    ],
)
def test_a_bare_value_is_read_as_the_schema_says(written: str, schema: Any, expected: Any) -> None:
    assert json.loads(json_of_text(written, schema)) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'it\\'s\\n\\x41'", "it's\nA"),
        ('"\\ud800"', "\N{REPLACEMENT CHARACTER}"),
        ('"\\ud83d\\ude00 \\/"', "😀 /"),
        ("[1, 'a', (True, None)]", [1, "a", [True, None]]),
        ("{'a': {'b': []}}", {"a": {"b": []}}),
        ("-1.5e-3", -0.0015),
        ("f(1)", "f(1)"),
        ("{1: 2}", "{1: 2}"),
        ("[" * 99, "[" * 99),
        ("__import__('os')", "__import__('os')"),
        ("'a' 'b'", "'a' 'b'"),
        ("007", "007"),
    ],
)
def test_a_python_literal_becomes_json_and_nothing_is_run(written: str, expected: Any) -> None:
    assert json.loads(json_of_literal(written)) == expected
