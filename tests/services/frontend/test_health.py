"""Health: one sound service of each kind is enough, and what stays down is named only when it is missed."""

from __future__ import annotations

import pytest

from quire.services.frontend import known_services
from quire.services.frontend.health import Health
from quire.services.frontend.known_services import KnownServices
from quire.shared.messages import Report

CHAIN = ("worker-0-0", "engine-0", "tokenizer-0", "tokenizer-1")


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(known_services, "time", made)
    return made


def hear(known: KnownServices, *names: str, sequence: int = 1, **fields) -> None:
    for name in names:
        known.hear(Report(name, 1, sequence, "ready", "", 1.0, 0, **fields))


@pytest.fixture
def health(clock: Clock) -> Health:
    known = KnownServices()
    hear(known, *CHAIN)
    return Health(known, limit_seconds=2.0)


def test_a_whole_chain_has_no_trouble(health: Health):
    assert health.trouble == ""


def test_a_tokenizer_that_stays_down_beside_a_sound_one_is_no_trouble(health: Health):
    health.outages = {"tokenizer-0": "5 crashes"}
    assert health.trouble == ""


def test_a_frontend_that_stays_down_is_no_trouble_of_its_sibling(health: Health):
    health.outages = {"frontend-1": "5 crashes"}
    assert health.trouble == ""


@pytest.mark.parametrize("name", ["engine-0", "worker-0-0"])
def test_the_only_one_of_its_kind_that_stays_down_is_named_with_its_cause(health: Health, name: str):
    health.outages = {name: "5 crashes within 60 s"}
    assert health.trouble == f"{name} stays down: 5 crashes within 60 s"


def test_what_stays_down_is_not_sound_by_its_last_report(health: Health):
    health.outages = {"tokenizer-0": "it crashed", "tokenizer-1": "it crashed too"}
    assert "tokenizer-0 stays down" in health.trouble


def test_an_outage_that_was_never_heard_is_missed_too(clock: Clock):
    health = Health(KnownServices(), 2.0)
    health.outages = {"tokenizer-0": "no memory"}
    assert health.trouble == "tokenizer-0 stays down: no memory"


def test_workers_of_one_engine_fail_as_one_and_those_of_another_stand_in(clock: Clock):
    known = KnownServices()
    hear(known, "worker-0-0", "worker-0-1")
    health = Health(known, 2.0)
    health.outages = {"worker-0-1": "it crashed"}
    assert "worker-0-1 stays down" in health.trouble
    hear(known, "worker-1-0", "worker-1-1")
    assert health.trouble == ""


def test_silence_of_all_tokenizers_is_trouble_and_of_one_is_not(health: Health, clock: Clock):
    clock.now += 3.0
    hear(health._known, "worker-0-0", "engine-0", "tokenizer-1", sequence=2)
    assert health.trouble == ""
    clock.now += 3.0
    hear(health._known, "worker-0-0", "engine-0", sequence=3)
    assert health.trouble == "tokenizer-0 has said nothing for 6 s"


def test_a_busy_worker_may_be_silent_longer_but_not_its_step(health: Health, clock: Clock):
    clock.now += 19.0
    hear(health._known, "engine-0", "tokenizer-0", sequence=2)
    assert health.trouble == ""
    hear(health._known, "engine-0", sequence=3, samples={"quire_engine_last_step_age_seconds": 21.0})
    assert health.trouble == "a step of engine-0 has not ended for 21 s"


def test_without_a_limit_silence_is_no_sign(clock: Clock):
    known = KnownServices()
    hear(known, *CHAIN)
    clock.now += 1000.0
    assert Health(known, 0.0).trouble == ""


def test_an_engine_has_the_time_that_its_reports_take_by_way_of_tokenizers(health: Health, clock: Clock):
    """Of two reports a second apart one may come with a tokenizer's next and the other with that after it."""
    clock.now += 2.2
    hear(health._known, "tokenizer-0", "tokenizer-1", sequence=2)
    assert health.trouble == ""
    clock.now += 1.0
    hear(health._known, "tokenizer-0", "tokenizer-1", sequence=3)
    assert health.trouble == "engine-0 has said nothing for 3 s"
