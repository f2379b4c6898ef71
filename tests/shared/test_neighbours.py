"""Tests of presence: who is above and below, when they come, restart, and go."""

from __future__ import annotations

import time

import pytest

from quire.shared.config import EngineConfig, TokenizerConfig
from quire.shared.link import wait
from quire.shared.messages import PROTOCOL, Abort, Hello, Report, RequestId, ToEngine, ToTokenizerFromEngine
from quire.shared.neighbours import Above, Below
from quire.shared.service import Service


class Pair:
    """An engine and a tokenizer in this process, with what they saw of each other."""

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir
        self.engine_saw: list[str] = []
        self.tokenizer_saw: list[str] = []
        self.start_engine()
        self.start_tokenizer()

    def start_engine(self) -> None:
        self.engine = Service("engine", EngineConfig(run_dir=self.run_dir))
        self.server = self.engine.listen(ToEngine)
        self.above = Above(self.server, self.engine, lambda name: self.engine_saw.append(f"gone {name}"))

    def start_tokenizer(self) -> None:
        self.tokenizer = Service("tokenizer", TokenizerConfig(run_dir=self.run_dir))
        self.own_server = self.tokenizer.listen(ToEngine)
        self.below: Below = Below(
            self.tokenizer,
            "engine",
            ToTokenizerFromEngine,
            lambda name, client: self.tokenizer_saw.append(f"here {name}"),
            lambda name: self.tokenizer_saw.append(f"gone {name}"),
        )

    def stop_engine(self) -> None:
        self.server.close()
        self.engine.close()

    def stop_tokenizer(self) -> None:
        self.below.close()
        self.own_server.close()
        self.tokenizer.close()

    def hear(self) -> Hello:
        for _ in range(10):  # what a replaced link still says wakes the wait too, and is passed over
            wait([self.server], 10)
            if (received := self.server.receive()) is not None:
                break
        assert received is not None
        self.above.hear(*received)
        return received[1]

    def report(self) -> Report:
        (link,) = self.below.links.values()
        for _ in range(10):  # a socket that is still connecting wakes the wait too
            wait([link], 10)
            if (message := link.receive()) is not None:
                break
        assert isinstance(message, Report)
        return message


@pytest.fixture
def pair(tmp_path):
    pair = Pair(str(tmp_path / "run"))
    yield pair
    pair.stop_tokenizer()
    pair.stop_engine()


def test_a_new_peer_is_told_at_once_how_the_service_is(pair: Pair):
    pair.engine.report("starting", detail="loading", progress=0.5)
    pair.below.poll()
    assert pair.tokenizer_saw == ["here engine-0"]
    pair.hear()
    report = pair.report()
    assert (report.name, report.state, report.detail, report.progress) == ("engine-0", "starting", "loading", 0.5)
    pair.above.publish(pair.engine.report("ready"))
    assert pair.report().state == "ready"


def test_a_peer_that_dies_before_the_first_poll_is_seen_to_go_at_that_poll(pair: Pair):
    pair.below.poll()
    pair.hear()
    pair.stop_tokenizer()
    pair.above.poll()
    assert pair.engine_saw == ["gone tokenizer-0"]


def test_a_restarted_peer_is_gone_before_its_successor_is_there(pair: Pair):
    pair.below.poll()
    pair.hear()
    pair.stop_tokenizer()
    pair.start_tokenizer()
    pair.below.poll()
    while pair.hear().incarnation != pair.tokenizer.incarnation:
        pass  # a last hello of the one before
    assert pair.engine_saw == ["gone tokenizer-0"]
    assert pair.above.names == ["tokenizer-0"]
    pair.above.poll()
    assert pair.engine_saw == ["gone tokenizer-0"]


def test_a_restarted_service_below_vanishes_and_appears(pair: Pair):
    pair.below.poll()
    pair.stop_engine()
    pair.start_engine()
    pair.below.poll()
    assert pair.tokenizer_saw == ["here engine-0", "gone engine-0", "here engine-0"]
    pair.hear()
    assert pair.report().incarnation == pair.engine.incarnation


def test_what_was_meant_for_a_dead_service_does_not_reach_its_successor_nor_take_its_link(pair: Pair):
    pair.below.poll()
    pair.hear()
    (link,) = pair.below.links.values()
    pair.server._socket.close(linger=0)
    pair.engine.close()
    for request_id in range(100):
        link.send(Abort(RequestId(request_id), None, "client_gone"))
    pair.below.poll()
    pair.start_engine()
    pair.engine.report("starting")
    pair.below.poll()
    received = []
    end = time.monotonic() + 1.0  # longer than a closed link may linger
    while time.monotonic() < end:
        wait([pair.server], 0.05)
        while (item := pair.server.receive()) is not None:
            received.append(item[1])
            if isinstance(item[1], Hello):
                pair.above.hear(*item)
    assert {type(message) for message in received} == {Hello}
    assert pair.server.send("tokenizer-0", pair.engine.report("ready"))
    assert pair.report().state == "starting"  # the answer to the new link's Hello
    assert pair.report().state == "ready"


def test_a_peer_of_another_protocol_is_ignored(pair: Pair, caplog):
    pair.above.hear("tokenizer-7", Hello("tokenizer-7", 1, PROTOCOL + 1))
    assert pair.above.names == []
    assert "protocol" in caplog.text


def test_a_peer_in_no_run_directory_is_gone_when_it_is_silent(pair: Pair, monkeypatch):
    monkeypatch.setattr("quire.shared.neighbours.SILENCE_SECONDS", -1.0)
    pair.above.hear("elsewhere", Hello("elsewhere", 1))
    assert pair.above.names == ["elsewhere"]
    pair.above.poll()
    assert pair.engine_saw == ["gone elsewhere"]
