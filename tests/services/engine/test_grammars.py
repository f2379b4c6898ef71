"""Answers with a grammar: tokens drawn at random among those allowed make valid texts, however they are run."""

from __future__ import annotations

import json
import re
import threading

import jsonschema
import msgspec
import pytest
from engine_under_test import ids_bytes, submit
from guided_engine import EOS, GuidedEngine, constrained, table, tokenizer
from schemas import HAND_WRITTEN, closed, drawn

from quire.services.engine.grammars import GrammarError, Grammars, Guides
from quire.shared.messages import Constraint, Grammar, History

SCHEMAS = [*HAND_WRITTEN, *drawn(300)]
PERSON = closed(name={"type": "string", "maxLength": 8}, age={"type": "integer", "minimum": 0, "maximum": 99})


def of_schema(schema, **options) -> Constraint:
    return Constraint("json", json.dumps(schema), **options)


def text_of(answer) -> str:
    return tokenizer().decode(answer.token_ids, skip_special_tokens=True)


def run(*requests, **settings):
    engine = GuidedEngine(**settings)
    for request in requests:
        engine.add(request)
    return engine.run(8000)


def test_339_schemas_give_valid_instances_only():
    requests = [
        constrained(submit(number, range(20, 30), 500, seed=number, temperature=1.0), of_schema(schema))
        for number, schema in enumerate(SCHEMAS)
    ]
    answers = run(*requests)
    assert len(SCHEMAS) >= 300
    for number, schema in enumerate(SCHEMAS):
        answer = answers[number, 0]
        text = text_of(answer)
        assert [end.reason for end in answer.finished] == ["stop"], (schema, text, answer.finished)
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_compact_json_has_no_white_space_between_its_parts_and_flexible_json_may():
    schema = closed(a={"type": "array", "items": {"const": 1}, "minItems": 3, "maxItems": 3}, b={"const": 2})
    (compact,) = run(constrained(submit(1, [5], 200), of_schema(schema))).values()
    assert text_of(compact) == '{"a":[1,1,1],"b":2}'
    request = constrained(submit(1, [5], 800, seed=3, temperature=1.0), of_schema(schema, is_whitespace_flexible=True))
    (flexible,) = run(request).values()
    assert len(text_of(flexible)) > len(text_of(compact))


@pytest.mark.parametrize(
    "pattern", [r"[0-9]{3}-[a-z]{2}", "(ja|nein|vielleicht)", "é{2}|日本", r"\d{1,3}(\.\d{1,3}){3}", "^a/b$", "x y"]
)
def test_a_regex_is_matched_as_a_whole(pattern):
    requests = [
        constrained(submit(number, [9, 8], 100, seed=number, temperature=1.0), Constraint("regex", pattern))
        for number in range(5)
    ]
    for answer in run(*requests).values():
        assert re.fullmatch(pattern, text_of(answer)) and answer.finished[0].reason == "stop"


def test_a_choice_is_one_of_the_strings():
    choices = ["red", "green", "red wine", 'a "quoted" one', "日本", "line\nbreak", "\\"]
    constraint = Constraint("choice", json.dumps(choices))
    requests = [constrained(submit(n, [9, 8], 50, seed=n, temperature=1.0), constraint) for n in range(30)]
    texts = {text_of(answer) for answer in run(*requests).values()}
    assert texts <= set(choices) and len(texts) > 2


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "f(" ARG ("," ARG)* ")"\nARG: /[a-z]{1,3}/',
        'root ::= "f(" arg ("," arg)* ")"\narg ::= [a-z] | [a-z] [a-z] | [a-z] [a-z] [a-z]',
    ],
    ids=["Lark", "GBNF"],
)
def test_a_grammar_is_followed(grammar):
    request = submit(1, [9, 8], 400, n=3, seed=5, temperature=1.0)
    answers = run(constrained(request, Constraint("grammar", grammar)))
    assert len(answers) == 3
    for answer in answers.values():
        assert re.fullmatch(r"f\([a-z]{1,3}(,[a-z]{1,3})*\)", text_of(answer))


REQUESTS = [
    constrained(submit(n, range(30, 38 + n), 60, n=1 + n % 3, seed=n, temperature=1.0), of_schema(schema))
    for n, schema in enumerate([PERSON, *HAND_WRITTEN[6:12], closed(x=PERSON, y=PERSON)])
] + [submit(50, range(40, 60), 40, seed=1, temperature=1.0)]


def as_ids(answers) -> dict:
    return {key: (answer.token_ids, answer.finished[0].reason) for key, answer in answers.items()}


def test_one_step_ahead_preempted_and_batched_give_the_tokens_of_one_at_a_time():
    alone = {}
    for request in REQUESTS:
        alone |= as_ids(run(request, depth=1, prefix_caching=False))
    assert as_ids(run(*REQUESTS, depth=1)) == alone
    assert as_ids(run(*REQUESTS, depth=2)) == alone
    tight = GuidedEngine(num_blocks=34, max_num_seqs=6, depth=2, max_model_len=128)
    for request in REQUESTS:
        tight.add(request)
    assert as_ids(tight.run(8000)) == alone
    assert tight.scheduler.num_preemptions > 0


def test_a_resumed_choice_goes_on_in_its_grammar_from_any_token():
    request = constrained(submit(1, range(30, 40), 60, seed=4, temperature=1.0), of_schema(PERSON))
    ((whole, reason),) = as_ids(run(request)).values()
    for count in range(len(whole) + 1):
        history = [History(ids_bytes(whole[:count]), 0)]
        (resumed,) = run(msgspec.structs.replace(request, history=history)).values()
        assert (resumed.token_ids, resumed.finished[0].reason) == (whole[count:], reason)


def test_a_complete_grammar_ends_its_choice_without_eos_and_within_max_tokens():
    request = constrained(
        submit(1, [7], 3, seed=1, temperature=1.0, ignore_eos=True, min_tokens=3), Constraint("choice", '["{"]')
    )
    (answer,) = run(request).values()
    assert (text_of(answer), answer.finished[0].reason, EOS in answer.token_ids) == ("{", "stop", False)


def test_what_max_tokens_cuts_off_ends_with_length():
    (answer,) = run(constrained(submit(1, [7], 4, seed=1), of_schema(PERSON))).values()
    assert (len(answer.token_ids), answer.finished[0].reason) == (4, "length")


def test_the_constraint_begins_behind_its_marker():
    marker = tokenizer().decode([300])
    history = [History(ids_bytes([400, 500, 600]), 0)]
    free = constrained(submit(1, [7], 10, seed=1, temperature=1.0, history=history), of_schema(PERSON, after=marker))
    (unbound,) = run(free).values()
    begun = [History(ids_bytes([400, 500, 300]), 0)]
    (bound,) = run(msgspec.structs.replace(free, history=begun)).values()
    assert text_of(bound).startswith('{"name":"') and not text_of(unbound).startswith('{"')


def test_a_choice_without_an_allowed_token_ends_with_an_error_and_the_others_go_on():
    allowed = constrained(submit(1, [7], 10, allowed_token_ids=[700, 701]), of_schema(PERSON))
    other = constrained(submit(2, [7], 80, seed=3, temperature=1.0), of_schema(PERSON))
    answers = run(allowed, other)
    assert answers[1, 0].finished[0].reason == "error" and "allowed_token_ids" in answers[1, 0].finished[0].message
    jsonschema.validate(json.loads(text_of(answers[2, 0])), PERSON)


def test_a_token_against_the_grammar_ends_the_choice_with_an_error():
    guide = Guides(table().compiled(_grammar("ab")), _grammar("ab"), table(), submit(1, [7])).of(0)
    guide.advance(tokenizer().encode_texts(["z"], False)[0][0])
    assert guide.error == "the answer could not go on as structured_outputs demands" and not guide.is_complete


def _grammar(regex: str) -> Grammar:
    return Grammar(json.dumps({"grammars": [{"lark_grammar": f"start: /{regex}/"}]}), "structured_outputs")


def test_the_engine_refuses_what_it_cannot_follow():
    with pytest.raises(GrammarError, match="structured_outputs cannot be followed"):
        table().compiled(_grammar("("))


def test_where_only_the_empty_text_is_allowed_eos_is_sampled():
    request = msgspec.structs.replace(submit(1, [7], 9), grammar=_grammar("a{0}"))
    (answer,) = run(request).values()
    assert (answer.token_ids, answer.finished[0].reason) == ([EOS], "stop")


def test_without_a_vocabulary_a_grammar_is_refused_with_a_sentence():
    outcomes = []
    grammars = Grammars()
    grammars.configure(2048, [EOS])
    grammars._run(lambda: None)
    request = msgspec.structs.replace(submit(1, [7]), grammar=_grammar("a"))
    done = threading.Event()
    grammars.prepare(request, lambda outcome: (outcomes.append(outcome), done.set()))
    assert done.wait(30)
    assert isinstance(outcomes[0], GrammarError) and outcomes[0].field == "structured_outputs"


def test_compiled_grammars_are_kept_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr("quire.services.engine.grammars.MAX_CACHED_BYTES", 700_000)
    kept = table()
    first = kept.compiled(_grammar("first"))
    assert kept.compiled(_grammar("first")) is first
    for number in range(4):
        kept.compiled(_grammar(f"other{number}"))
    assert kept.compiled(_grammar("first")) is not first
