"""The chain benchmark: its arithmetic, and a small run of everything it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import chain
from bench.chain import ALPHABET, delays, read_stamps
from bench.chain_loads import Stream
from bench.deployment import Deployment

STAMPS = [(100.0 + 0.02 * step, step) for step in range(500)]


def letter(step: int) -> str:
    return ALPHABET[step % len(ALPHABET)]


def test_delay_of_a_token_is_from_its_own_step_even_when_late() -> None:
    stream = Stream(sent=0.0, arrivals=[100.0 + 0.02 * 80 + 0.001, 100.0 + 0.02 * 83 + 0.004])
    stream.texts = [letter(80), letter(81) + letter(83)]
    expected = [0.001, 0.044, 0.004]
    assert delays(stream, STAMPS, 0.0, 1000.0) == pytest.approx(expected)
    assert delays(stream, STAMPS, 101.65, 1000.0) == pytest.approx(expected[1:])


def test_stamps_are_read_in_order_without_the_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "stamps"
    path.write_bytes(b"".join(chain._STAMP.pack(*pair) for pair in ((0, 0), (9, 3_000_000_000), (8, 2_000_000_000))))
    assert read_stamps(path) == [(2.0, 8), (3.0, 9)]


@pytest.mark.parametrize("flags", [[], ["--no-http", "--tokenizers", "2"]])
def test_small_run_measures_every_token(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chain.json"
    small = ["--streams", "1,5", "--seconds", "0.4", "--step-ms", "10", "--flat-tokens", "60", "--first-tokens", "2"]
    assert chain.main([*small, *flags, "--out", str(out)]) == 0, capsys.readouterr().err
    found = json.loads(out.read_text())["results"]["medians"]
    assert found["flat 5"]["tokens_per_second"] > 0 and found["flat 5"]["tokens_per_frame"] >= 1
    paced = found["paced 5"]
    assert 0 < paced["tokens"] <= 200 and paced["added_ms"]["p50"] > 0
    services = {"worker-0-0", "engine-0", "tokenizer-0", "client"} | ({"tokenizer-1"} if flags else {"frontend-0"})
    assert set(paced["cpu_us_per_token"]) == services and all(paced["cpu_us_per_token"].values())
    assert found["first token, 32 words"]["ttft_ms"]["p50"] > 0
    table = capsys.readouterr().out
    assert "paced 5" in table and "CPU us per token" in table


def test_service_that_ends_is_named_with_its_last_words() -> None:
    with Deployment(frontends=0, engine_flags=["--max-num-seqs", "none"]) as deployment:
        deployment.processes["engine-0"].wait(60)
        with pytest.raises(RuntimeError, match=r"(?s)engine-0 ended with code 2:.*'none' is not a int"):
            deployment.check()
