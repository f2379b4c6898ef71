"""A step's inputs out of the slots' token ids and block tables, and the step's tokens back into them."""

from __future__ import annotations

import torch

from ..step_tensors import StepTensors


def prepare_inputs(
    slots: torch.Tensor,
    num_computed: torch.Tensor,
    cu_q: torch.Tensor,
    token_ids: torch.Tensor,
    block_tables: torch.Tensor,
    block_size: int,
    out: StepTensors,
) -> None:
    tokens = torch.arange(len(out.input_ids), dtype=torch.int32, device=slots.device)
    rows = torch.searchsorted(cu_q[1:], tokens, right=True).clamp_max(len(slots) - 1)
    is_token = (tokens < cu_q[-1]) & (slots[rows] >= 0)
    of_token = slots[rows].clamp_min(0).long()
    positions = torch.where(is_token, num_computed[rows] + tokens - cu_q[rows], 0).long()
    blocks = block_tables[of_token, positions // block_size]
    out.positions.copy_(positions)
    out.input_ids.copy_(torch.where(is_token, token_ids[of_token, positions], 0))
    out.slot_mapping.copy_(torch.where(is_token, blocks * block_size + positions % block_size, -1))
    seq_lens = torch.where(slots >= 0, num_computed + cu_q[1:] - cu_q[:-1], 0)
    out.seq_lens.copy_(seq_lens)
    columns = torch.arange(out.block_tables.shape[1], device=slots.device)
    copied = block_tables[slots.clamp_min(0).long(), : len(columns)]
    is_block = columns < -(-seq_lens[:, None] // block_size)
    out.block_tables.copy_(torch.where(is_block, copied, out.block_tables))


def append_tokens(token_ids: torch.Tensor, slots: torch.Tensor, places: torch.Tensor, sampled: torch.Tensor) -> None:
    is_row = slots >= 0
    token_ids[slots[is_row].long(), places[is_row].long()] = sampled[is_row].int()
