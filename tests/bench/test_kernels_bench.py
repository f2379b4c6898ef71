"""The operations' benchmark on few and small shapes: what it measures, and the floors it sets beside it."""

from __future__ import annotations

import json

import pytest

from bench import kernels as bench_kernels
from quire import kernels

SMALL = bench_kernels.Dimensions(64, 4, 2, 16, 96, 500)


@pytest.fixture(autouse=True)
def only_torch(monkeypatch):
    """Nothing is compiled here, and what other tests compute with stays as it is."""
    monkeypatch.setattr(bench_kernels, "usable_backends", lambda: ["torch"])
    monkeypatch.setattr(bench_kernels, "_COLD_BYTES", 1 << 16)
    monkeypatch.setattr(bench_kernels, "MODELS", {"A": SMALL})
    monkeypatch.setattr(bench_kernels, "measured_machine", lambda: bench_kernels.Machine(1e9, 1e10))
    yield
    kernels.use("torch")


def test_every_operation_is_measured_beside_its_floor(tmp_path, capsys):
    out = tmp_path / "kernels.json"
    flags = ["--rows", "1", "3", "--prefill", "20", "--seconds", "0", "--out", str(out)]
    assert bench_kernels.main(flags) == 0
    rows = json.loads(out.read_text())["results"]["A"]
    names = {row["operation"] for row in rows}
    assert {"qkv", "head", "rope_and_cache", "attention, decode", "attention, prefill", "greedy", "sample"} <= names
    assert all(row["ms"]["torch"] > 0 and row["floor_ms"] > 0 for row in rows)
    assert "best / floor" in capsys.readouterr().out


def test_the_floor_is_the_longer_of_reading_and_multiplying():
    machine = bench_kernels.Machine(1e9, 1e10)
    assert machine.floor_ms(2e6, 1e6) == 2.0
    assert machine.floor_ms(1e6, 4e7) == 4.0


def test_decode_steps_of_the_demo_model_are_measured(capsys):
    flags = ["--only", "greedy", "--rows", "1", "2", "--prefill", "4", "--seconds", "0"]
    folder = bench_kernels.model_files.find_model(None)
    assert bench_kernels.main([*flags, "--step", str(folder), "--kernels", "torch", "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("decode step") == 2


def test_a_flag_that_nobody_knows_ends_it():
    with pytest.raises(SystemExit):
        bench_kernels.main(["--no-such-flag"])
