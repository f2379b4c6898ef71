"""Edits of single logits: bias, allowed and bad token ids, ends suppressed before min_tokens.

First step of the sampler after the logits are there. Costs nothing when no row of the step has any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .sampling_state import Edits

_SUPPRESSED = -1e20
"""Finite, so that a row whose every allowed token is suppressed still has one to draw."""


def apply_edits(logits: torch.Tensor, rows: list[tuple[int, Edits]], is_too_short: npt.NDArray[np.bool_]) -> None:
    """In place on float32 [N, V]. `rows`: (row, its edits); is_too_short [N]: below min_tokens."""
    _add_biases(logits, rows)
    _keep_allowed(logits, rows)
    banned = [(row, edits.banned) for row, edits in rows if len(edits.banned)]
    banned += [(row, edits.ends) for row, edits in rows if is_too_short[row] and len(edits.ends)]
    if banned:
        places = _places(banned, logits.device)
        logits[places] = logits[places].clamp(max=_SUPPRESSED)  # what a mask forbids stays forbidden


def _places(rows: list[tuple[int, npt.NDArray[np.int64]]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, ids), flat."""
    index: npt.NDArray[Any] = np.repeat([row for row, _ in rows], [len(ids) for _, ids in rows])
    ids = np.concatenate([ids for _, ids in rows])
    return torch.from_numpy(index).to(device), torch.from_numpy(ids).to(device)


def _add_biases(logits: torch.Tensor, rows: list[tuple[int, Edits]]) -> None:
    biased = [(row, edits) for row, edits in rows if len(edits.biased)]
    if biased:
        places = _places([(row, edits.biased) for row, edits in biased], logits.device)
        values = torch.from_numpy(np.concatenate([edits.biases for _, edits in biased])).to(logits.device)
        logits[places] += values


def _keep_allowed(logits: torch.Tensor, rows: list[tuple[int, Edits]]) -> None:
    allowed = [(row, edits.allowed) for row, edits in rows if edits.allowed is not None]
    if allowed:
        places = _places(allowed, logits.device)
        kept = logits[places]
        logits[[row for row, _ in allowed]] = -torch.inf
        logits[places] = kept
