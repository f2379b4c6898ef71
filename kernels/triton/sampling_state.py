"""What the sampler works in: one workspace for all steps, on the device. What it knows of slots is in slot_state.py."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .launch import ceil_div

TILE = 4096
"""Tokens of a row that a program of the pass takes."""
GROUP = 128
"""Neighbouring tokens whose largest logit is noted."""
CANDIDATES = 1024
"""Tokens that are set aside for the search of a cut, at most."""


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


def make_sampling_workspace(max_rows: int, vocab_size: int, device: torch.device) -> Workspace:
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
