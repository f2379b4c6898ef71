"""The kill matrix: each kind of process killed, frozen or restarted under load, and what clients and probes see.

`run_row` is one fault on a fresh server. Used by test_kill_matrix.py (each row once, where no time decides) and
scripts/killmatrix (many rounds, with a table of what is promised and what was measured at the end).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec import Struct

from quire.services.launcher.restart import restart
from tests.end_to_end.faulty_load import Probe, bodies, load, pauses, percentile
from tests.end_to_end.history import Content, content, judge
from tests.end_to_end.running_server import RunningServer, serving

STALL_LIMIT = 2.0
"""Seconds; the default of 10 only takes longer."""
SERVER = ("--tokenizers", "2", "--frontends", "2", "--dtype", "float32", "--stall-limit", str(STALL_LIMIT))
HARD_LIMIT = 1.0
"""Seconds; a 503 that is promised sooner may come so late on a busy machine before the script calls it broken."""
NEVER = None


class Row(Struct, frozen=True):
    """One fault, and what it may cost. Times in seconds, from the fault."""

    name: str
    victims: tuple[str, ...]
    is_freeze: bool = False
    command: tuple[str, ...] = ()
    """In place of a fault: the arguments of a `quire restart`."""
    breaks_connections: bool = False
    """Those of the struck frontend; all others must be whole."""
    is_mended: bool = True
    """The victims get successors. If not, the supervisor itself is the victim."""
    unready_within: float | None = NEVER
    ready_within: float = 5.0
    """Or, where nothing is mended: gone within."""


_AFTER_STALL = STALL_LIMIT + 1.0
_BOTH = ("tokenizer-0", "tokenizer-1")
ROWS = (
    Row("one tokenizer", ("tokenizer-0",), ready_within=3.0),
    Row("all tokenizers", _BOTH, unready_within=1.0),
    Row("one frontend", ("frontend-1",), breaks_connections=True, ready_within=2.0),
    Row("engine", ("engine-0",), unready_within=0.25),
    Row("worker", ("worker-0-0",), unready_within=1.0, ready_within=10.0),
    Row("supervisor", ("launcher-0",), breaks_connections=True, is_mended=False, ready_within=1.0),
    Row("frozen tokenizer", ("tokenizer-0",), is_freeze=True, ready_within=_AFTER_STALL + 3.0),
    Row("all frozen tokenizers", _BOTH, is_freeze=True, unready_within=_AFTER_STALL, ready_within=_AFTER_STALL + 5.0),
    Row("frozen frontend", ("frontend-1",), True, breaks_connections=True, ready_within=_AFTER_STALL + 2.0),
    Row("frozen engine", ("engine-0",), is_freeze=True, unready_within=_AFTER_STALL, ready_within=_AFTER_STALL + 5.0),
    Row("frozen worker", ("worker-0-0",), True, unready_within=_AFTER_STALL, ready_within=_AFTER_STALL + 10.0),
    Row(
        "frozen supervisor", ("launcher-0",), True, breaks_connections=True, is_mended=False, ready_within=_AFTER_STALL
    ),
    Row("restart frontend", (), command=("frontend",), ready_within=60.0),
    Row("restart tokenizer", (), command=("tokenizer",), ready_within=10.0),
    Row("restart engine", (), command=("engine",), unready_within=1.0),
    Row("restart worker", (), command=("worker",), unready_within=1.0, ready_within=10.0),
)


class Outcome(Struct):
    """What one row showed."""

    row: str
    num_same: int = 0
    num_broken: int = 0
    num_different: int = 0
    num_struck: int = 0
    """Requests that were under way when the fault came."""
    unready_after: float | None = None
    ready_after: float | None = None
    """When every victim had a successor and /health was 200, or all was gone."""
    pause: float = 0.0
    """Seconds that the streams hardest hit waited longer than usual (99th percentile)."""
    seconds: float = 0.0
    remarks: list[str] = []


def run_row(row: Row, reference: list[Content] | None = None) -> tuple[Outcome, list[Content]]:
    """On a server of its own. Returns what was seen, and the reference for other rounds and rows."""
    began = time.monotonic()
    with serving(*SERVER) as server:
        if reference is None:
            reference = [content(answer) for answer in asyncio.run(load(server, bodies()))]
        outcome = strike(server, row, reference)
    outcome.seconds = time.monotonic() - began
    return outcome, reference


def strike(server: RunningServer, row: Row, reference: list[Content]) -> Outcome:
    """One fault on a running server, under load; waits until all is well again."""
    outcome = Outcome(row.name)
    probe = Probe(server.url)
    old = server.pids()

    def fault() -> None:
        probe.fault_at = time.monotonic()
        for victim in row.victims:
            os.kill(old[victim], signal.SIGSTOP if row.is_freeze else signal.SIGKILL)
        if row.command:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = restart([*row.command, "--run-dir", str(server.run_dir / "run")])
            if code:
                outcome.remarks.append(said.getvalue())
            else:
                outcome.ready_after = time.monotonic() - probe.fault_at

    probe.start()
    try:
        answers = asyncio.run(load(server, bodies(), fault))
        if not row.command:
            outcome.ready_after = _mended(server, row, old, probe)
    finally:
        probe.is_over = True
        probe.join(5)
    outcome.unready_after = probe.unready_after
    outcome.num_struck = sum(answer.ended > probe.fault_at for answer in answers)
    outcome.pause = percentile(pauses(answers, probe.fault_at), 0.99)
    verdict = judge(bodies(), answers, reference)
    outcome.num_same, outcome.num_broken = verdict.num_same, verdict.num_broken
    outcome.num_different = verdict.num_different
    outcome.remarks += verdict.remarks
    return outcome


def _mended(server: RunningServer, row: Row, old: dict[str, int], probe: Probe, limit: float = 60.0) -> float | None:
    """Seconds from the fault until the server is what it should be after it; None: never."""
    began = probe.fault_at
    if row.is_mended:
        is_well = lambda: _is_whole(server, row, old)  # noqa: E731
    else:
        is_well = lambda: not any(is_alive(pid) for pid in old.values())  # noqa: E731
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if is_well():
                return time.monotonic() - began
        time.sleep(0.02)
    return None


def _is_whole(server: RunningServer, row: Row, old: dict[str, int]) -> bool:
    now = server.pids()
    if any(now.get(victim, old[victim]) == old[victim] for victim in row.victims):
        return False
    states = {one["name"]: one["state"] for one in json.loads(server.get("/status"))["services"]}
    return all(states.get(victim) == "ready" for victim in row.victims) and bool(server.get("/health"))


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def verdict(row: Row, outcome: Outcome) -> list[str]:
    """What of a row's promises was not kept, apart from times."""
    broken = []
    if not outcome.num_struck:
        broken.append("nothing was under way when the fault came")
    if outcome.num_different:
        broken.append(f"{outcome.num_different} answers differ")
    if outcome.num_broken and not row.breaks_connections:
        broken.append(f"{outcome.num_broken} answers are broken")
    if outcome.ready_after is None:
        broken.append("it did not come back" if row.is_mended else "it is not what it should be after it")
    if row.unready_within is NEVER and outcome.unready_after is not None and row.is_mended:
        broken.append("/health was 503")
    return broken


def lateness(row: Row, outcome: Outcome) -> list[str]:
    """Which times were longer than promised."""
    late = []
    if row.unready_within is not NEVER and (outcome.unready_after or 0.0) > max(row.unready_within, HARD_LIMIT):
        late.append(f"503 came after {outcome.unready_after:.2f} s, not within {row.unready_within:g}")
    if (outcome.ready_after or 0.0) > row.ready_within:
        late.append(f"ready again after {outcome.ready_after:.2f} s, not within {row.ready_within:g}")
    return late


def table(outcomes: Sequence[Outcome]) -> str:
    """For people: rows in the order of ROWS, times as the worst of all rounds, what is promised in brackets."""
    head = f"{'fault':<22}{'rounds':>7}{'struck':>8}{'same':>8}{'broken':>8}{'wrong':>8}"
    lines = [head + f"{'503 after':>18}{'ready after':>18}{'pause p99':>11}"]
    for row in ROWS:
        of_row = [outcome for outcome in outcomes if outcome.row == row.name]
        if of_row:
            unready = max((one.unready_after for one in of_row if one.unready_after is not None), default=None)
            ready = max(float("inf") if one.ready_after is None else one.ready_after for one in of_row)
            counts = (
                (one.num_struck for one in of_row),
                (one.num_same for one in of_row),
                (one.num_broken for one in of_row),
                (one.num_different for one in of_row),
            )
            lines.append(
                f"{row.name:<22}{len(of_row):>7}"
                + "".join(f"{sum(column):>8}" for column in counts)
                + f"{_time(unready, row.unready_within)}{_time(ready, row.ready_within)}"
                + f"{max(one.pause for one in of_row):>9.2f} s"
            )
    return "\n".join(lines)


def _time(measured: float | None, promised: float | None) -> str:
    shown = "never" if measured is None else f"{measured:.2f} s"
    return f"{shown:>10} ({'never' if promised is None else f'{promised:g}'})".rjust(18)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/killmatrix", description="Kill each kind of process under load.")
    parser.add_argument("--rounds", type=int, default=1, help="of each row (default 1)")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="only these rows")
    options = parser.parse_args(argv)
    outcomes: list[Outcome] = []
    is_kept = True
    reference = None
    for row in ROWS:
        if options.row and row.name not in options.row:
            continue
        for _ in range(options.rounds):
            outcome, reference = run_row(row, reference)
            outcomes.append(outcome)
            broken = [*verdict(row, outcome), *lateness(row, outcome)]
            for remark in [*broken, *outcome.remarks[:3]] if broken else ():
                is_kept = False
                print(f"  {row.name}: {remark[:2000]}", flush=True)
    print(table(outcomes))
    print(f"{sum(outcome.seconds for outcome in outcomes) / max(1, len(outcomes)):.1f} s a row")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
