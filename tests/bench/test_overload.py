"""The overload benchmark: its arithmetic, and a small run of everything it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import overload
from bench.overload import Load, verdicts
from bench.response import Answer


def answer(arrivals: list[float], tokens: int) -> Answer:
    usage = b'{"usage":{"prompt_tokens":1,"completion_tokens":%d}}' % tokens
    return Answer(
        arrivals[0] - 0.5, 200, arrivals[0] - 0.1, arrivals, last_frame=usage, is_done=True, ended=arrivals[-1]
    )


def test_only_tokens_of_the_window_count() -> None:
    load = Load(10.0, 20.0, [answer([8.0, 9.0, 12.0, 13.0], 8), answer([19.0, 21.0], 2)])
    figures = load.figures()
    assert figures["goodput_tokens_per_second"] == pytest.approx((4 + 1) / 10)
    assert figures["itl_ms"]["max"] == pytest.approx(3000)


def test_refusals_are_told_from_failures_and_timed_to_their_first_byte() -> None:
    refused = Answer(10.0, 429, 10.004, error="429: full", retry_after="3")
    careless = Answer(10.0, 503, 10.002, error="503: full")
    failed = Answer(10.0, 500, 10.1, error="500: broken")
    figures = Load(10.0, 20.0, [refused, careless, failed]).figures()
    assert (figures["refused"], figures["errors"], figures["without_retry_after"]) == (2, 1, 1)
    assert figures["refusal_ms"]["max"] == pytest.approx(4.0)


def test_each_promise_is_judged_by_its_bar() -> None:
    calm = {"goodput_tokens_per_second": 100.0, "itl_ms": {"p99": 10.0}}
    stormy = {
        "goodput_tokens_per_second": 89.0, "itl_ms": {"p99": 11.0}, "refusal_ms": {"p99": 6.0},
        "memory_growth_mib": {"together": 3.0}, "errors": 0, "without_retry_after": 0,
    }  # fmt: skip
    found = {"at capacity": calm, "full door": calm, "3 x": stormy, "long prompts": {"ratios": {"text": 1.3}}}
    assert [is_met for *_, is_met in verdicts(found)] == ["no", "no", "yes", "yes", "yes", "no"]


def test_a_small_run_measures_every_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overload.json"
    small = ["--seconds", "0.5", "--warm", "0.2", "--factors", "3", "--windows", "1", "--window-seconds", "0.3"]
    flags = ["--streams", "2", "--output-len", "8", "--max-num-seqs", "4", "--kv-cache-memory", "16MiB"]
    assert overload.main([*small, *flags, "--out", str(out)]) == 0, capsys.readouterr().err
    results = json.loads(out.read_text())["results"]
    found = results["medians"]
    assert set(found) == {"at capacity", "full door", "3 x", "long prompts"}
    assert found["full door"]["completed"] > 0 and found["3 x"]["errors"] == 0
    assert set(found["long prompts"]["statuses"]) == {"text", "chat", "token ids"}
    assert all(set(seen) == {"400"} for seen in found["long prompts"]["statuses"].values())
