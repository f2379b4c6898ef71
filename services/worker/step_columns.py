"""What a step's kernels are told by the host: columns of its rows, and its changes, in one copy to the device.

The columns lie in the same place in every step, so that a captured graph finds them. Filled in a ring of pinned
buffers, each of which is filled again when the copy out of it is done; owned by device_runner.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .device_stream import DeviceEvent, DeviceStream, staging_memory
from .packed_changes import Batch
from .slot_lengths import Int32s

NUM_BUFFERS = 4
"""Of the ring: two steps are under way at once, and one is being filled."""


class HostColumns(NamedTuple):
    """int32, of the rows of a step."""

    slots: Int32s
    """[R]; -1 for a row that pads."""
    num_computed: Int32s
    """[R]"""
    cu_q: Int32s
    """[R + 1]"""
    sampling_slots: Int32s
    """[R]; -1 for a row that does not sample."""
    grammar_rows: Int32s
    """[R]: the slot where its row may draw only some tokens, else -1."""
    logprob_rows: Int32s
    """[R]: indices of the rows of which logprobs are wanted, as many as there are."""


class Columns(NamedTuple):
    """The same on the device."""

    slots: torch.Tensor
    num_computed: torch.Tensor
    cu_q: torch.Tensor
    sampling_slots: torch.Tensor
    grammar_rows: torch.Tensor
    logprob_rows: torch.Tensor


def _ends(max_rows: int) -> list[int]:
    return np.cumsum([max_rows, max_rows, max_rows + 1, max_rows, max_rows, max_rows]).tolist()


class StepColumns:
    """`columns` on the device; `host()` gives the buffer that the next step is written into."""

    def __init__(self, max_rows: int, num_words: int, device: torch.device, stream: DeviceStream) -> None:
        """num_words: of a copy, beside the columns."""
        ends = _ends(max_rows)
        self.room = num_words
        self._first = ends[-1]
        self._stream = stream
        self._packed = torch.zeros(ends[-1] + num_words, dtype=torch.int32, device=device)
        self.columns = Columns(*torch.tensor_split(self._packed[: ends[-1]], ends[:-1]))
        self._buffers = [staging_memory(4 * len(self._packed), device).view(torch.int32) for _ in range(NUM_BUFFERS)]
        self._arrays = [buffer.numpy() for buffer in self._buffers]
        self._host = [HostColumns(*np.split(array[: ends[-1]], ends[:-1])) for array in self._arrays]
        self._copied: list[DeviceEvent | None] = [None] * NUM_BUFFERS
        self._place = 0

    def host(self) -> HostColumns:
        """What is written here goes with the next `send_columns`."""
        copied = self._copied[self._place]
        if copied is not None:
            copied.wait()
            self._copied[self._place] = None
        return self._host[self._place]

    def send_batch(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Changes alone: packed words and segments on the device, for kernels.write_words."""
        self.host()
        end = self._fill(batch)
        return self._send(self._first, end, batch)

    def send_columns(self, batch: Batch | None, pairs: Int32s) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The columns that were written, with changes and pairs [P, 2]: packed words, segments, pairs on the device."""
        end = self._first if batch is None else self._fill(batch)
        self._arrays[self._place][end : end + pairs.size] = pairs.reshape(-1)
        packed, segments = self._send(0, end + pairs.size, batch)
        return packed, segments, packed[end : end + pairs.size].view(-1, 2)

    def _fill(self, batch: Batch) -> int:
        """Write a batch behind the columns, its sources as they lie there; where it ends."""
        array, begin = self._arrays[self._place], self._first + batch.segments.size
        segments = array[self._first : begin].reshape(batch.segments.shape)
        segments[:] = batch.segments
        segments[:, 1] += begin
        array[begin : begin + batch.words.size] = batch.words
        return begin + batch.words.size

    def _send(self, begin: int, end: int, batch: Batch | None) -> tuple[torch.Tensor, torch.Tensor]:
        place, self._place = self._place, (self._place + 1) % NUM_BUFFERS
        self._stream.copy(self._packed[begin:end], self._buffers[place][begin:end])
        self._copied[place] = self._stream.record()
        count = 0 if batch is None else batch.segments.size
        return self._packed, self._packed[self._first : self._first + count].view(-1, 3)
