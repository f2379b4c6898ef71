"""`quire batch` against a small HTTP server that fails as it is told, and its files."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quire.services.launcher import batch_runner
from quire.services.launcher.batch import batch
from quire.services.launcher.batch_file import BatchInput, BatchOutput, BatchResponse, BatchResults


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Any] = []
        self.statuses: dict[str, list[int]] = {}
        """By prompt: what to answer first; -1 breaks the connection."""
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["prompt"])
        self.server.keys.add(self.headers["Authorization"])
        planned = self.server.statuses.get(body["prompt"], [])
        status = planned.pop(0) if planned else 200
        if status == -1:
            self.connection.close()
            return
        self._send(status, {"path": self.path, "said": body["prompt"].upper()})

    def _send(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.send_header("x-request-id", "req-1")
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(json.dumps(body, indent=1).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(batch_runner, "_FIRST_PAUSE_SECONDS", 0.001)
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.02,))
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def line(custom_id: str, prompt: str = "", **more: Any) -> str:
    body = {"prompt": prompt or custom_id}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body, **more}, ensure_ascii=False
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def run(files: tuple[Path, Path], server: Server, *flags: str) -> int:
    return batch(["-i", str(files[0]), "-o", str(files[1]), "--url", server.url, *flags])


def outputs(file: Path) -> dict[str, Any]:
    found = [json.loads(one) for one in file.read_text().splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


def test_every_request_has_its_answer_in_a_line_of_openais_shape(files: Any, server: Server) -> None:
    files[0].write_text("\n".join([line(f"r{i}", f"p{i} ü") for i in range(40)]) + "\n\n")
    assert run(files, server, "--concurrency", "8", "--api-key", "sesame") == 0
    found = outputs(files[1])
    assert len(found) == 40 and server.keys == {"Bearer sesame"}
    one = found["r7"]
    assert one["id"].startswith("batch_req_") and one["error"] is None
    body = {"path": "/v1/completions", "said": "P7 Ü"}
    assert one["response"] == {"status_code": 200, "request_id": "req-1", "body": body}


def test_what_may_pass_is_tried_again_and_a_refusal_is_not(files: Any, server: Server) -> None:
    files[0].write_text("\n".join(line(name) for name in ("busy", "broken", "lost", "wrong", "hopeless")))
    server.statuses = {
        "busy": [503, 429, 503, 429, 503, 503],
        "broken": [500],
        "lost": [-1, -1],
        "wrong": [400, 200],
        "hopeless": [500] * 9,
    }
    assert run(files, server, "--attempts", "3") == 1
    found = outputs(files[1])
    assert {name: one["response"]["status_code"] for name, one in found.items()} == {
        "busy": 200, "broken": 200, "lost": 200, "wrong": 400, "hopeless": 500,
    }  # fmt: skip
    assert server.asked.count("wrong") == 1 and server.asked.count("hopeless") == 3


def test_without_any_answer_the_line_says_why(files: Any, server: Server) -> None:
    files[0].write_text(line("gone"))
    server.statuses = {"gone": [-1] * 9}
    assert run(files, server, "--attempts", "2") == 1
    one = outputs(files[1])["gone"]
    assert one["response"] is None and one["error"]["code"] == "connection_failed"


def test_another_run_goes_on_and_asks_again_only_for_what_failed(files: Any, server: Server) -> None:
    files[0].write_text("\n".join(line(name) for name in ("a", "b", "c", "d", "e")))
    server.statuses = {"b": [500], "c": [400]}
    assert run(files, server, "--attempts", "1") == 1
    kept = [text for text in files[1].read_text().splitlines(keepends=True) if '"d"' not in text]
    files[1].write_text("".join(kept) + '{"id":"batch_req_1","custom_id":"d","resp')  # as if killed in the middle
    server.asked.clear()
    server.statuses = {}
    assert run(files, server) == 0
    assert sorted(server.asked) == ["b", "d"]
    found = outputs(files[1])
    statuses = {name: one["response"]["status_code"] for name, one in found.items()}
    assert statuses == {"a": 200, "b": 200, "c": 400, "d": 200, "e": 200}
    server.asked.clear()
    assert run(files, server) == 0 and server.asked == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "line 1: "),
        (line("a") + "\n" + line("a"), "line 2: custom_id 'a' is there twice"),
        (line(""), "line 1: custom_id is empty"),
        (line("a", url="/etc/passwd"), "url '/etc/passwd' is not an endpoint"),
        (line("a", url="http://elsewhere/v1/completions"), "is not an endpoint"),
        (line("a", method="GET"), "line 1: "),
        (line("a", body=[1]), "body is not a JSON object"),
        (line("a", body={"stream": True}), "stream is not for batches"),
        (line("a", body={"prompt": None})[:-2] + "," + "[" * 5000, "line 1: "),
        ("\n".join(line("") for _ in range(5)), "and 2 more"),
        ("\n", "has no requests"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_sent(
    files: Any, server: Server, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    files[0].write_text(text)
    assert run(files, server) == 1
    assert complaint in capsys.readouterr().err
    assert server.asked == [] and not files[1].exists()


@pytest.mark.parametrize("content", ["some notes\n", '{"id":"x","custom_id":"of another batch"}\n'])
def test_a_file_that_is_no_output_of_this_batch_is_left_alone(
    files: Any, server: Server, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    files[0].write_text(line("a"))
    files[1].write_text(content)
    assert run(files, server) == 1
    assert str(files[1]) in capsys.readouterr().err
    assert files[1].read_text() == content and server.asked == []
    assert sorted(files[1].parent.iterdir()) == sorted(files)


def test_two_runs_do_not_write_one_file(files: Any, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    files[0].write_text(line("a") + "\n" + line("b"))
    first = BatchResults(files[1], BatchInput(files[0]))
    assert run(files, server) == 1
    assert "another quire batch is writing to it" in capsys.readouterr().err and server.asked == []
    first.add(BatchOutput("batch_req_1", "a", BatchResponse(200, "", msgspec.Raw(b"{}"))))
    first.close()
    again = BatchResults(files[1], BatchInput(files[0]))  # which has taken over, into another file of that name
    assert run(files, server) == 1 and server.asked == []
    again.close()
    assert run(files, server) == 0 and server.asked == ["b"]


def test_where_there_is_no_terminal_progress_is_a_line_now_and_then(
    files: Any, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_runner, "_LINE_SECONDS", 0.0)
    files[0].write_text(line("a") + "\n" + line("b"))
    assert run(files, server) == 0
    *progress, last = capsys.readouterr().err.splitlines()
    assert progress and all(" of 2, " in one and "requests/s" in one for one in progress)
    assert last.startswith("2 of 2 requests answered")


def test_flags_of_a_server_go_with_a_server_of_its_own_only(files: Any, server: Server) -> None:
    files[0].write_text(line("a"))
    with pytest.raises(SystemExit):
        run(files, server, "--max-num-seqs", "4")
    with pytest.raises(SystemExit):
        batch(["-i", str(files[0]), "-o", str(files[1]), "--no-such-flag"])


def test_a_batch_by_a_server_of_its_own_leaves_nothing_behind(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ask = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    files[0].write_text(
        "\n".join([line("text"), line("chat", url="/v1/chat/completions", body=ask), line("bad", body={"n": 0})])
    )
    assert batch(["-i", str(files[0]), "-o", str(files[1]), "--kv-cache-memory", "32MiB"]) == 0
    found = outputs(files[1])
    assert found["chat"]["response"]["body"]["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert {name: one["response"]["status_code"] for name, one in found.items()} == {
        "text": 200,
        "chat": 200,
        "bad": 400,
    }
    assert "2 of 3 requests answered" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "server-output"]


def test_a_server_that_cannot_start_says_why(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files[0].write_text(line("a"))
    assert batch(["-i", str(files[0]), "-o", str(files[1]), str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err
