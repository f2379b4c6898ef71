"""The load generator against a small server that speaks the API, and its arithmetic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import serving
from bench.recording import medians, percentile, spread, table
from bench.response import Answer
from bench.workloads import PRESETS, Sampling, Workload, body, id_prompts, poisson_starts, text_prompts


class SmallServer:
    """Streams `max_tokens` frames a request from a thread of its own; keeps what was asked."""

    def __init__(self, reports_usage: bool = True, refuses_every: int = 0) -> None:
        self.asked: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._now = 0
        self._reports_usage = reports_usage
        self._refuses_every = refuses_every
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._answer_all(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client closes the connection."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            content = await reader.readexactly(length)
            if head.startswith("GET /v1/models "):
                self._whole(writer, 200, {"data": [{"id": "small"}]})
            else:
                await self._completion(writer, json.loads(content))

    def _whole(self, writer: asyncio.StreamWriter, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))

    async def _completion(self, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> None:
        self.asked.append(asked)
        if self._refuses_every and len(self.asked) % self._refuses_every == 0:
            return self._whole(writer, 429, {"error": {"message": "busy"}})
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        count = asked["max_tokens"]
        usage = {"prompt_tokens": len(asked.get("prompt", "")), "completion_tokens": count}
        if asked.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            frames: list[Any] = [{"choices": [{"text": "x"}]}] * count
            frames += [{"choices": [], "usage": usage}] if self._reports_usage else []
            for data in [*map(json.dumps, frames), "[DONE]"]:
                line = f"data: {data}\n\n".encode()
                writer.write(b"%x\r\n%s\r\n" % (len(line), line))
                await asyncio.sleep(0.001)
            writer.write(b"0\r\n\r\n")
        else:
            self._whole(writer, 200, {"choices": [{"text": "x" * count}], "usage": usage})
        self._now -= 1

    def close(self) -> None:
        """After the clients have closed their connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await asyncio.gather(*(task for task in self._tasks if task is not None))


@pytest.fixture
def server() -> Iterator[SmallServer]:
    small = SmallServer()
    yield small
    small.close()


SMALL = ["--num-requests", "6", "--input-len", "8", "--output-len", "5", "--quiet"]


def test_closed_loop_counts_by_usage_and_keeps_its_concurrency(server: SmallServer, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.json"
    flags = ["--url", server.url, "--concurrency", "3", "--rounds", "2", "--warmup", "2", "--out", str(out)]
    assert serving.main([*SMALL, *flags]) == 0
    written = json.loads(out.read_text())
    result = written["results"]["medians"]
    assert (result["requests"], result["errors"], result["output_tokens"], result["prompt_tokens"]) == (6, 0, 30, 48)
    assert result["tokens_are_counted_by"] == "usage" and len(written["results"]["rounds"]) == 2
    assert 0 < result["ttft_ms"]["p50"] < result["e2e_ms"]["p50"] and result["itl_ms"]["p50"] > 0
    assert written["settings"]["model"] == "small" and written["machine"]["cpus"] > 0
    assert server.most_at_once == 3 and len(server.asked) == 2 + 2 * 6
    prompts = [tuple(asked["prompt"]) for asked in server.asked]
    assert len(set(prompts)) == len(prompts) and all(asked["ignore_eos"] for asked in server.asked)


def test_open_loop_sends_without_waiting_for_answers(server: SmallServer) -> None:
    assert serving.main([*SMALL, "--url", server.url, "--rate", "5000", "--rounds", "1", "--warmup", "0"]) == 0
    assert len(server.asked) == 6 and server.most_at_once > 1


def test_whole_answers_and_chat_are_asked_for_when_told(server: SmallServer) -> None:
    flags = ["--url", server.url, "--rounds", "1", "--warmup", "0", "--no-stream", "--endpoint", "chat"]
    assert serving.main([*SMALL, *flags, "--model", "named", "--no-ignore-eos", "--min-tokens"]) == 0
    asked = server.asked[0]
    assert "stream" not in asked and "ignore_eos" not in asked and asked["min_tokens"] == 5
    assert asked["model"] == "named" and len(asked["messages"][0]["content"].split()) == 8


def test_frames_are_counted_where_usage_is_missing(tmp_path: Path) -> None:
    small = SmallServer(reports_usage=False)
    try:
        out = tmp_path / "out.json"
        assert serving.main([*SMALL, "--url", small.url, "--rounds", "1", "--out", str(out)]) == 0
    finally:
        small.close()
    result = json.loads(out.read_text())["results"]["medians"]
    assert result["tokens_are_counted_by"] == "frames" and result["output_tokens"] == 30


def test_errors_are_counted_and_fail_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    small = SmallServer(refuses_every=3)
    try:
        assert serving.main([*SMALL[:-1], "--url", small.url, "--rounds", "1", "--warmup", "0"]) == 1
    finally:
        small.close()
    assert "2 errors: 429" in capsys.readouterr().out


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but not listening
        assert serving.main(["--url", f"http://127.0.0.1:{closed.getsockname()[1]}"]) == 1
    assert capsys.readouterr().err.startswith("quire bench: /v1/models: cannot connect")


def test_tokens_per_second_and_times_follow_from_the_requests() -> None:
    answer = Answer(
        sent=10.0,
        arrivals=[10.5, 10.6, 10.8],
        ended=11.0,
        last_frame=b'{"usage":{"prompt_tokens":7,"completion_tokens":6}}',
    )
    result = serving.summary([serving.measured(answer, due=10.0)], ["500: broken"], seconds=2.0)
    assert (result["output_tokens_per_second"], result["total_tokens_per_second"]) == (3.0, 6.5)
    assert result["ttft_ms"]["p50"] == pytest.approx(500) and result["tpot_ms"]["p50"] == pytest.approx(100)
    assert result["itl_ms"]["max"] == pytest.approx(200) and result["errors"] == 1


def test_presets_change_by_flags() -> None:
    options = serving.parser().parse_args(["--workload", "W4", "--num-requests", "3"])
    expected = Workload("W4", concurrency=16, num_requests=3, input_len=928, output_len=32, shared_prefix_len=896)
    assert serving.workload_of(options) == expected


def test_prompts_have_their_lengths_share_their_prefix_and_repeat_by_seed() -> None:
    prompts = id_prompts(PRESETS["W4"], vocab_size=2000, seed=5)
    assert {len(prompt) for prompt in prompts} == {928} and len({tuple(prompt[:896]) for prompt in prompts}) == 1
    assert len({tuple(prompt[896:]) for prompt in prompts}) == 32
    assert prompts == id_prompts(PRESETS["W4"], vocab_size=2000, seed=5) != id_prompts(PRESETS["W4"], 2000, seed=6)
    assert all(300 <= one < 2000 for prompt in prompts for one in prompt)
    assert {len(text.split()) for text in text_prompts(PRESETS["W1"], seed=1)} == {64}


def test_body_asks_for_usage_only_of_streams() -> None:
    streamed = json.loads(body("m", [1, 2], 9, Sampling(), is_chat=False, is_stream=True))
    assert streamed["stream_options"] == {"include_usage": True} and streamed["prompt"] == [1, 2]
    assert "stream_options" not in json.loads(body("m", [1, 2], 9, Sampling(), is_chat=False, is_stream=False))


def test_poisson_starts_come_at_the_rate_on_average() -> None:
    starts = poisson_starts(4000, rate=50.0, seed=3)
    assert starts == sorted(starts) and starts[-1] == pytest.approx(80, rel=0.1)


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5 and percentile([7.0], 99) == 7.0
    assert math.isnan(spread([])["p50"]) and spread([1.0, 3.0])["mean"] == 2.0


def test_medians_are_taken_number_by_number() -> None:
    rounds = [
        {"a": 1.0, "b": {"c": 5}, "d": "x"},
        {"a": 9.0, "b": {"c": 1}, "d": "x"},
        {"a": 2.0, "b": {"c": 3}, "d": "x"},
    ]
    assert medians(rounds) == {"a": 2.0, "b": {"c": 3}, "d": "x"}


def test_table_columns_line_up() -> None:
    lines = table(("name", "value"), [("a", 1234), ("longer", 1.5)]).splitlines()
    assert lines == ["name    value", "------  -----", "a       1,234", "longer   1.50"]
