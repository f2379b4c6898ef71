"""Stored responses with several frontends: whichever takes the connection knows all that its siblings have."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from test_http import error_of
from test_responses import events, eventually, say

from quire.services.frontend.known_services import KnownServices
from quire.services.frontend.response_store import StoredResponse
from quire.services.frontend.siblings import Siblings
from quire.shared.messages import Report


class Pair:
    """Two frontends over one tokenizer that know of each other."""

    def __init__(self, fake: Any, start: Any, *flags: str) -> None:
        self.fake = fake
        self.one, self.other = (start(*flags).wait_ready() for _ in range(2))
        for process in (self.one, self.other):
            eventually(lambda process=process: len(self.siblings(process)) == 2)

    def siblings(self, process: Any) -> list[str]:
        services = process.client.get("/status").json()["services"]
        return [service["name"] for service in services if service["kind"] == "frontend"]


@pytest.fixture
def pair(fake: Any, start: Any) -> Iterator[Pair]:
    yield Pair(fake, start)


def made(process: Any, **fields: Any) -> dict[str, Any]:
    response = process.client.post("/v1/responses", json=say("4", **fields))
    assert response.status_code == 200, response.text
    return response.json()


def test_what_one_frontend_has_stored_is_shown_listed_continued_and_deleted_by_the_other(pair: Pair) -> None:
    first = made(pair.one)
    path = "/v1/responses/" + first["id"]
    assert pair.other.client.get(path).json() == first
    listed = pair.other.client.get(path + "/input_items").json()
    assert listed == pair.one.client.get(path + "/input_items").json() and len(listed["data"]) == 1
    again = {"input": "!say 5", "previous_response_id": first["id"]}
    second = pair.other.client.post("/v1/responses", json=again).json()
    roles = [each["role"] for each in json.loads(pair.fake.generates[-1].prompt.messages_json)]
    assert roles == ["user", "assistant", "user"]
    third = {"input": "!say 6", "previous_response_id": second["id"]}
    assert pair.one.client.post("/v1/responses", json=third).status_code == 200
    reference = {"input": [{"id": first["output"][0]["id"]}, {"role": "user", "content": "!say 7"}]}
    assert pair.other.client.post("/v1/responses", json=reference).status_code == 200
    assert json.loads(pair.fake.generates[-1].prompt.messages_json)[0] == {"role": "assistant", "content": "4"}
    assert pair.other.client.delete(path).json()["deleted"] is True
    for process in (pair.one, pair.other):
        response = process.client.get(path)
        assert response.status_code == 404 and error_of(response)["code"] == "response_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_one_under_way_is_cancelled_through_the_other_frontend(pair: Pair, stream: bool) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=pair.one.url, timeout=30) as client:
            answers.append(client.post("/v1/responses", json={"input": "!stuck", "stream": stream}))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: pair.fake.generates)
    path = f"/v1/responses/resp_{pair.fake.generates[-1].request_id:016x}"
    eventually(lambda: pair.other.client.get(path).status_code == 200)
    refused = pair.other.client.delete(path)
    assert refused.status_code == 400 and "cancel it first" in error_of(refused)["message"]
    assert pair.other.client.post(path + "/cancel").json()["status"] == "cancelled"
    asking.join(60)
    (answer,) = answers
    assert (events(answer)[-1]["response"] if stream else answer.json())["status"] == "cancelled"
    eventually(lambda: any(abort.cause == "cancelled" for abort in pair.fake.aborts))


def test_a_frontend_that_ends_leaves_what_it_has_stored_to_the_other(pair: Pair) -> None:
    answers = [made(pair.one) for _ in range(20)]
    assert pair.one.stop() == 0
    for answer in answers:
        eventually(lambda answer=answer: pair.other.client.get("/v1/responses/" + answer["id"]).json() == answer)


def test_a_frontend_that_is_killed_takes_along_what_it_had_and_nobody_waits_for_it(pair: Pair) -> None:
    kept, lost = made(pair.other), made(pair.one)
    pair.one.process.send_signal(signal.SIGKILL)
    pair.one.process.wait()
    response = pair.other.client.get("/v1/responses/" + lost["id"])
    assert response.status_code == 404 and "the frontend that had it was lost" in error_of(response)["message"]
    again = {"input": "x", "previous_response_id": lost["id"]}
    response = pair.other.client.post("/v1/responses", json=again)
    assert response.status_code == 404 and error_of(response)["param"] == "previous_response_id"
    assert pair.other.client.get("/v1/responses/" + kept["id"]).json() == kept


def test_one_that_does_not_answer_is_named_and_asked_again_later(pair: Pair) -> None:
    first = made(pair.one)
    pair.one.process.send_signal(signal.SIGSTOP)
    try:
        response = pair.other.client.get("/v1/responses/" + first["id"])
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert "frontend-0" in error_of(response)["message"]
    finally:
        pair.one.process.send_signal(signal.SIGCONT)
    eventually(lambda: pair.other.client.get("/v1/responses/" + first["id"]).json() == first)


def test_what_a_lost_tokenizer_carried_is_sent_again(pair: Pair, run_dir: Any, fake_class: Any) -> None:
    second = fake_class(run_dir, 1)
    try:
        first = made(pair.one)
        eventually(lambda: len(pair.other.client.get("/status").json()["services"]) == 4)
        pair.fake.close()
        # Where a machine is too busy for an answer in time, it says so and is asked again.
        eventually(lambda: pair.other.client.get("/v1/responses/" + first["id"]).json() == first)
    finally:
        second.close()


def test_a_response_is_its_keys_own_in_every_frontend(fake: Any, start: Any) -> None:
    pair = Pair(fake, lambda *flags: _WithKey(start(*flags)), "--api-key", "one", "--api-key", "two")
    first = pair.one.client.post("/v1/responses", json=say("4")).json()
    path = "/v1/responses/" + first["id"]
    assert pair.other.client.get(path).json() == first
    for process in (pair.one, pair.other):
        for way in ("get", "delete"):
            theirs = getattr(process.client, way)(path, headers={"authorization": "Bearer two"})
            assert theirs.status_code == 404


class _WithKey:
    """A frontend whose client has a key."""

    def __init__(self, process: Any) -> None:
        self._process = process
        process.client.headers["authorization"] = "Bearer one"
        self.client = process.client

    def wait_ready(self) -> Any:
        return self._process.wait_ready()


@pytest.mark.parametrize(
    ("states", "heir"), [(("starting", "ready"), "frontend-2"), (("starting", "draining"), "frontend-1")]
)
def test_an_heir_is_ready_or_else_one_that_starts(states: tuple[str, str], heir: str) -> None:
    known = KnownServices()
    for number, state in enumerate(("ready", *states)):
        known.hear(Report(f"frontend-{number}", 1, 1, state, "", 1.0, 0))
    letters: list[Any] = []
    client: Any = SimpleNamespace(known=known, carry=letters.append)
    loop = asyncio.new_event_loop()
    siblings = Siblings("frontend-0", client, lambda *asked: None, lambda *kept: None, loop)
    loop.close()
    siblings.bequeath([("resp_1", StoredResponse("", "completed", b"{}", b"[]", b"[]"))])
    assert [(letter.to, letter.response_id) for letter in letters] == [(heir, "resp_1")]
