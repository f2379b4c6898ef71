"""The four ways to run these tests: QUIRE_KERNEL_TESTS=ref | interp | aot | gpu.

ref: the torch backend, the specification. interp: the Triton kernels in Triton's interpreter, which must be
chosen before triton is imported, so in a process of its own (test_interpreted.py starts it). aot: the compile
gate alone. gpu: the Triton kernels on a GPU. Unset: gpu where there is one, else ref; with the gate.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).parent
sys.path.append(str(HERE))

MODE = os.environ.get("QUIRE_KERNEL_TESTS") or ("gpu" if torch.cuda.is_available() else "ref")
if MODE not in ("ref", "interp", "aot", "gpu"):
    raise pytest.UsageError(f"QUIRE_KERNEL_TESTS is {MODE!r}; it can be ref, interp, aot or gpu")
if MODE == "interp":
    if "triton" in sys.modules:
        raise pytest.UsageError("triton was imported before its interpreter could be chosen")
    os.environ["TRITON_INTERPRET"] = "1"
    import interpreter

    interpreter.install()

from guards import Guards  # noqa: E402

_GATE = ("test_compile.py", "test_launch.py", "test_interpreted.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != HERE:
            continue
        if MODE == "interp" and item.path.name in _GATE:
            item.add_marker(pytest.mark.skip(reason="triton is interpreted in this process"))
        if MODE == "aot" and item.path.name not in _GATE[:2]:
            item.add_marker(pytest.mark.skip(reason="only the compile gate was asked for"))


@pytest.fixture(scope="session")
def mode() -> str:
    return MODE


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if MODE == "gpu" else "cpu"


@pytest.fixture(scope="session")
def backend() -> ModuleType:
    """The module under test, with the functions of kernels/__init__.py."""
    if MODE == "ref":
        from quire.kernels import cpu

        return cpu
    from quire.kernels import triton

    return triton


@pytest.fixture
def guards(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    """Guards around what a test puts on the device and around what the operation allocates; checked at the end."""
    made = Guards(device)
    if MODE != "ref":
        monkeypatch.setattr(torch, "empty", made.empty)
        monkeypatch.setattr(torch, "empty_like", made.empty_like)
    yield made
    monkeypatch.undo()
    made.check()
