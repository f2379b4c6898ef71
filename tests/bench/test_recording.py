"""What a result says of how it was taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import recording

CHECKOUT = Path(recording.__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("argv0", "shown"),
    [
        (str(CHECKOUT / "bench/serving.py"), "python bench/serving.py --rounds 3"),
        (str(CHECKOUT / "bench/peers/compare.py"), "python bench/peers/compare.py --rounds 3"),
        ("/usr/local/bin/quire", "quire --rounds 3"),
    ],
)
def test_the_command_can_be_run_again_from_the_checkout(
    argv0: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [argv0, "--rounds", "3"])
    assert recording.record("any", {})["command"] == shown


def test_a_key_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quire", "--api-key", "secret", "--api-key=secret", "--rounds", "3"])
    assert recording.record("any", {})["command"] == "quire --api-key *** --api-key=*** --rounds 3"
