"""The benchmark of structured output, on the demo model."""

from __future__ import annotations

import json

from bench import structured


def test_masks_and_streams_are_measured_and_written_down(tmp_path, capsys):
    out = tmp_path / "structured.json"
    flags = ["--streams", "4", "--output-len", "8", "--rounds", "1", "--mask-rows", "1", "3", "--out", str(out)]
    assert structured.main(flags) == 0
    results = json.loads(out.read_text())["results"]
    assert set(results["masks"]) == {"1", "3"} and results["masks"]["3"]["masks_ms"]["p50"] > 0
    assert results["steps"]["masks"]["steps"] == results["steps"]["wait"]["steps"] > 8
    assert 0 < results["steps"]["masks"]["p50"] <= results["steps"]["masks"]["p99"]
    assert results["medians"]["constrained"] > 0 and results["medians"]["share"] > 0
    assert "4 streams" in capsys.readouterr().out


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    assert structured.main(["--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("quire bench: ")
