"""Masks: which tokens grammars let a step's rows sample; the sampler's first edit of the logits.

They come from the engine while the logits are computed (see inbox.py), for a batch on the host or on a device.
Knows no grammars.
"""

from __future__ import annotations

import numpy as np
import torch

from quire import kernels
from quire.shared.messages import Masks

from .device_stream import DeviceStream, staging_memory
from .errors import PlanError
from .slot_lengths import Int32s, Limits, int32s


def apply_masks(logits: torch.Tensor, masks: Masks) -> None:
    """In place on float32 logits [N, V] of a step's sampling rows. Raises PlanError."""
    rows, bits = _checked(masks, *logits.shape)
    if len(rows):
        places = torch.from_numpy(rows.astype(np.int64)).to(logits.device)
        kernels.keep_allowed(logits, places, torch.from_numpy(bits).to(logits.device))


class MaskRows:
    """The masks of a step on their way to a device, which keeps them behind the bits of its slots."""

    def __init__(self, masks: Masks, samples: np.ndarray, limits: Limits) -> None:
        """samples bool [B]: the rows of the step that sample. Raises PlanError."""
        sampling_rows = np.flatnonzero(samples)
        chosen, self._bits = _checked(masks, len(sampling_rows), limits.vocab_size)
        self.rows = sampling_rows[chosen]
        """Of the step, those that have a mask."""
        self._first = limits.max_num_seqs
        self.places = np.arange(self._first, self._first + len(chosen), dtype=np.int32)
        """Which row of the device's bits each has."""

    def send(self, stream: DeviceStream, allowed: torch.Tensor, grammar_rows: torch.Tensor, own: Int32s) -> None:
        """On `stream`, into the bits and the column of the step that lie on the device.

        allowed int32 [2 max_num_seqs, W]; grammar_rows int32 [B]; own [B]: the slot where a row names tokens itself,
        else -1. Where it does, both must allow a token.
        """
        if not len(self.rows):
            return
        column = own.copy()
        column[self.rows] = self.places
        staged = staging_memory(self._bits.nbytes + column.nbytes, allowed.device).view(torch.int32)
        staged.numpy()[:] = np.concatenate((self._bits.reshape(-1), column))
        bits, rows = staged[: self._bits.size].view(self._bits.shape), staged[self._bits.size :]
        target = allowed[self._first : self._first + len(bits)]
        stream.copy(target, bits)
        stream.copy(grammar_rows, rows)
        for place, slot in enumerate(own[self.rows].tolist()):
            if slot >= 0:
                target[place] &= allowed[slot]


def _checked(masks: Masks, num_rows: int, vocab_size: int) -> tuple[Int32s, np.ndarray]:
    """Rows [R] and bits int32 [R, W], writable."""
    rows = int32s(masks.rows)
    num_words = -(-vocab_size // 32)
    is_inside = not len(rows) or (rows[0] >= 0 and rows[-1] < num_rows and bool((np.diff(rows) > 0).all()))
    if not is_inside or len(masks.bits) != 4 * len(rows) * num_words:
        raise PlanError(
            f"masks of {len(masks.bits)} bytes for rows {rows.tolist()}: step {masks.step} samples {num_rows} rows"
            f" of {vocab_size} tokens"
        )
    return rows, np.frombuffer(bytearray(masks.bits), np.int32).reshape(len(rows), num_words)
