"""Suspects run alone, in their turn: who may join whom."""

from __future__ import annotations

import msgspec

from quire.services.engine.policy import precedence
from quire.services.engine.request import Choice, Request
from quire.services.engine.suspects import admissible

from .engine_under_test import PEER, EngineUnderTest, submit


def choices(*suspicions: bool, n: int = 1) -> list[Choice]:
    """`n` choices of a request each, in order of arrival; True: it is a suspect."""
    made = []
    for number, is_suspect in enumerate(suspicions):
        request = Request(PEER, msgspec.structs.replace(submit(number, [5], n=n), is_suspect=is_suspect), 0.0)
        made += [Choice(request, index, precedence(request, index, "fcfs"), b"") for index in range(n)]
    return made


def test_without_suspects_all_may_join():
    waiting = choices(False, False)
    assert admissible(waiting, choices(False)) == waiting


def test_a_suspect_waits_for_those_that_run_and_holds_up_those_after_it():
    first, suspect, _ = waiting = choices(False, True, False)
    assert admissible(waiting, choices(False)) == [first]
    assert admissible([suspect], choices(False)) == []


def test_a_suspect_with_nothing_beside_it_goes_alone_with_all_its_choices():
    waiting = choices(True, False, n=3)
    assert admissible(waiting, []) == waiting[:3]


def test_beside_a_running_suspect_only_its_own_choices_are_admitted():
    one, two, other, suspect, _ = choices(True, False, True, n=2)[:5]
    assert admissible([two, other, suspect], [one]) == [two]


def test_an_engine_runs_each_suspect_in_steps_of_its_own():
    engine = EngineUnderTest()
    suspicions = {1: False, 2: True, 3: True, 4: False}
    for number, is_suspect in suspicions.items():
        engine.add(msgspec.structs.replace(submit(number, [5, 6, 7], n=2, seed=number), is_suspect=is_suspect))
    answers = engine.run()
    for step in engine.steps:
        together = {row.choice.request.submit.request_id for row in step.rows}
        assert len(together) == 1 or not any(suspicions[number] for number in together)
    assert all(len(answers[number, index].token_ids) == 8 for number in suspicions for index in range(2))
