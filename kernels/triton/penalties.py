"""What tokens a slot has had, kept on the device: the outputs counted, the prompt's as bits.

Filled when a slot is taken, and counted up by the sampler itself at each draw, so that no step rebuilds
it on the host. `penalised` is the arithmetic, used by the sampler's pass over the logits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..slot_state import TokenCounts, make_counts
from .launch import Dims, Launch, ceil_div

_BLOCK = 1024


@triton.jit
def bits_of_tile(words, tile, num_words, STRIPS: tl.constexpr, WIDTH: tl.constexpr):
    """The bits [STRIPS, WIDTH] of a row of packed words int32, from bit tile * STRIPS * WIDTH on; 0 behind its end.

    Each word is read once and spread out, for a gather would pull the whole tile into its own layout.
    """
    per_strip: tl.constexpr = WIDTH // 32
    at = tile * (STRIPS * per_strip) + tl.arange(0, STRIPS)[:, None] * per_strip + tl.arange(0, per_strip)[None, :]
    found = tl.load(words + at, mask=at < num_words, other=0)
    spread = (found[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape(spread, [STRIPS, WIDTH])


@triton.jit
def penalised(logits, count, is_prompt, repetition, frequency, presence):
    """float32 logits after the three penalties; int32 output counts and prompt bits of the same tokens."""
    is_seen = (count > 0) | (is_prompt != 0)
    repeated = tl.where(logits > 0, logits / repetition, logits * repetition)
    logits = tl.where(is_seen, repeated, logits)
    return logits - count.to(tl.float32) * frequency - tl.where(count > 0, presence, 0.0)


@triton.jit(
    do_not_specialize=["num_prompt", "num_tokens"],
    do_not_specialize_on_alignment=["token_ids", "outputs", "prompt"],
)
def _remember(token_ids, num_prompt, num_tokens, outputs, prompt, BLOCK: tl.constexpr):
    """Grid: ceil(num_tokens / BLOCK). outputs and prompt are a slot's rows, cleared before."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(token_ids + at, mask=at < num_tokens, other=0)
    bits = tl.full([BLOCK], 1, tl.int32) << (ids % 32)
    tl.atomic_or(prompt + ids // 32, bits, mask=at < num_prompt, sem="relaxed")
    tl.atomic_add(outputs + ids, 1, mask=(at >= num_prompt) & (at < num_tokens), sem="relaxed")


def remember_tokens(counts: TokenCounts, slot: int, token_ids: torch.Tensor, num_prompt: int) -> None:
    counts.outputs[slot].zero_()
    counts.prompt[slot].zero_()
    if len(token_ids):
        _launch(counts, slot, token_ids, num_prompt).run()


def _launch(counts: TokenCounts, slot: int, token_ids: torch.Tensor, num_prompt: int) -> Launch:
    return Launch(
        _remember,
        (ceil_div(len(token_ids), _BLOCK),),
        (token_ids, num_prompt, len(token_ids), counts.outputs[slot], counts.prompt[slot]),
        {"BLOCK": _BLOCK},
    )


def launches(dims: Dims) -> list[Launch]:
    device = torch.device("meta")
    ids = torch.empty(2, dtype=torch.int32, device=device)
    return [_launch(make_counts(1, dims.vocab_size, device), 0, ids, 1)]
