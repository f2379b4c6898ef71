"""Who may call: nothing answers without a key but the probes, however a path is written."""

from __future__ import annotations

import hmac
import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.services.frontend.app import ROUTES
from quire.services.frontend.authentication import OPEN_PATHS, Keys
from quire.shared.errors import ApiError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE")
ALIASES = (
    "/health/", "//health", "/Health", "/%68ealth", "/health/live/..", "/health%2flive", "/./health", "/health;a",
    "/ready/../v1/models", "/ping%00", "/index.html", "/%2f",
)  # fmt: skip


@pytest.fixture(scope="module")
def guarded(shared_run_dir: Path, tokenizer: Any, frontend_class: Callable[..., Any]) -> Iterator[Any]:
    process = frontend_class(shared_run_dir, environment={"QUIRE_API_KEY": "sesame"}).wait_ready()
    yield process
    process.stop()


def test_every_route_but_the_probes_is_401_without_a_key(guarded: Any) -> None:
    for route, _, _ in ROUTES:
        path = re.sub(r"\{[^}]+\}", "demo", route)
        for method in METHODS:
            response = guarded.client.request(method, path)
            is_open = path.encode() in OPEN_PATHS
            assert (response.status_code == 401) is not is_open, (method, path, response.status_code)
            if not is_open and method != "HEAD":
                error = response.json()["error"]
                assert error.get("code") == "invalid_api_key" or error["type"] == "authentication_error", path


def test_probes_and_the_chat_page_are_all_that_is_open() -> None:
    assert sorted(OPEN_PATHS) == [b"/", b"/health", b"/health/live", b"/ping", b"/ready"]
    assert {path.decode() for path in OPEN_PATHS} <= {route for route, _, _ in ROUTES}


@pytest.mark.parametrize("path", ALIASES)
def test_a_path_is_open_only_as_it_is_written(guarded: Any, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)  # sends a path as it is
    connection.request("GET", path)
    with connection.getresponse() as response:
        assert response.status in (400, 401)
    connection.close()


def test_a_query_does_not_close_a_probe(guarded: Any) -> None:
    assert guarded.client.get("/health?verbose=1").status_code == 200


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, two: compared.append(one) or compare(one, two))
    Keys(("one", "two", "three")).check(b"/v1/models", b"Bearer one")
    assert compared == [b"one", b"two", b"three"]


def test_keys_are_told_apart_and_wrong_ones_refused() -> None:
    keys = Keys(("one", "two"))
    assert keys.check(b"/v1/models", b"bearer two") != keys.check(b"/v1/models", b"Bearer one")
    for wrong in (None, b"", b"Bearer", b"Bearer ", b"Bearer on", b"Bearer onetwo", b"Basic one", b"Bearer \xff"):
        with pytest.raises(ApiError) as refused:
            keys.check(b"/v1/models", wrong)
        assert refused.value.status == 401


def test_without_a_key_a_probe_is_told_nothing_of_the_inside(run_dir: Path, start: Callable[..., Any]) -> None:
    frontend = start(environment={"QUIRE_API_KEY": "sesame"}).wait_answering()
    stranger = frontend.client.get("/ready")
    assert stranger.status_code == 503 and "tokenizer" not in stranger.text
    friend = frontend.client.get("/ready", headers={"authorization": "Bearer sesame"})
    assert friend.status_code == 503 and "waiting for a tokenizer" in friend.text
