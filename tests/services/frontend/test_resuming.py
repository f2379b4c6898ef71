"""Requests whose tokenizer or engine is lost: they go on where they were, suspects alone, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quire.services.frontend.resuming import Resuming, submittable
from quire.shared.messages import Finished, Generate, TextBatch

from .conftest import eventually
from .test_lifecycle import post_raw


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def lose(fake: Any, generate: Generate, reason: str = "lost") -> None:
    """What a tokenizer says when the engine is gone."""
    end = Finished(0, reason, message="gone")
    batch = TextBatch([generate.request_id], [0], [""], [0], b"", finished=[end])

    def say() -> None:
        fake._ended.add(generate.request_id)
        for peer in fake._above.names:
            fake.send(peer, batch)

    fake.later(0.0, say)


def complete(frontend: Any, prompt: str, **fields: Any) -> dict[str, Any]:
    return frontend.client.post("/v1/completions", json={"prompt": prompt, **fields}).json()


def test_a_lost_tokenizers_requests_go_on_at_another_where_they_were(
    run_dir: Path, start: Callable[..., Any], fake_class: Any, pool: ThreadPoolExecutor
) -> None:
    first, second = fake_class(run_dir, 0), fake_class(run_dir, 1)
    frontend = start().wait_ready()
    eventually(lambda: len(frontend.client.get("/status").json()["services"]) == 3)
    answers = [pool.submit(complete, frontend, "!long !slow", max_tokens=200) for _ in range(2)]
    stream = post_raw(frontend, {"prompt": "!silent", "stream": True})
    eventually(lambda: len(first.generates) + len(second.generates) == 3)
    eventually(lambda: first.generates and second.generates)
    first.close()
    eventually(lambda: len(second.generates) == 3)
    resumed = [generate for generate in second.generates if generate.history]
    assert all(0 < len(generate.history[0].output_ids) // 4 < 200 for generate in resumed)
    expected = "".join(f"w{i} " for i in range(200))
    for answer in answers:
        body = answer.result(30)
        assert body["choices"][0]["text"] == expected
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 200
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    stream.close()
    second.close()


def test_what_the_engine_lost_is_parked_until_a_tokenizer_is_ready_again(
    fake: Any, start: Callable[..., Any], pool: ThreadPoolExecutor
) -> None:
    frontend = start().wait_ready()
    answer = pool.submit(complete, frontend, "!long !slow", max_tokens=200)
    eventually(lambda: fake.num_finished == 0 and len(fake.generates) == 1)
    fake.set_ready(False)
    eventually(lambda: frontend.client.get("/ready").status_code == 503)
    lose(fake, fake.generates[0])
    eventually(lambda: "quire_streams_resumed_total" in frontend.client.get("/metrics").text)
    assert len(fake.generates) == 1
    fake.set_ready(True)
    assert answer.result(30)["usage"]["completion_tokens"] == 200
    assert [generate.is_suspect for generate in fake.generates] == [False, False]
    assert fake.generates[0].request_id != fake.generates[1].request_id


def test_a_request_in_two_crashes_runs_alone_and_ends_at_the_third(
    fake: Any, start: Callable[..., Any], pool: ThreadPoolExecutor
) -> None:
    frontend = start().wait_ready()
    answers = [pool.submit(complete, frontend, "!stuck") for _ in range(2)]
    eventually(lambda: len(fake.generates) == 2)
    for expected in (4, 5):
        for generate in fake.generates[-2:]:
            lose(fake, generate)
        eventually(lambda number=expected: len(fake.generates) >= number)
    assert [generate.is_suspect for generate in fake.generates] == [False] * 4 + [True]
    assert len(fake.generates) == 5  # the other suspect waits for its turn
    lose(fake, fake.generates[4])
    eventually(lambda: len(fake.generates) == 6)
    assert fake.generates[5].is_suspect
    lose(fake, fake.generates[5])
    for answer in answers:
        error = answer.result(30)["error"]
        assert "crashed 3 times" in error["message"]


def test_what_does_not_come_back_in_time_ends_with_an_error(
    fake: Any, start: Callable[..., Any], pool: ThreadPoolExecutor
) -> None:
    frontend = start("--resume-timeout", "0.3").wait_ready()
    answer = pool.submit(complete, frontend, "!stuck")
    eventually(lambda: len(fake.generates) == 1)
    fake.set_ready(False)
    eventually(lambda: frontend.client.get("/ready").status_code == 503)
    lose(fake, fake.generates[0])
    assert "did not come back" in answer.result(30)["error"]["message"]


def test_a_client_that_leaves_while_its_request_is_parked_is_forgotten(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start().wait_ready()
    stream = post_raw(frontend, {"prompt": "!stuck", "stream": True})
    eventually(lambda: len(fake.generates) == 1)
    fake.set_ready(False)
    eventually(lambda: frontend.client.get("/ready").status_code == 503)
    lose(fake, fake.generates[0])
    stream.close()
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)
    fake.set_ready(True)
    frontend.wait_ready()
    assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    assert len(fake.generates) == 2


class _FakeRecord(msgspec.Struct):
    is_suspect: bool = False
    is_accepted: bool = False
    num_crashes: int = 0
    num_unprepared: int = 0
    parked_since: float = 0.0


def test_a_prompt_that_kills_tokenizers_ends_after_three() -> None:
    resuming, record = Resuming(True, 10.0), _FakeRecord()
    assert [resuming.lost(record, "tokenizer", 1.0) is None for _ in range(3)] == [True, True, False]  # type: ignore


def test_moving_on_purpose_makes_no_suspect() -> None:
    resuming, record = Resuming(True, 10.0), _FakeRecord(is_accepted=True)
    for _ in range(5):
        assert resuming.lost(record, "moved", 1.0) is None  # type: ignore
        assert resuming.lost(record, "unavailable", 1.0) is None  # type: ignore
    assert not record.is_suspect


def test_of_the_suspects_one_goes_at_a_time() -> None:
    plain, one, two = _FakeRecord(), _FakeRecord(True), _FakeRecord(True)
    assert submittable([one, plain, two], []) == [one, plain]  # type: ignore
    assert submittable([one, plain], [two]) == [plain]  # type: ignore
