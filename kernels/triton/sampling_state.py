"""What the sampler knows of each slot and works in, all on the device, made once.

A request's columns are written when its slot is taken; a step names only the slots of its rows. What
the sampler advances itself (outputs, counts) is never written by the host while the request lives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .launch import ceil_div
from .penalties import TokenCounts, make_counts

TILE = 4096
"""Tokens of a row that a program of the pass takes."""
GROUP = 128
"""Neighbouring tokens whose largest logit is noted."""
CANDIDATES = 1024
"""Tokens that are set aside for the search of a cut, at most."""
ALWAYS = 2**31 - 1
"""`edit_until` of an edit that stays."""
SUPPRESSED = -1e20
"""The value of an edit that bans: finite, so that a row whose every allowed token is banned still has one to draw."""


class SlotState(NamedTuple):
    """Columns [slots], and rows of what is sparse."""

    temperature: torch.Tensor
    """float32; 0 is greedy."""
    top_k: torch.Tensor
    """int32; 0 keeps all."""
    top_p: torch.Tensor
    """float32; 1 keeps all."""
    min_p: torch.Tensor
    """float32; 0 keeps all."""
    repetition: torch.Tensor
    """float32; 1 is none."""
    frequency: torch.Tensor
    """float32"""
    presence: torch.Tensor
    """float32"""
    seed: torch.Tensor
    """int64, whose 64 bits count."""
    num_outputs: torch.Tensor
    """int32: the output position that is drawn next; the sampler counts it up."""
    num_edits: torch.Tensor
    """int32: of the slot's edits."""
    edit_ids: torch.Tensor
    """int32 [slots, max_edits], ascending, each id once."""
    edit_values: torch.Tensor
    """float32 [slots, max_edits], added to the logit."""
    edit_until: torch.Tensor
    """int32 [slots, max_edits]: the edit holds at output positions below; ALWAYS for biases, min_tokens for ends."""
    counts: TokenCounts


class Workspace(NamedTuple):
    """What one step leaves for its own later parts; every row of the step has one."""

    scaled: torch.Tensor
    """float32 [rows, tiles * TILE + CANDIDATES]: logits to be cut, then those set aside."""
    candidates: torch.Tensor
    """int32 [rows, CANDIDATES]: the token ids of those set aside."""
    groups: torch.Tensor
    """int32 [rows, tiles * TILE / GROUP]: indices of groups that hold candidates."""
    group_largest: torch.Tensor
    """float32 [rows, tiles * TILE / GROUP]"""
    tile_mass: torch.Tensor
    """float32 [rows, tiles]: of exp(logit - the tile's largest)."""
    tile_best: torch.Tensor
    """float32 [rows, tiles]: the largest of logit and noise."""
    tile_token: torch.Tensor
    """int32 [rows, tiles]: the token it belongs to."""
    tile_is_finite: torch.Tensor
    """int32 [rows, tiles]"""


def make_slots(num_slots: int, vocab_size: int, max_edits: int, device: torch.device) -> SlotState:
    def full(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((num_slots,), value, dtype=dtype, device=device)

    def edits(dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(num_slots, max_edits, dtype=dtype, device=device)

    return SlotState(
        temperature=full(1, torch.float32),
        top_k=full(0, torch.int32),
        top_p=full(1, torch.float32),
        min_p=full(0, torch.float32),
        repetition=full(1, torch.float32),
        frequency=full(0, torch.float32),
        presence=full(0, torch.float32),
        seed=full(0, torch.int64),
        num_outputs=full(0, torch.int32),
        num_edits=full(0, torch.int32),
        edit_ids=edits(torch.int32),
        edit_values=edits(torch.float32),
        edit_until=edits(torch.int32),
        counts=make_counts(num_slots, vocab_size, device),
    )


def make_workspace(max_rows: int, vocab_size: int, device: torch.device) -> Workspace:
    tiles = ceil_div(vocab_size, TILE)
    groups = tiles * TILE // GROUP

    def empty(width: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(max_rows, width, dtype=dtype, device=device)

    return Workspace(
        scaled=empty(tiles * TILE + CANDIDATES, torch.float32),
        candidates=empty(CANDIDATES, torch.int32),
        groups=empty(groups, torch.int32),
        group_largest=empty(groups, torch.float32),
        tile_mass=empty(tiles, torch.float32),
        tile_best=empty(tiles, torch.float32),
        tile_token=empty(tiles, torch.int32),
        tile_is_finite=empty(tiles, torch.int32),
    )
