"""Responses of a live server with two frontends: every look-up may reach the one or the other."""

from __future__ import annotations

from typing import Any

import httpx
from running_server import RunningServer


def call(server: RunningServer, method: str, path: str, **body: Any) -> httpx.Response:
    """By a connection of its own, which either frontend may take."""
    return httpx.request(method, server.url + path, json=body or None, timeout=60)


def test_a_conversation_goes_on_whichever_frontend_takes_each_connection(demo: RunningServer) -> None:
    asked: dict[str, Any] = {"temperature": 0, "max_output_tokens": 16}
    answers = [call(demo, "POST", "/v1/responses", input="Spell quire", **asked).json()]
    for number in range(6):
        previous = answers[-1]["id"]
        fields = {"input": f"Count to {number}", "previous_response_id": previous, **asked}
        answer = call(demo, "POST", "/v1/responses", **fields)
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
        assert answers[-1]["usage"]["input_tokens"] > answers[-2]["usage"]["input_tokens"]
    for answer in answers:
        path = "/v1/responses/" + answer["id"]
        assert [call(demo, "GET", path).json() for _ in range(4)] == [answer] * 4
        assert len(call(demo, "GET", path + "/input_items").json()["data"]) == 1
        assert call(demo, "DELETE", path).json()["deleted"] is True
        assert [call(demo, "GET", path).status_code for _ in range(4)] == [404] * 4
