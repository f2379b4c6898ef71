"""What the device's sampler knows of each slot: tensors on the device, made once, with a row a slot.

A request's columns are written when its slot is taken; a step names only the slots of its rows. What the
sampler advances itself (outputs, counts) is never written by the host while the request lives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

ALWAYS = 2**31 - 1
"""`edit_until` of an edit that stays."""
SUPPRESSED = -1e20
"""The value of an edit that bans: finite, so that a row whose every allowed token is banned still has one to draw."""


class TokenCounts(NamedTuple):
    """Of each slot: one row. Of meaning only where the slot's row is penalised."""

    outputs: torch.Tensor
    """int32 [slots, V]"""
    prompt: torch.Tensor
    """int32 [slots, ceil(V / 32)]: bit id % 32 of word id // 32 is set for the ids of the prompt."""


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
    """int32 [slots, max_edits], ascending."""
    edit_values: torch.Tensor
    """float32 [slots, max_edits], added to the logit."""
    edit_until: torch.Tensor
    """int32 [slots, max_edits]: the edit holds at output positions below; ALWAYS for biases, min_tokens for ends."""
    counts: TokenCounts


def num_mask_words(vocab_size: int) -> int:
    """Of a row of bits, one a token."""
    return -(-vocab_size // 32)


def make_counts(num_slots: int, vocab_size: int, device: torch.device) -> TokenCounts:
    return TokenCounts(
        torch.zeros(num_slots, vocab_size, dtype=torch.int32, device=device),
        torch.zeros(num_slots, num_mask_words(vocab_size), dtype=torch.int32, device=device),
    )


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
