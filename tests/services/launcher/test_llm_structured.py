"""Structured output of a whole chain on a model of random weights, at temperature 1: all of it is valid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import jsonschema
import pytest
from checkpoints import make_checkpoint
from schemas import HAND_WRITTEN, drawn

from quire.services.launcher.llm import LLM
from quire.services.launcher.offline_params import SamplingParams, StructuredOutputs

SCHEMAS = [*HAND_WRITTEN, *drawn(300)]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    # Of small weights: one that is all but sure of itself would write the digits of a number for ever.
    config = {"initializer_range": 0.02}
    folder = make_checkpoint("qwen3", tmp_path_factory.mktemp("random"), has_tokenizer=True, config=config)
    with LLM(folder, max_num_seqs=32, threads=1, kv_cache_memory=64 << 20) as loaded:
        yield loaded


def held_to(outputs: StructuredOutputs, seed: int, most: int = 480) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed, max_tokens=most, structured_outputs=outputs)


def test_a_model_that_knows_nothing_writes_valid_instances_of_every_schema(llm: LLM) -> None:
    params = [held_to(StructuredOutputs(json=schema), seed) for seed, schema in enumerate(SCHEMAS)]
    answers = llm.generate(["Answer: "] * len(SCHEMAS), params)
    for schema, answer in zip(SCHEMAS, answers, strict=True):
        assert (answer.error, answer.finish_reason) == ("", "stop"), (schema, answer.text)
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer.text))


@pytest.mark.parametrize("pattern", [r"[0-9]{4}-[0-9]{2}", r"(ab|cd){1,5}x?", r"[a-zé]{3,9} [A-Z]+!{2}", "да|нет"])
def test_it_matches_regular_expressions(llm: LLM, pattern: str) -> None:
    params = [held_to(StructuredOutputs(regex=pattern), seed, 200) for seed in range(12)]
    for answer in llm.generate(["Say "] * 12, params):
        whole = re.fullmatch(pattern, answer.text)
        assert whole if answer.finish_reason == "stop" else "+" in pattern, answer.text


def test_it_follows_grammars_and_choices(llm: LLM) -> None:
    lark = 'start: "(" NUMBER (OP NUMBER)? ")"\nNUMBER: /[0-9]{1,3}/\nOP: "+" | "-" | "*"'
    gbnf = 'root ::= "[" item ("," item)? "]"\nitem ::= "yes" | "no"'
    kinds = [
        (StructuredOutputs(grammar=lark), r"\(\d{1,3}([+*-]\d{1,3})?\)"),
        (StructuredOutputs(grammar=gbnf), r"\[(yes|no)(,(yes|no))?\]"),
        (StructuredOutputs(choice=["red", "green", "dark green"]), "red|green|dark green"),
    ]
    for outputs, pattern in kinds:
        for answer in llm.generate(["Say "] * 10, [held_to(outputs, seed, 60) for seed in range(10)]):
            assert answer.finish_reason == "stop" and re.fullmatch(pattern, answer.text), answer.text
