"""The helper process is there before the first program, and costs nobody's time to get there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tokenizer_under_test import FakeEngine, TokenizerProcess

from quire.services.tokenizer.helper_ahead import HelperAhead
from quire.services.tokenizer.untrusted import Untrusted
from quire.shared.messages import Outcome


def due_at(ahead: HelperAhead, is_ready, num_requests, end: int = 100) -> list[int]:
    """The seconds at which it is due, of a server whose state is a function of the time."""
    return [now for now in range(1, end) if ahead.is_due(is_ready(now), num_requests(now), float(now))]


def test_it_is_due_once_when_a_ready_server_has_been_idle_for_a_while() -> None:
    assert due_at(HelperAhead(5.0), lambda now: now >= 10, lambda now: 0) == [15]
    assert due_at(HelperAhead(5.0), lambda now: now >= 10, lambda now: now % 4 == 0 and now < 30) == [34]


def test_a_server_that_is_never_idle_has_it_all_the_same_in_the_end() -> None:
    assert due_at(HelperAhead(5.0), lambda now: now >= 10, lambda now: 3) == [40]


def test_the_time_without_an_engine_does_not_count_and_zero_is_never() -> None:
    assert due_at(HelperAhead(5.0), lambda now: now % 5 != 0, lambda now: 0) == []
    assert due_at(HelperAhead(0.0), lambda now: True, lambda now: 0) == []


def test_a_program_finds_the_helper_that_was_started_ahead() -> None:
    untrusted = Untrusted(limit_seconds=30)
    untrusted.start()
    first = untrusted.pid
    untrusted.start()
    assert first is not None and untrusted.pid == first
    assert untrusted.check_regex("[a-z]{1,5}") == Outcome("ok")
    assert untrusted.pid == first and untrusted.num_killed == 0
    untrusted.close()


def test_the_time_of_a_program_begins_when_the_helper_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the start of the helper, which may take longer than any program may."""
    folder = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), str(folder.parents[2]))))
    monkeypatch.setattr("quire.services.tokenizer.untrusted._PROGRAM", "slow_helper")
    untrusted = Untrusted(limit_seconds=2.0)
    began = time.monotonic()
    assert untrusted.check_regex("[a-z]{1,5}") == Outcome("ok")
    assert time.monotonic() - began > 2.5, "the helper was not slow: this test shows nothing"
    assert untrusted.num_killed == 0
    untrusted.close()


def test_a_tokenizer_that_has_nothing_to_do_starts_its_helper(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    tokenizer = TokenizerProcess(tmp_path, "--name", "tokenizer-0", "--helper-ahead", "0.2")
    try:
        end = time.monotonic() + 60
        while not children(tokenizer.process.pid):
            assert time.monotonic() < end, "no helper was started"
            assert tokenizer.process.poll() is None
            while (received := engine.server.receive()) is not None:
                engine.server.send(received[0], engine.service.last_report)
            time.sleep(0.05)
        assert tokenizer.end()[0] == 0
    finally:
        tokenizer.close()
        engine.close()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
