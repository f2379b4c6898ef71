"""An engine in miniature: writes the plans that drive a model runner, one row or many, as a test says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure, NewRow, Plan, SamplingParams, Slot, StepResult, TokenLogprobs

BLOCK_SIZE = 4


def int32(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


def ids_of(data: bytes) -> list[int]:
    return np.frombuffer(data, np.int32).tolist()


def floats_of(data: bytes) -> list[float]:
    return np.frombuffer(data, np.float32).tolist()


class Row(Struct):
    """What the engine would know of one choice."""

    slot: int
    ids: list[int]
    num_prompt: int
    blocks: list[int]
    params: SamplingParams
    seed: int
    num_computed: int = 0
    is_new: bool = True
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs] = []
    num_failures: int = 0

    @property
    def output(self) -> list[int]:
        return self.ids[self.num_prompt :]

    @property
    def num_missing(self) -> int:
        return len(self.ids) - self.num_computed


class Driver:
    """Rows on a runner. Every row has its own blocks unless a test shares them."""

    def __init__(self, runner: ModelRunner, max_num_seqs: int = 8, budget: int = 256, max_model_len: int = 128) -> None:
        self.runner = runner
        self.ready = runner.configure(Configure(max_num_seqs, budget, max_model_len, BLOCK_SIZE, None, 0.9))
        self.free = list(range(self.ready.num_blocks))
        self.step_number = 0
        self.released: list[int] = []

    def take_blocks(self, count: int) -> list[int]:
        return [self.free.pop(len(self.free) // 2) for _ in range(count)]

    def row(self, slot: int, prompt: Sequence[int], seed: int = 0, **params: Any) -> Row:
        params = {"temperature": 0.0, **params}
        return Row(slot, list(prompt), len(prompt), [], SamplingParams(**params), seed)

    def preempt(self, row: Row) -> None:
        """Give back slot and blocks; the row starts again from nothing, with the outputs it has."""
        self.released.append(row.slot)
        self.free += row.blocks
        row.blocks, row.num_computed, row.is_new = [], 0, True

    def plan(self, parts: Sequence[tuple[Row, int]], copies: Sequence[tuple[int, int]] = ()) -> Plan:
        """parts: (row, scheduled tokens). Blocks are taken as needed and sent as differences."""
        parts = sorted(parts, key=lambda part: part[1] != 1)
        new_rows, added = [], []
        for row, count in parts:
            missing = -(-(row.num_computed + count) // BLOCK_SIZE) - len(row.blocks)
            fresh = self.take_blocks(max(0, missing))
            row.blocks += fresh
            if row.is_new:
                blocks, row.is_new = int32(*row.blocks), False
                args = (int32(*row.ids), row.num_prompt, row.num_computed, blocks, row.params, row.seed)
                new_rows.append(NewRow(Slot(row.slot), *args))
            else:
                added += [(row.slot, block) for block in fresh]
        released, self.released = self.released, []
        self.step_number += 1
        return Plan(
            self.step_number,
            released,
            new_rows,
            int32(*(slot for slot, _ in added)),
            int32(*(block for _, block in added)),
            int32(*(block for pair in copies for block in pair)),
            int32(*(row.slot for row, _ in parts)),
            int32(*(count for _, count in parts)),
            int32(*(row.num_computed for row, _ in parts)),
        )

    def step(self, parts: Sequence[tuple[Row, int]], copies: Sequence[tuple[int, int]] = ()) -> StepResult:
        parts = sorted(parts, key=lambda part: part[1] != 1)
        result = self.runner.step(self.plan(parts, copies))
        self.commit(parts, result)
        return result

    def commit(self, parts: Sequence[tuple[Row, int]], result: StepResult) -> None:
        tokens = ids_of(result.token_ids)
        sampling = []
        for index, (row, count) in enumerate(parts):
            row.num_computed += count
            row.prompt_logprobs += [entry for entry in result.prompt_logprobs if entry.row == index]
            if row.num_missing == 0:
                sampling.append(row)
        assert len(tokens) == len(sampling)
        for row, token in zip(sampling, tokens, strict=True):
            row.ids.append(token)
        for entry in result.logprobs:
            sampling[entry.row].logprobs.append(entry)
        for index in result.failed_rows:
            sampling[index].num_failures += 1

    def run(self, rows: Sequence[Row], num_new: int) -> None:
        """All rows together, each prompt in one chunk, until each has num_new outputs."""
        while unfinished := [row for row in rows if len(row.output) < num_new]:
            self.step([(row, row.num_missing) for row in unfinished])
