"""The start-up checklist: a line per service as it gets ready, the memory plan, and the URL.

The supervisor's observer of `quire serve` and `quire run engine`. Prints through a Terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from quire.shared.log_lines import read
from quire.shared.messages import Report

from .child import Child, Ending
from .terminal import Terminal, size

_CHATTY = ("DEBUG", "INFO")
"""Levels of log lines that the checklist says better while services start."""


class Checklist:
    """`on_ready(seconds)` gives the closing lines."""

    def __init__(self, terminal: Terminal, log_level: str, on_ready: Callable[[float, dict[str, Report]], list[str]]):
        self._terminal = terminal
        self._is_verbose = log_level == "debug"
        self._on_ready = on_ready
        self._began = time.monotonic()
        self._ready: set[str] = set()
        self._details: dict[str, str] = {}
        self._reports: dict[str, Report] = {}
        self._is_up = False
        self._is_stopping = False

    def started(self, child: Child) -> None:
        pass

    def reported(self, child: Child, report: Report) -> None:
        self._reports[child.name] = report
        if report.state == "ready" and child.name not in self._ready:
            self._ready.add(child.name)
            self._tick(child, report)
        elif report.state == "starting" and not self._is_up:
            self._await(child, report)

    def printed(self, child: Child, line: str) -> None:
        if self._is_up or self._is_verbose or self._is_stopping or (read(line) or ("",))[0] not in _CHATTY:
            self._terminal.line(line)

    def ended(self, child: Child, ending: Ending, is_expected: bool) -> None:
        self._ready.discard(child.name)
        if is_expected and self._is_up and not self._is_stopping:
            self._terminal.line(f"  {child.name} has stopped")

    def restarting(self, cause: str, delay_seconds: float) -> None:
        when = f"in {delay_seconds:g} s" if delay_seconds else "now"
        self._terminal.line(self._terminal.red(f"quire: {cause}; it is started again {when}"))

    def gave_up(self, cause: str) -> None:
        self._terminal.line(self._terminal.red(f"quire: given up: {cause}"))

    def ready(self, seconds: float) -> None:
        self._is_up = True
        self._terminal.status("")
        for report in self._reports.values():
            self._print_memory_plan(report)
        for line in self._on_ready(seconds, self._reports):
            self._terminal.line(line)

    def stopping(self) -> None:
        self._is_stopping = True
        self._terminal.status("")

    def _tick(self, child: Child, report: Report) -> None:
        seconds = time.monotonic() - child.started
        if not self._is_up:
            seconds = time.monotonic() - self._began
        detail = f"  {self._terminal.dim(report.detail)}" if report.detail else ""
        self._terminal.line(f"  {self._terminal.tick} {child.name:<14}{seconds:6.2f} s{detail}")

    def _await(self, child: Child, report: Report) -> None:
        """Show what is awaited: a bar on a terminal, otherwise a line when it changes to something new."""
        what = report.detail or "starting"
        if report.progress > 0:
            self._terminal.status(f"    {child.name:<14}{self._terminal.bar(report.progress)}  {what}")
        else:
            self._terminal.status(f"    {child.name}: {what}")

    def _print_memory_plan(self, report: Report) -> None:
        if not report.memory_plan:
            return
        self._terminal.line(f"  memory of {report.name}")
        width = max(len(what) for what, _ in report.memory_plan)
        for what, num_bytes in report.memory_plan:
            self._terminal.line(f"    {what:<{width}}  {size(num_bytes):>10}")
