"""`python -m bench.gpu`: every section in turn, each within its time, all within the deadline; the tables last.

Started by bench/gpu.sh. A section that fails, takes too long or would come too late does not stop the next one.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.recording import record, table, write

from .child import Answer
from .setting import ROOT, Setting


class Section(NamedTuple):
    """A module of this folder. `seconds`: what it may take on a GPU at most; `least`: with less it is not begun."""

    name: str
    title: str
    seconds: float
    least: float


SECTIONS = (
    Section("ceilings", "Ceilings of the device", 40, 10),
    Section("correctness", "Correctness", 200, 40),
    Section("weights", "Weights to the device", 40, 15),
    Section("operations", "Kernels", 120, 30),
    Section("decode", "Decode sweep", 110, 30),
    Section("prefill", "One long prompt", 60, 20),
    Section("idle", "Idle share in steady decode", 40, 15),
    Section("startup", "Start-up", 90, 30),
    Section("http_sweep", "HTTP sweep", 90, 30),
    Section("eight_bits", "Eight bits", 70, 20),
    Section("peer", "Beside transformers' continuous batching", 90, 40),
)
_MARGIN_SECONDS = 8.0
"""Of the deadline, for the tables and for what is still to be written."""


class Child:
    """The process of sections; a new one after one was killed."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1

    def run(self, name: str, seconds: float) -> Answer:
        """One section. An Answer with an error when it fails, dies, or takes longer than `seconds`."""
        process = self._process or self._start()
        begin = time.monotonic()
        if process.stdin is not None:
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
        line = self._line(begin + seconds)
        if not line.endswith(b"\n"):
            is_late = time.monotonic() >= begin + seconds
            how = f"took more than {seconds:.0f} s" if is_late else f"ended its process ({process.wait()})"
            self.close()
            return Answer(time.monotonic() - begin, error=f"the section {how}")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.outcome is not None:
            self._setting.learn(name, answer.outcome.figures)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        self._answers, theirs = os.pipe()
        command = [sys.executable, "-m", "bench.gpu.child", msgspec.json.encode(self._setting).decode()]
        self._process = subprocess.Popen(
            [*command, str(theirs)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _path()},
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            pass_fds=[theirs],
            start_new_session=True,
        )
        os.close(theirs)
        return self._process

    def _line(self, deadline: float) -> bytes:
        """Up to a line; less when it has ended, or the deadline has come."""
        received = b""
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data:
                break
            received += data
        return received

    def close(self) -> None:
        """Ends it and all that it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, 9)
        except ProcessLookupError:
            pass
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        os.close(self._answers)
        self._process = None


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def run_all(options: argparse.Namespace, folder: Path, deadline: float) -> dict[str, dict[str, Any]]:
    """Every section's record by its name."""
    child = Child(Setting(options.device, options.tiny, str(folder)))
    found: dict[str, dict[str, Any]] = {}
    try:
        for section in SECTIONS:
            if options.only and section.name not in options.only:
                continue
            left = deadline - time.monotonic()
            if left < (0 if options.tiny else section.least):
                found[section.name] = {"skipped": f"{max(0.0, left):.0f} s were left"}
                continue
            answer = child.run(section.name, min(section.seconds, left))
            found[section.name] = {"seconds": answer.seconds}
            if answer.outcome is None:
                found[section.name]["error"] = answer.error
            else:
                found[section.name] |= msgspec.to_builtins(answer.outcome)
            print(f"{section.title}: {answer.seconds:.1f} s {answer.error.partition(chr(10))[0]}", flush=True)
            _keep(found, options)
    finally:
        child.close()
    return found


def _keep(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Path | None:
    """What there is so far: whoever stops this early has it."""
    if options.output is None:
        return None
    settings = {name: getattr(options, name) for name in ("device", "tiny", "minutes", "label")}
    return write(record("gpu", found, settings), Path(options.output) / "gpu.json")


def report(found: dict[str, dict[str, Any]]) -> str:
    parts = []
    for section in SECTIONS:
        one = found.get(section.name)
        if one is None:
            continue
        parts.append(f"== {section.title}")
        if "skipped" in one:
            parts.append(f"skipped: {one['skipped']}")
        elif "error" in one:
            parts.append(f"failed: {one['error'][:600]}")
        else:
            parts.append(table(one["header"], one["rows"]))
            parts += [f"note: {note[:600]}" for note in one["notes"]]
    return "\n".join(parts)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="bench/gpu.sh", description="All that is measured on a GPU.")
    add = made.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that all of it runs (default: cuda)")
    add("--tiny", action="store_true", help="tiny models and few repetitions: to see that all of it runs")
    add("--minutes", type=float, default=9.5, help="after which nothing is begun, and all is ended (default: 9.5)")
    add("--only", nargs="+", choices=[section.name for section in SECTIONS], help="these sections")
    add("--output", help="folder for gpu.json")
    add("--label", default="", help="for the record: the commit, where there is no git")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    deadline = time.monotonic() + options.minutes * 60 - _MARGIN_SECONDS
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as folder:
        found = run_all(options, Path(folder), deadline)
    print("\n" + report(found))
    written = _keep(found, options)
    if written is not None:
        print(f"\nwritten to {written}")
    return 1 if any("error" in one for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
