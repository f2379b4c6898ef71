"""The GPU's benchmark without a GPU: every section for real, on tiny sizes, and what happens when one goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from bench.gpu import __main__ as gpu
from bench.gpu import needs
from bench.gpu.setting import Setting
from quire.shared.config_file import tomllib

ROOT = Path(__file__).resolve().parents[2]


def test_a_dry_run_goes_through_every_section(tmp_path: Path) -> None:
    command = [str(ROOT / "bench" / "gpu.sh"), "--python", sys.executable, "--device", "cpu", "--tiny"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = json.loads((tmp_path / "gpu.json").read_text())
    assert recorded["benchmark"] == "gpu" and recorded["commit"] and recorded["settings"]["device"] == "cpu"
    assert "failed:" not in done.stdout and "skipped:" not in done.stdout
    for section in gpu.SECTIONS:
        found = recorded["results"][section.name]
        assert found["rows"] and all(len(row) == len(found["header"]) for row in found["rows"]), section.name
        assert f"== {section.title}" in done.stdout
    results = recorded["results"]
    assert results["correctness"]["figures"]["is_right"] is True
    assert not results["operations"]["notes"]
    assert results["weights"]["figures"]["wrong"] == []
    assert results["ceilings"]["figures"]["flops"] > 0
    assert [row[0] for row in results["peer"]["rows"]] == ["quire", "transformers"]
    assert all(row[-1] == 0 for row in results["http_sweep"]["rows"] + results["peer"]["rows"])
    assert all(0 < row[2] < 100 for row in results["idle"]["rows"])


def test_a_python_that_lacks_something_is_told_all_of_it_in_one_sentence(monkeypatch) -> None:
    assert needs.complaint() == ""
    said = needs.complaint({"torch": "torch", "no_such_one": "no-such-one", "nor_this": "nor-this"})
    assert "lacks no-such-one nor-this: put their wheels into a folder" in said and "--wheels" in said
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no C compiler" in needs.complaint()


def test_all_that_a_server_imports_is_looked_for() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    named = {re.split("[<>=;]", line)[0] for line in dependencies if "python_version <" not in line}
    assert named <= set(needs.PACKAGES.values())
    header = (ROOT / "bench" / "gpu.sh").read_text()
    assert all(package in header for package in needs.PACKAGES.values())


def test_a_section_that_takes_too_long_or_fails_does_not_stop_the_next(tmp_path: Path, capfd) -> None:
    child = gpu.Child(Setting("cpu", True, str(tmp_path)))
    try:
        assert "took more than" in child.run("ceilings", 0.01).error
        assert "No module named" in child.run("no_such_section", 60.0).error
        answer = child.run("ceilings", 60.0)
        assert answer.outcome is not None and len(answer.outcome.rows) == 2
    finally:
        child.close()


def test_what_would_come_too_late_is_skipped_and_said(tmp_path: Path) -> None:
    options = gpu.parser().parse_args(["--device", "cpu", "--output", str(tmp_path)])
    found = gpu.run_all(options, tmp_path, time.monotonic() + 5)
    assert all(one["skipped"] for one in found.values())
    assert gpu.report(found).count("skipped:") == len(gpu.SECTIONS)


def test_sections_and_margins_fit_into_the_time_of_a_loan() -> None:
    options = gpu.parser().parse_args([])
    assert options.minutes < 10
    assert all(section.least <= section.seconds for section in gpu.SECTIONS)


def test_only_the_ceilings_are_taken_for_ceilings(tmp_path: Path) -> None:
    setting = Setting("cpu", True, str(tmp_path))
    setting.learn("ceilings", {"bytes_per_second": 1e9, "flops": 2e9})
    setting.learn("another", {"bytes_per_second": {"of": "something else"}})
    assert (setting.bytes_per_second, setting.flops) == (1e9, 2e9)
