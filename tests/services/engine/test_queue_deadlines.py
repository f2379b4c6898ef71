"""Tests of how long a request may wait to run: it is refused while it waits, and never once it has begun."""

from __future__ import annotations

import msgspec
from engine_under_test import PEER, EngineUnderTest, submit

from quire.services.engine.queue_deadlines import overdue, refusal
from quire.shared.messages import History


def impatient(request_id: int, max_queue_seconds: float = 5.0, **fields):
    return msgspec.structs.replace(submit(request_id, range(10, 20), **fields), max_queue_seconds=max_queue_seconds)


def ids(requests) -> list[int]:
    return [request.submit.request_id for request in requests]


def test_what_waits_for_too_long_is_overdue_and_what_runs_is_not():
    engine = EngineUnderTest(max_num_seqs=1)
    for request in (impatient(1, max_tokens=50), impatient(2), impatient(3, 0.0), impatient(4, 60.0)):
        engine.add(request)
    engine.plan()
    assert ids(overdue(engine.scheduler, 4.9)) == []
    assert ids(overdue(engine.scheduler, 5.0)) == [2]
    assert ids(overdue(engine.scheduler, 1e9)) == [2, 4]


def test_what_goes_on_with_a_history_or_was_preempted_is_waited_for():
    engine = EngineUnderTest(max_num_seqs=1)
    engine.now = 1.0
    engine.add(impatient(1, max_tokens=50))
    engine.add(impatient(2, history=[History(b"\x05\0\0\0", 1)]))
    engine.plan()
    engine.scheduler._preempt(engine.scheduler.running[0])
    assert len(engine.scheduler.waiting) == 2
    assert ids(overdue(engine.scheduler, 1e9)) == []


def test_a_request_of_several_choices_is_overdue_once_and_leaves_nothing():
    engine = EngineUnderTest(max_num_seqs=1)
    engine.add(impatient(1, max_tokens=50))
    engine.add(impatient(2, n=3))
    engine.plan()
    (request,) = overdue(engine.scheduler, 6.0)
    answer = refusal(request)
    assert (answer.status, answer.code) == (503, "server_overloaded")
    assert "5 s" in answer.message and "--queue-timeout" in answer.message
    engine.abort(2)
    assert (PEER, 2) not in engine.scheduler.requests and len(engine.scheduler.waiting) == 0
