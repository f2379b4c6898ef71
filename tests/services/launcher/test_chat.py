"""The terminal chat against a small HTTP server that records what it was asked."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.services.launcher.chat import chat
from quire.services.launcher.complete import complete
from quire.services.launcher.private_server import PrivateServer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer = ["Hel", "lo", " wörld"]
        self.end = "data: [DONE]\n\n"
        self.status = 200
        self.is_text = False
        self.thought = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self._send(json.dumps({"data": [{"id": "tiny"}]}))

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.server.status != 200:
            self._send(json.dumps({"error": {"message": "no such thing"}}))
            return
        thoughts = [{"reasoning_content": self.server.thought}] if self.server.thought else []
        deltas = [
            {"role": "assistant", "content": ""},
            *thoughts,
            *({"content": piece} for piece in self.server.answer),
            {},
        ]
        if self.server.is_text:
            choices = [{"index": 0, "text": piece} for piece in self.server.answer]
        else:
            choices = [{"index": 0, "delta": delta} for delta in deltas]
        events = [json.dumps({"choices": [choice]}, ensure_ascii=False) for choice in choices]
        self._send(": keep-alive\n\n" + "".join(f"data: {event}\n\n" for event in events) + self.server.end)

    def _send(self, text: str) -> None:
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.02,))
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_conversation_carries_its_turns(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi", "again", "/reset", "anew", "/exit", "never sent")
    assert chat(["--url", server.url, "--system", "be brief", "--api-key", "secret"]) == 0
    assert capsys.readouterr().out == "Hello wörld\n" * 3
    system, first = {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "Hello wörld"}
    assert [body["messages"] for body in server.bodies] == [
        [system, first],
        [system, first, answer, {"role": "user", "content": "again"}],
        [system, {"role": "user", "content": "anew"}],
    ]
    assert all(body["stream"] and body["model"] == "tiny" for body in server.bodies)
    assert server.keys == ["Bearer secret"]


def test_a_refusal_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi")
    server.status = 400
    assert chat(["--url", server.url, "--model", "tiny"]) == 1
    assert capsys.readouterr().err == "quire: no such thing (HTTP 400)\n"


def test_an_error_within_the_stream_is_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi")
    server.end = 'data: {"error": {"message": "the engine was lost"}}\n\n'
    assert chat(["--url", server.url]) == 1
    assert "quire: the engine was lost" in capsys.readouterr().err


def test_a_stream_that_breaks_off_is_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi")
    server.end = ""
    assert chat(["--url", server.url]) == 1
    assert "broke off" in capsys.readouterr().err


class Screen(io.StringIO):
    """A terminal to read from."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_an_error_ends_the_answer_and_its_question_is_forgotten(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["lost", "hi"])

    def ask(prompt: str) -> str:
        server.status = 503 if (line := next(lines, "/exit")) == "lost" else 200
        return line

    monkeypatch.setattr("sys.stdin", Screen())
    monkeypatch.setattr("builtins.input", ask)
    assert chat(["--url", server.url, "--model", "tiny"]) == 0
    assert "quire: no such thing (HTTP 503)\nHello wörld\n" in capsys.readouterr().out
    assert server.bodies[1]["messages"] == [{"role": "user", "content": "hi"}]


def test_reasoning_is_shown_on_a_terminal_and_is_no_part_of_the_conversation(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.thought = "Let me see."
    say(monkeypatch, "hi")
    assert chat(["--url", server.url]) == 0
    assert capsys.readouterr().out == "Hello wörld\n"
    lines = iter(["hi", "again", "/exit"])
    monkeypatch.setattr("sys.stdin", Screen())
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert chat(["--url", server.url]) == 0
    assert capsys.readouterr().out.count("Let me see.\n\nHello wörld\n") == 2
    assert server.bodies[2]["messages"][1] == {"role": "assistant", "content": "Hello wörld"}


def test_without_a_server_one_is_started_for_the_chat_and_ended_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pids = []

    class Noted(PrivateServer):
        def __enter__(self) -> PrivateServer:
            entered = super().__enter__()
            pids.append(self._process.pid)
            return entered

    monkeypatch.setattr("quire.services.launcher.chat.PrivateServer", Noted)
    monkeypatch.setenv("QUIRE_THREADS", "1")
    say(monkeypatch, "Spell quire")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr("quire.services.launcher.chat.DEFAULT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert chat(["--temperature", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == "q, u, i, r, e\n" and "starting one for this chat" in said.err
    assert len(pids) == 1 and not Path(f"/proc/{pids[0]}").exists()


def test_a_model_and_flags_of_a_server_are_for_one_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert chat(["/no/such/model"]) == 1
    assert capsys.readouterr().err.endswith("quire: model folder /no/such/model does not exist\n")
    for wrong in (["--max-num-seqs", "0"], ["some-model", "--url", "http://127.0.0.1:1"]):
        with pytest.raises(SystemExit) as ended:
            chat(wrong)
        assert ended.value.code == 2


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:  # bound, so nobody else listens there; not listening, so nobody answers
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert chat(["--url", url]) == 1
    assert capsys.readouterr().err.startswith(f"quire: {url} cannot be reached")


def test_a_text_is_continued_as_it_comes_with_the_flags_given(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.is_text = True
    assert (
        complete(["Once", "--url", server.url, "--temperature", "0", "--max-tokens", "9", "--stop", ".", "--seed", "3"])
        == 0
    )
    assert capsys.readouterr().out == "Hello wörld\n"
    wanted = {"prompt": "Once", "temperature": 0, "max_tokens": 9, "stop": ["."], "seed": 3}
    assert server.bodies == [{**wanted, "model": "tiny", "stream": True}]
    monkeypatch.setattr("sys.stdin", io.StringIO("by a pipe\n"))
    assert complete(["--url", server.url, "--model", "other"]) == 0
    assert server.bodies[1] == {"prompt": "by a pipe\n", "model": "other", "stream": True}


def test_a_continuation_that_is_refused_or_breaks_off_is_a_sentence(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.is_text, server.end = True, ""
    assert complete(["Once", "--url", server.url]) == 1
    assert "the answer broke off" in capsys.readouterr().err
