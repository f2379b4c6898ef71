"""Masks in the worker: waited for among other messages, applied on the host and on a device."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from quire import kernels
from quire.services.worker.device_stream import ImmediateStream
from quire.services.worker.errors import PlanError, StepAbandoned
from quire.services.worker.inbox import Inbox
from quire.services.worker.masks import MaskRows, apply_masks
from quire.services.worker.slot_lengths import Limits
from quire.shared.messages import Configure, Hello, Masks, Plan

VOCAB = 70


def bits(*rows: list[int]) -> np.ndarray:
    """int32 [R, 3] with these ids allowed."""
    allowed = np.zeros((len(rows), 96), np.uint8)
    for row, ids in enumerate(rows):
        allowed[row, ids] = 1
    return np.packbits(allowed, axis=1, bitorder="little").view(np.int32)


def masks(rows: list[int], *allowed: list[int]) -> Masks:
    return Masks(7, np.array(rows, np.int32).tobytes(), bits(*allowed).tobytes())


@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [0, 2]])
def test_only_allowed_tokens_of_masked_rows_keep_their_logits(rows):
    logits = torch.randn(3, VOCAB)
    before = logits.clone()
    allowed = [[0, 31, 32, 69], [5], [64, 65]][: len(rows)]
    kernels.keep_allowed(logits, torch.tensor(rows), torch.from_numpy(bits(*allowed)))
    for row in range(3):
        kept = allowed[rows.index(row)] if row in rows else list(range(VOCAB))
        assert torch.isfinite(logits[row]).nonzero().flatten().tolist() == kept
        assert torch.equal(logits[row][kept], before[row][kept])


@pytest.mark.parametrize(
    "wrong", [masks([3], [1]), masks([-1], [1]), masks([1, 0], [1], [1]), Masks(7, b"\0" * 4, b"\0" * 8)]
)
def test_masks_that_do_not_fit_the_step_are_a_broken_plan(wrong):
    with pytest.raises(PlanError):
        apply_masks(torch.zeros(3, VOCAB), wrong)


def test_on_a_device_masks_lie_behind_the_bits_of_slots_and_both_must_allow_a_token():
    limits = Limits(4, 64, 128, 16, 8, VOCAB)
    samples = np.array([False, True, True, True])
    found = MaskRows(masks([0, 2], [1, 2, 3], [4, 5]), samples, limits)
    assert (found.rows.tolist(), found.places.tolist()) == ([1, 3], [4, 5])
    allowed = torch.zeros(8, 3, dtype=torch.int32)
    allowed[1] = torch.from_numpy(bits([2, 9]))[0]
    grammar_rows = torch.full((4,), -1, dtype=torch.int32)
    found.send(ImmediateStream(), allowed, grammar_rows, np.array([-1, 1, 2, -1], np.int32))
    assert torch.equal(allowed[4:6], torch.from_numpy(bits([2], [4, 5])))
    assert grammar_rows.tolist() == [-1, 4, 2, 5]


class Messages:
    """A server with messages that are there."""

    def __init__(self, *messages: Any) -> None:
        self.messages = deque(("engine-0", message) for message in messages)

    def receive(self) -> tuple[str, Any] | None:
        return self.messages.popleft() if self.messages else None


def an_inbox(server: Messages, wait=lambda: None, is_stopping=lambda: False) -> tuple[Inbox, list[Any]]:
    """And the greetings that it passes on."""
    heard: list[Any] = []
    return Inbox(server, wait, is_stopping, lambda peer, hello: heard.append(hello)), heard  # type: ignore[arg-type]


def test_what_comes_before_the_masks_is_kept_in_order_and_older_masks_are_dropped():
    first, second = Plan(8, [], [], b"", b"", b"", b"", b"", b""), Plan(9, [], [], b"", b"", b"", b"", b"", b"")
    awaited = masks([0], [1])
    inbox, _ = an_inbox(Messages(first, Masks(6, b"", b""), awaited, second))
    assert inbox.masks(7) is awaited
    assert [inbox.receive(), inbox.receive(), inbox.receive()] == [("engine-0", first), ("engine-0", second), None]


def test_greetings_are_heard_while_masks_are_waited_for_or_a_new_engine_would_wait_for_ever():
    hello = Hello("engine-0", 2)
    inbox, heard = an_inbox(Messages(hello, masks([0], [1])))
    inbox.masks(7)
    assert heard == [hello] and inbox.receive() is None


def test_a_configuration_ends_the_waiting_and_is_handled_next():
    configure = Configure(4, 64, 128, 16, None, 0.9)
    inbox, _ = an_inbox(Messages(configure))
    with pytest.raises(StepAbandoned):
        inbox.masks(7)
    assert inbox.receive() == ("engine-0", configure)


def test_a_worker_that_stops_waits_no_longer():
    waits: list[int] = []
    inbox, _ = an_inbox(Messages(), lambda: waits.append(1), lambda: len(waits) == 2)
    with pytest.raises(StepAbandoned):
        inbox.masks(7)
