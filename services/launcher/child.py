"""A child process: started by exec, watched by its pidfd, its output read line by line.

It dies with the launcher (shared/service.py asks the kernel for that), leads its own session, so
that a terminal's Ctrl-C reaches the launcher alone, and what it leaves behind dies with its group.
Knows nothing of what the child does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from typing import IO

import msgspec

from quire.shared.log_lines import read
from quire.shared.messages import Report

from .topology import ServiceSpec, child_environment

_TAIL_LINES = 50
_MAX_LINE_BYTES = 16 * 1024


class Ending(msgspec.Struct, frozen=True):
    """How a child ended."""

    code: int
    """Exit code, or minus the signal's number."""
    cause: str
    """Its own words: the detail of its failed report, or its last line."""

    @property
    def how(self) -> str:
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.code).name}"
            return f"killed by signal {-self.code}"
        return f"exit code {self.code}"


class Child:
    """One running child. `report` is the last one heard; `is_stopping` once it was asked to end."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.started = time.monotonic()
        self.report: Report | None = None
        self.ready_since: float | None = None
        self.is_stopping = False
        self.failed_at: float | None = None
        """When it reported failed; it is expected to end by itself right after."""
        self._process = subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=child_environment(spec),
        )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._output: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        self.output_fd = self._output.fileno()
        os.set_blocking(self.output_fd, False)
        self._partial = b""
        self._verdict = ""
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def was_ready(self) -> bool:
        return self.ready_since is not None

    @property
    def is_ready(self) -> bool:
        return self.report is not None and self.report.state == "ready"

    def hear(self, report: Report) -> bool:
        """Take a report; False for one that is older than what is known."""
        if self.report is not None and (report.incarnation, report.sequence) <= (
            self.report.incarnation,
            self.report.sequence,
        ):
            return False
        self.report = report
        if report.state == "ready" and self.ready_since is None:
            self.ready_since = time.monotonic()
        if report.state == "failed" and self.failed_at is None:
            self.failed_at = time.monotonic()
        return True

    def read_lines(self) -> list[str] | None:
        """Whole lines printed since the last call; None once it has closed its output. Never blocks."""
        try:
            data = os.read(self.output_fd, 1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE_BYTES:
            whole, self._partial = [*whole, self._partial], b""
        lines = [line.decode("utf-8", "replace").rstrip("\r") for line in whole]
        self._tail.extend(line for line in lines if line.strip())
        return lines

    def ask_to_stop(self) -> None:
        self.is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)

    def ask_to_leave(self) -> None:
        """The same while others of its kind go on: a frontend then serves what is connected, and refuses nobody."""
        if self.kind != "frontend":
            self.ask_to_stop()
            return
        self.is_stopping = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGUSR2)

    def kill(self) -> None:
        """Ends the child and all that it started, now, on purpose."""
        self.is_stopping = True
        self.kill_as_lost()

    def kill_as_lost(self) -> None:
        """The same for a child that is of no use any more: its end counts as a crash."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def condemn(self, verdict: str) -> None:
        """Say why it is about to be killed: nobody else will."""
        self._verdict = verdict

    def bury(self) -> Ending:
        """Take its exit code and last words once its pidfd says that it has ended; kills what it left in its group."""
        while self.read_lines():
            pass
        if self._partial.strip():
            self._tail.append(self._partial.decode("utf-8", "replace"))
        self.kill()  # before wait: as long as it is a zombie, nobody else can have its group's number
        code = self._process.wait()
        os.close(self.pidfd)
        self._output.close()
        return Ending(code, self._last_words())

    def _last_words(self) -> str:
        if self._verdict:
            return self._verdict
        if self.report is not None and self.report.state == "failed" and self.report.detail:
            return self.report.detail
        if not self._tail:
            return ""
        found = read(self._tail[-1])
        return (found[1] if found is not None else self._tail[-1].removeprefix("quire: ")).strip()
