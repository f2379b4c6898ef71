"""Fault points: faults at steps and rows that a test names, carried out by a worker, real or fake.

`--fault-points exception@step:20,nan@token:17` is an exception at step 20, and a row that gives no number once the
token ids of its prompt hold 17. Steps are the engine's, which count on when a worker is started again.
Knows no tensors: what a row without numbers is made of is its worker's to say.
"""

from __future__ import annotations

import os
import re
import signal
import time
from array import array
from collections.abc import Sequence

from msgspec import Struct

from quire.shared.messages import Plan

_POINT = re.compile(r"(?P<action>[a-z]+)(?:=(?P<value>\d+))?@(?P<kind>step|token):(?P<place>\d+)")
ACTIONS = ("delay", "exception", "nan", "oom", "exit", "kill", "freeze")
"""delay=MILLISECONDS, exit=CODE; kill is a SIGKILL and freeze a SIGSTOP to itself."""


class FaultError(RuntimeError):
    """The exception of a fault point."""


class FaultPoint(Struct, frozen=True):
    """One fault. Of `step` and `token` one is given."""

    action: str
    value: int = 0
    step: int | None = None
    token: int | None = None


class NanRow(Struct, frozen=True):
    """A row whose result shall be no number."""

    slot: int
    index: int
    """Among the step's sampling rows."""
    block: int
    """Holds the last of its tokens that were computed before the step."""


class _Row(Struct):
    num_tokens: int
    prompt: frozenset[int]
    blocks: array[int]


def parse(spec: str) -> list[FaultPoint]:
    """Raises ValueError with a sentence."""
    points = []
    for part in spec.split(","):
        found = _POINT.fullmatch(part.strip())
        if found is None or found["action"] not in ACTIONS:
            able = ", ".join(ACTIONS)
            raise ValueError(f"--fault-points {part!r} is not ACTION[=NUMBER]@step:N or @token:ID; actions: {able}")
        place = {found["kind"]: int(found["place"])}
        points.append(FaultPoint(found["action"], int(found["value"] or 0), **place))
    return points


class FaultPoints:
    """Follows the plans of one configuration, and strikes before a step is computed."""

    def __init__(self, points: Sequence[FaultPoint], block_size: int) -> None:
        self._points = points
        self._block_size = block_size
        self._rows: dict[int, _Row] = {}

    def before(self, plan: Plan) -> list[NanRow]:
        """Carry out what is due at this plan; returns rows to be spoilt. May not return, or raise."""
        for slot in plan.released:
            self._rows.pop(slot, None)
        for row in plan.new_rows:
            ids = ints(row.token_ids)
            prompt = frozenset(ids[: row.num_prompt_tokens])
            self._rows[row.slot] = _Row(len(ids), prompt, ints(row.block_ids))
        for slot, block in zip(ints(plan.added_block_slots), ints(plan.added_block_ids), strict=True):
            self._rows[slot].blocks.append(block)
        scheduled = list(zip(ints(plan.slots), ints(plan.num_scheduled), ints(plan.num_computed), strict=True))
        sampling = [(slot, computed) for slot, count, computed in scheduled if self._samples(slot, count + computed)]
        spoilt = []
        for point in self._points:
            if point.action == "nan":
                spoilt += self._nan_rows(point, plan.step, sampling)
            elif point.step == plan.step or any(point.token in self._rows[slot].prompt for slot, _, _ in scheduled):
                _strike(point, plan.step)
        return spoilt

    def _samples(self, slot: int, end: int) -> bool:
        row = self._rows[slot]
        if end != row.num_tokens:
            return False
        row.num_tokens += 1
        return True

    def _nan_rows(self, point: FaultPoint, step: int, sampling: list[tuple[int, int]]) -> list[NanRow]:
        """Of a token all rows that have it, of a step its first; a row has its turn once some of it is computed."""
        rows = [
            NanRow(slot, index, self._rows[slot].blocks[(computed - 1) // self._block_size])
            for index, (slot, computed) in enumerate(sampling)
            if computed and (point.step == step or point.token in self._rows[slot].prompt)
        ]
        return rows if point.step is None else rows[:1]


def ints(data: bytes) -> array[int]:
    ids = array("i")
    ids.frombytes(data)
    return ids


def _strike(point: FaultPoint, step: int) -> None:
    match point.action:
        case "delay":
            time.sleep(point.value / 1000)
        case "exception":
            raise FaultError(f"fault point at step {step}")
        case "oom":
            raise MemoryError(f"fault point at step {step}")
        case "exit":
            os._exit(point.value)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
