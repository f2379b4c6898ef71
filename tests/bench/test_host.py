"""The benchmark of host time drives the worker's device runner and the engine's scheduler, and records both."""

from __future__ import annotations

import json

from bench import host


def test_worker_and_engine_are_measured_at_each_number_of_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(host.DeviceStep, "write", host.DeviceStep.write)  # which the benchmark stubs
    out = tmp_path / "host.json"
    assert host.main(["--rows", "1", "5", "--steps", "20", "--out", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert set(results) == {"1", "5"}
    for parts in results.values():
        assert set(parts) == {"worker", "answer", "schedule", "commit", "engine"}
        assert all(parts[name]["p50"] > 0 for name in parts)
    assert "worker, 5 rows" in capsys.readouterr().out
