"""Constraints as grammars: every kind, refusals by name, special tokens by id, structural tags."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from llguidance import LLMatcher, LLTokenizer

from quire.services.tokenizer.constraints import MAX_BYTES, Constraints
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.services.tokenizer.untrusted import Untrusted
from quire.shared.errors import ApiError
from quire.shared.messages import Constraint
from quire.shared.model_files import DEMO_MODEL


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(DEMO_MODEL))


@pytest.fixture(scope="module")
def constraints(tokenizer: TextTokenizer) -> Iterator[Constraints]:
    untrusted = Untrusted()
    yield Constraints(tokenizer.special_token_ids, untrusted)
    untrusted.close()


@pytest.fixture(scope="module")
def table(tokenizer: TextTokenizer) -> LLTokenizer:
    return LLTokenizer(tokenizer.to_json().decode(), n_vocab=2048, eos_token=[2])


def refusal(constraints: Constraints, constraint: Constraint) -> ApiError:
    with pytest.raises(ApiError) as caught:
        constraints.grammar(constraint)
    assert caught.value.status == 400 and caught.value.param == constraint.field
    return caught.value


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {}}, "if, then"),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf with alternatives that overlap"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "strin"}, "Invalid type: strin"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"$ref": "http://example.com/schema"}, "example.com/schema"),
        ({"type": "string", "format": "no-format"}, "Unknown format: no-format"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "minimum (5) is greater than maximum (2)"),
        ({"x-guidance": {"lenient": True}, "properties": {"a": {"uniqueItems": True}}}, "uniqueItems"),
        (5, "must be an object"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_followed_is_refused_by_the_name_of_what_cannot(constraints, schema, words) -> None:
    error = refusal(constraints, Constraint("json", json.dumps(schema), "response_format"))
    assert words in error.message and error.message.startswith("response_format")


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("regex", "(", "cannot be followed"),
        ("regex", r"a(?!b)", "look-around"),
        ("regex", r"(a)\1", "cannot be followed"),
        ("regex", "a" * (MAX_BYTES["regex"] + 1), "4097 bytes of regex; 1 to 4096"),
        ("regex", "", "0 bytes of regex"),
        ("choice", "[]", "1 to 1024 choices"),
        ("choice", '["a", ""]', "none of them empty"),
        ("choice", "5", "a list of strings"),
        ("json", "{", "not valid JSON"),
        ("grammar", 'start: missing "a"', "missing"),
        ("grammar", 'begin: "a"', "no start rule"),
        ("grammar", "root ::= (", "cannot be followed"),
        ("structural_tag", "[]", "must be a JSON object"),
        ("structural_tag", "{}", "`structures` and `triggers`"),
        ("structural_tag", '{"format": {"type": "qwen_xml_parameter"}}', "qwen_xml_parameter is not supported"),
        ("structural_tag", '{"format": {"type": "sequence", "elements": []}}', "a list in elements"),
        ("structural_tag", '{"format": {"type": "const_string"}}', "a text in value"),
        ("color", "red", "not known"),
    ],
)
def test_what_is_wrong_with_a_constraint_is_said_in_a_sentence(constraints, kind, body, words) -> None:
    assert words in refusal(constraints, Constraint(kind, body)).message


def test_a_schema_of_64_kib_is_taken_and_one_more_byte_is_not(constraints) -> None:
    start, end = '{"enum":["', '"]}'
    fitting = start + "x" * (MAX_BYTES["json"] - len(start + end)) + end
    assert constraints.grammar(Constraint("json", fitting)).text
    assert "65537 bytes" in refusal(constraints, Constraint("json", fitting.replace("x", "xx", 1))).message


def test_a_checked_constraint_is_known_and_needs_no_helper(constraints) -> None:
    constraint = Constraint("regex", "known[0-9]")
    assert not constraints.is_known(constraint)
    first = constraints.grammar(constraint)
    assert constraints.is_known(constraint)
    assert constraints.grammar(Constraint("regex", "known[0-9]", "guided_regex", after="</think>")).text == first.text


def accepts(table: LLTokenizer, tokenizer: TextTokenizer, grammar: str, text: str) -> bool:
    """Whether a text is complete in a grammar; <|im_start|> in it is the special token."""
    ids: list[int] = []
    for number, part in enumerate(text.split("<|im_start|>")):
        ids += [tokenizer.special_token_ids["<|im_start|>"]] * bool(number)
        ids += tokenizer.encode_texts([part], False)[0] if part else []
    matcher = LLMatcher(table, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


NUMBER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 0, "maximum": 99}}
CALL_A = {"type": "tag", "begin": "<call>a:", "content": NUMBER, "end": "</call>"}
CALL_B = {"type": "tag", "begin": "<call>b:", "content": {"type": "const_string", "value": "x"}, "end": "</call>"}


@pytest.mark.parametrize(
    ("tree", "right", "wrong"),
    [
        ({"type": "const_string", "value": 'say "é\\"'}, ['say "é\\"'], ["say", ""]),
        ({"type": "regex", "pattern": "a/b+"}, ["a/b", "a/bb"], ["a"]),
        ({"type": "grammar", "grammar": 'start: "x" | "y"'}, ["x", "y"], ["z"]),
        ({"type": "any_text"}, ["", "whatever\nit is"], []),
        ({"type": "any_text", "excludes": ["<x>", "?"]}, ["", "a <x b\n>"], ["a <x> b", "what?"]),
        ({"type": "regex", "pattern": "[a-c]{1,3}", "excludes": ["bb"]}, ["a", "bab"], ["abb", "abab", ""]),
        ({"type": "const_string", "value": ""}, [""], ["x"]),
        (
            {"type": "tag", "begin": "<v>\n", "content": {"type": "any_text", "excludes": ["</v>", "<v>"]},
             "end": "\n</v>\n"},
            ["<v>\n\n</v>\n", "<v>\na < b\n\n</v>\n"], ["<v>\na</v>\n</v>\n", "<v>\na <v>\n</v>\n", "<v>\na</v>\n"],
        ),
        (
            {"type": "tag", "begin": "(", "content": {"type": "regex", "pattern": "(.|\n){2,3}", "excludes": ["x"]},
             "end": ")"},
            ["(ab)", "(a\nb)", "(a))"], ["(a)", "(abcd)", "(ax)"],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<call>"], "tags": [CALL_A], "excludes": ["<other>"],
             "stop_after_first": True},
            ["text", "so <call>a:5</call>", "<other"], ["so <other>", "<other> <call>a:5</call>", "so <call>"],
        ),
        ({"type": "sequence", "elements": [NUMBER, {"type": "const_string", "value": "!"}]}, ["7!", "42!"], ["7", "!"]),
        ({"type": "or", "elements": [NUMBER, {"type": "const_string", "value": "no"}]}, ["7", "no"], ["yes"]),
        ({"type": "optional", "content": NUMBER}, ["", "5"], ["5 5"]),
        ({"type": "star", "content": CALL_B}, ["", "<call>b:x</call>" * 2], ["<call>b:x"]),
        ({"type": "plus", "content": CALL_B}, ["<call>b:x</call>"], [""]),
        (
            {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"},
            ["<t>a < b</t>"], ["<t>a</t>b"],
        ),
        (
            {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "}\n<|im_start|>"},
            ['<t>{"a": {\n}\n}\n<|im_start|>'], ["<t>{}<|im_start|>", "<t>}\n"],
        ),
        ({"type": "tag", "begin": "<|im_start|>", "content": NUMBER, "end": ""}, ["<|im_start|>12"], ["12"]),
        (
            {"type": "triggered_tags", "triggers": ["<call>"], "tags": [CALL_A, CALL_B]},
            ["no call", "", "so <call>a:5</call> and <call>b:x</call>.", "a < b"],
            ["<call>c:1</call>", "<call>a:x</call>"],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<call>"], "tags": [CALL_A], "at_least_one": True,
             "stop_after_first": True},
            ["<call>a:5</call>", "so <call>a:5</call>"], ["none", "<call>a:5</call> more"],
        ),
        (
            {"type": "tags_with_separator", "tags": [CALL_A, CALL_B], "separator": "\n", "at_least_one": True},
            ["<call>a:5</call>", "<call>b:x</call>\n<call>a:5</call>"], ["", "<call>a:5</call>\n"],
        ),
        (
            {"type": "tags_with_separator", "tags": [CALL_A], "separator": "", "at_least_one": True,
             "stop_after_first": True},
            ["<call>a:5</call>"], ["", "<call>a:5</call><call>a:5</call>"],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<|im_start|>"],
             "tags": [{"type": "tag", "begin": "<|im_start|>n", "content": NUMBER, "end": ""}]},
            ["text", "text<|im_start|>n12"], ["text<|im_start|>x"],
        ),
    ],
)  # fmt: skip
def test_a_structural_tag_takes_what_it_says_and_nothing_else(
    constraints, table, tokenizer, tree, right, wrong
) -> None:
    grammar = constraints.grammar(Constraint("structural_tag", json.dumps({"format": tree}))).text
    assert [text for text in right if not accepts(table, tokenizer, grammar, text)] == []
    assert [text for text in wrong if accepts(table, tokenizer, grammar, text)] == []


def test_the_older_form_of_structural_tags_is_triggered_tags(constraints, table, tokenizer) -> None:
    body = {"triggers": ["<f="], "structures": [{"begin": "<f=a>", "schema": {"enum": [1]}, "end": "</f>"}]}
    grammar = constraints.grammar(Constraint("structural_tag", json.dumps(body))).text
    assert accepts(table, tokenizer, grammar, "then <f=a>1</f> done")
    assert not accepts(table, tokenizer, grammar, "then <f=a>2</f>")


def test_the_vocabulary_is_the_file_itself_unless_the_tokenizer_was_converted(tokenizer) -> None:
    assert tokenizer.to_json() == (DEMO_MODEL / "tokenizer.json").read_bytes()
