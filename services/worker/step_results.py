"""What becomes of a step that a device was handed: copied out beside the next one, and made an answer of.

A Flight is one step under way; what it copies from is kept until the copies are done. Built by device_runner.py.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch

from quire.shared.messages import StepResult, TokenLogprobs

from .device_stream import DeviceEvent, DeviceStream, staging_memory
from .logprobs import joined_logprobs, named_logprobs
from .slot_lengths import Int32s

Found = tuple[torch.Tensor, ...]
"""As kernels.token_logprobs gives them: logprobs, ranks, top ids, top logprobs."""


class LogprobsWanted(NamedTuple):
    """Of the tokens that some rows sample."""

    names: list[int]
    """As the answer calls the rows."""
    counts: list[int]
    """Of the likeliest tokens that each wants."""


class OfPrompt(NamedTuple):
    """Of a row's prompt: parts that follow one another."""

    row: int
    parts: list[Found]


class Flight:
    """One step; `finished` once its results are on the host."""

    def __init__(self, step: int, start: float, sampling_rows: Int32s) -> None:
        self.step = step
        self._start = start
        self._sampling_rows = sampling_rows
        self.words: torch.Tensor | None = None
        """Of the sampler's results, on the host."""
        self._wanted: LogprobsWanted | None = None
        self._sampled: Found = ()
        self._of_prompts: list[OfPrompt] = []
        self._sources: list[torch.Tensor] = []
        """On the device; given back when the copies are done."""
        self.event: DeviceEvent | None = None

    def copy_out(
        self,
        side: DeviceStream,
        results: tuple[torch.Tensor, torch.Tensor] | None,
        sampled: tuple[LogprobsWanted, Found] | None,
        of_prompts: list[OfPrompt],
    ) -> DeviceEvent:
        """On `side`, which follows the step. results: the sampler's words, and where on the host they go."""
        if results is not None:
            source, self.words = results
            side.copy(self.words, source)
        if sampled is not None:
            self._wanted = sampled[0]
            self._sampled = self._fetched(side, sampled[1])
        self._of_prompts = [OfPrompt(row, [self._fetched(side, part) for part in parts]) for row, parts in of_prompts]
        self.event = side.record()
        return self.event

    def _fetched(self, side: DeviceStream, found: Found) -> Found:
        fetched = []
        for tensor in found:
            self._sources.append(tensor)
            memory = staging_memory(tensor.nbytes, tensor.device).view(tensor.dtype).view(tensor.shape)
            side.copy(memory, tensor)
            fetched.append(memory)
        return tuple(fetched)

    @property
    def is_finished(self) -> bool:
        return self.event is None or self.event.is_done()

    def wait(self) -> None:
        if self.event is not None:
            self.event.wait()

    def result(self, max_rows: int) -> StepResult:
        """Once finished. max_rows: of the sampler's results."""
        token_ids, failed = np.empty(0, np.int32), []
        if self.words is not None:
            words = self.words.numpy()
            token_ids = words[self._sampling_rows]
            is_ok = words[max_rows:].view(np.bool_)[self._sampling_rows]
            failed = [] if is_ok.all() else np.flatnonzero(~is_ok).tolist()
        return StepResult(
            step=self.step,
            token_ids=token_ids.tobytes(),
            failed_rows=failed,
            logprobs=self._logprobs(),
            prompt_logprobs=[
                joined_logprobs(row, ([tensor.numpy() for tensor in part] for part in parts))
                for row, parts in self._of_prompts
            ],
            seconds=time.perf_counter() - self._start,
        )

    def _logprobs(self) -> list[TokenLogprobs]:
        if self._wanted is None:
            return []
        return named_logprobs([tensor.numpy() for tensor in self._sampled], *self._wanted)
