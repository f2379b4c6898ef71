"""`quire doctor` here, and on machines that lack something."""

from __future__ import annotations

import json
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from quire.services.launcher import doctor as doctor_module
from quire.services.launcher.doctor import doctor, findings

MACHINE: dict[str, Any] = {
    "torch": "2.99", "cuda": None, "has_triton": True, "has_c_compiler": True, "cpus": 4, "has_bfloat16": True,
    "memory_bytes": 8 << 30,
    "native": {"level": "avx2", "state": "there", "detail": "/lib"}, "gpus": [],
}  # fmt: skip
GPU = {"name": "H200", "capability": "9.0", "free_bytes": 139 << 30, "total_bytes": 140 << 30}


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch):
    """What a machine like MACHINE with some differences would be told."""

    def tell(**differences: Any) -> dict[str, str]:
        shown = json.dumps({**MACHINE, **differences})
        done = subprocess.CompletedProcess([], 0, "a library's chatter\n" + shown + "\n", "")
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
        return {f"{finding.text} {finding.remedy}": finding.level for finding in doctor_module._device()}

    return tell


def level_of(found: dict[str, str], part: str) -> str:
    (level,) = {level for text, level in found.items() if part in text}
    return level


def test_this_machine_can_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(["--port", "0"]) == 0
    said = capsys.readouterr().out
    for part in ("Python", "all packages are there", "files", "run directories", "torch 2.", "CPUs to use", "kernels"):
        assert part in said


def test_what_is_in_the_way_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str], on_machine: Any) -> None:
    on_machine()
    assert doctor([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().out


def test_a_taken_port_is_told_and_not_in_the_way(on_machine: Any) -> None:
    on_machine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = {finding.text: finding.level for finding in findings(None, port)}
    assert level_of(found, f"port {port}") == "note"


def test_packages_that_are_missing_or_old_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["msgspec>=999", "no-such-package>=1", "also-missing; extra == 'test'", "numpy>=1"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    (finding,) = doctor_module._packages()
    assert finding.level == "bad" and "no-such-package is missing" in finding.text
    assert "wanted is >=999" in finding.text and "also-missing" not in finding.text and "numpy" not in finding.text


def test_few_descriptors_are_worth_knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module.resource, "getrlimit", lambda which: (1024, 1024))
    (finding,) = doctor_module._limits()
    assert finding.level == "note" and "1024" in finding.text


def test_gpus_are_looked_at(on_machine: Any) -> None:
    assert level_of(on_machine(gpus=[GPU]), "H200") == "fine"
    assert level_of(on_machine(gpus=[{**GPU, "free_bytes": 20 << 30}]), "--memory-utilization") == "note"
    assert level_of(on_machine(gpus=[GPU], has_triton=False), "Triton") == "bad"
    assert level_of(on_machine(gpus=[GPU], has_c_compiler=False), "no C compiler") == "bad"
    assert not any("compiler" in said for said in on_machine(has_c_compiler=False)), "a CPU's worker needs none of it"


def test_a_gpu_that_torch_does_not_see_is_in_the_way(on_machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert level_of(on_machine(), "no GPU") == "fine"
    monkeypatch.setattr(doctor_module.os.path, "exists", lambda path: path == "/dev/nvidiactl")
    assert level_of(on_machine(), "sees none") == "bad"


def test_a_cpu_that_lacks_something_is_told(on_machine: Any) -> None:
    assert level_of(on_machine(has_bfloat16=False), "float32") == "note"
    none = {"level": "avx2", "state": "none", "detail": "there is no g++"}
    assert level_of(on_machine(native=none), "install g++") == "note"
    assert level_of(on_machine(native={**none, "state": "to compile"}), "first start") == "fine"


def test_a_torch_that_breaks_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: libcudart\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (finding,) = doctor_module._device()
    assert finding.level == "bad" and finding.remedy == "ImportError: libcudart"
