"""What the device's sampler gives, row by row and the long way; see gumbel.py for what is drawn.

The specification of triton/sampling.py and triton/penalties.py.
"""

from __future__ import annotations

import torch

from ..slot_state import SlotState, TokenCounts
from . import gumbel


def make_sampling_workspace(max_rows: int, vocab_size: int, device: torch.device) -> None:
    return None


def sample_slots(
    logits: torch.Tensor,
    slots: torch.Tensor,
    grammar_rows: torch.Tensor,
    grammar: torch.Tensor,
    state: SlotState,
    workspace: None,
    token_ids: torch.Tensor,
    is_ok: torch.Tensor,
) -> None:
    rows = zip(logits, slots.tolist(), grammar_rows.tolist(), strict=True)
    for at, (values, slot, grammar_row) in enumerate(rows):
        token: int | None = 0
        if slot >= 0:
            token = _token(values, slot, grammar[grammar_row] if grammar_row >= 0 else None, state)
            if token is not None:
                state.num_outputs[slot] += 1
                state.counts.outputs[slot, token] += 1
        token_ids[at] = token or 0
        is_ok[at] = token is not None


def _token(logits: torch.Tensor, slot: int, allowed: torch.Tensor | None, state: SlotState) -> int | None:
    """Of one row [V]; None: there is none to draw."""
    if not bool(torch.isfinite(logits).all()):
        return None
    values = logits.float().clone()
    position = int(state.num_outputs[slot])
    _edit(values, slot, position, state)
    if allowed is not None:
        values.masked_fill_(~_bits(allowed, len(values)), -torch.inf)
    repetition, frequency, presence = (
        float(column[slot]) for column in (state.repetition, state.frequency, state.presence)
    )
    if repetition != 1 or frequency != 0 or presence != 0:
        _penalise(values, slot, state.counts, repetition, frequency, presence)
    if not bool((values > -torch.inf).any()):
        return None
    cuts = int(state.top_k[slot]), float(state.top_p[slot]), float(state.min_p[slot])
    return gumbel.draw(values, float(state.temperature[slot]), *cuts, int(state.seed[slot]), position)


def _edit(values: torch.Tensor, slot: int, position: int, state: SlotState) -> None:
    count = int(state.num_edits[slot])
    is_on = state.edit_until[slot, :count] > position
    values.index_add_(0, state.edit_ids[slot, :count][is_on], state.edit_values[slot, :count][is_on])


def _bits(words: torch.Tensor, count: int) -> torch.Tensor:
    """bool [count]"""
    return ((words[:, None] >> torch.arange(32, device=words.device, dtype=torch.int32)) & 1).flatten()[:count].bool()


def _penalise(
    values: torch.Tensor, slot: int, counts: TokenCounts, repetition: float, frequency: float, presence: float
) -> None:
    of_slot = counts.outputs[slot]
    is_output = of_slot > 0
    is_seen = is_output | _bits(counts.prompt[slot], len(values))
    values.copy_(torch.where(is_seen, torch.where(values > 0, values / repetition, values * repetition), values))
    values.sub_(of_slot.float() * frequency)
    values.sub_(torch.where(is_output, presence, 0.0))


def remember_tokens(counts: TokenCounts, slot: int, token_ids: torch.Tensor, num_prompt: int) -> None:
    vocab_size = counts.outputs.shape[1]
    counts.outputs[slot] = torch.bincount(token_ids[num_prompt:].long(), minlength=vocab_size)
    is_prompt = torch.zeros(counts.prompt.shape[1] * 32, dtype=torch.int64, device=token_ids.device)
    is_prompt[token_ids[:num_prompt].long()] = 1
    words = (is_prompt.view(-1, 32) << torch.arange(32, device=token_ids.device)).sum(dim=1)
    # As signed words: the highest bit is the sign's.
    counts.prompt[slot] = torch.where(words >= 1 << 31, words - (1 << 32), words).int()
