"""The sampler's rows of the kernel table: logits to tokens by what lies in the slots, as a decode step calls it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch

from bench.kernels import Machine, Operation
from quire import kernels
from quire.kernels.slot_state import SlotState, make_slots

_MAX_EDITS = 16


def operations(machine: Machine, vocab: int, rows: int, cold_bytes: int) -> Iterator[Operation]:
    """The floor is reading the logits once."""
    floor, shape = machine.floor_ms(4 * rows * vocab), f"[{rows}, {vocab}]"
    wishes: dict[str, dict[str, float]] = {
        "greedy": {"temperature": 0.0},
        "temperature": {},
        "top-k and top-p": {"top_k": 50, "top_p": 0.9},
        "penalties": {"frequency": 0.2, "repetition": 1.1},
    }
    for name, wish in wishes.items():
        yield Operation(f"sample, {name}", shape, floor, _prepared(vocab, rows, cold_bytes, wish))
    yield Operation("logprobs of 5", shape, floor, _logprobs(vocab, rows, cold_bytes))


def _logits(vocab: int, rows: int, cold_bytes: int) -> Iterator[torch.Tensor]:
    count = max(2, math.ceil(cold_bytes / (4 * rows * vocab)))
    return cycle([torch.randn(rows, vocab) * 3 for _ in range(count)])


def _prepared(vocab: int, rows: int, cold_bytes: int, wish: dict[str, float]) -> Callable[[], Callable[[], Any]]:
    def prepare() -> Callable[[], Any]:
        each, device = _logits(vocab, rows, cold_bytes), torch.get_default_device()
        state: SlotState = make_slots(rows, vocab, _MAX_EDITS, device)
        for name, value in wish.items():
            getattr(state, name).fill_(value)
        state.seed.copy_(torch.arange(rows))
        slots, none = torch.arange(rows, dtype=torch.int32), torch.full((rows,), -1, dtype=torch.int32)
        grammar = torch.zeros(1, -(-vocab // 32), dtype=torch.int32)
        workspace = kernels.make_sampling_workspace(rows, vocab, device)
        token_ids, is_ok = torch.empty(rows, dtype=torch.int32), torch.empty(rows, dtype=torch.bool)
        return lambda: kernels.sample_slots(next(each), slots, none, grammar, state, workspace, token_ids, is_ok)

    return prepare


def _logprobs(vocab: int, rows: int, cold_bytes: int) -> Callable[[], Callable[[], Any]]:
    def prepare() -> Callable[[], Any]:
        each, token_ids = _logits(vocab, rows, cold_bytes), torch.zeros(rows, dtype=torch.int64)
        return lambda: kernels.token_logprobs(next(each), token_ids, 5)

    return prepare
