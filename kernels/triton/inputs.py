"""A step's inputs, put together on the GPU from the slots' state, so that sampled tokens need not pass the host."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ..step_tensors import StepTensors
from .launch import Dims, Launch, ceil_div

_AT_ONCE = 1024
_ROWS_AT_ONCE = 128


@triton.jit(
    do_not_specialize=["num_rows", "num_tokens", "num_columns", "token_stride", "table_stride", "out_stride"],
    do_not_specialize_on_alignment=[
        "slots",
        "num_computed",
        "cu_q",
        "input_ids",
        "positions",
        "slot_mapping",
        "seq_lens",
        "out_tables",
    ],
)
def _prepare_inputs(
    slots,
    num_computed,
    cu_q,
    token_ids,
    block_tables,
    input_ids,
    positions,
    slot_mapping,
    seq_lens,
    out_tables,
    num_rows,
    num_tokens,
    num_columns,
    token_stride,
    table_stride,
    out_stride,
    BLOCK_SIZE: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Grid: rows, and one more for the tokens behind the last row."""
    row = tl.program_id(0)
    offsets = tl.arange(0, AT_ONCE)
    start = tl.load(cu_q + row)
    end = tl.load(cu_q + row + 1, mask=row < num_rows, other=num_tokens)
    slot = tl.load(slots + row, mask=row < num_rows, other=-1)
    if slot < 0:
        for begin in range(start, end, AT_ONCE):
            token = begin + offsets
            is_token = token < end
            zeros = tl.zeros([AT_ONCE], tl.int32)
            tl.store(input_ids + token, zeros, mask=is_token)
            tl.store(positions + token, zeros, mask=is_token)
            tl.store(slot_mapping + token, zeros - 1, mask=is_token)
        if row < num_rows:
            tl.store(seq_lens + row, 0)
    else:
        computed = tl.load(num_computed + row)
        seq_len = computed + end - start
        tl.store(seq_lens + row, seq_len)
        ids = token_ids + slot.to(tl.int64) * token_stride
        table = block_tables + slot.to(tl.int64) * table_stride
        for begin in range(start, end, AT_ONCE):
            token = begin + offsets
            is_token = token < end
            position = computed + token - start
            block = tl.load(table + position // BLOCK_SIZE, mask=is_token, other=0)
            tl.store(input_ids + token, tl.load(ids + position, mask=is_token, other=0), mask=is_token)
            tl.store(positions + token, position, mask=is_token)
            tl.store(slot_mapping + token, block * BLOCK_SIZE + position % BLOCK_SIZE, mask=is_token)
        num_blocks = tl.minimum((seq_len + BLOCK_SIZE - 1) // BLOCK_SIZE, num_columns)
        target = out_tables + row.to(tl.int64) * out_stride
        for begin in range(0, num_blocks, AT_ONCE):
            column = begin + offsets
            is_block = column < num_blocks
            tl.store(target + column, tl.load(table + column, mask=is_block, other=0), mask=is_block)


@triton.jit(
    do_not_specialize=["num_rows", "token_stride"],
    do_not_specialize_on_alignment=["slots", "places", "sampled"],
)
def _append_tokens(token_ids, slots, places, sampled, num_rows, token_stride, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    slot = tl.load(slots + row, mask=is_row, other=-1).to(tl.int64)
    is_row = is_row & (slot >= 0)
    place = tl.load(places + row, mask=is_row, other=0)
    token = tl.load(sampled + row, mask=is_row, other=0).to(tl.int32)
    tl.store(token_ids + slot * token_stride + place, token, mask=is_row)


def prepare_inputs(
    slots: torch.Tensor,
    num_computed: torch.Tensor,
    cu_q: torch.Tensor,
    token_ids: torch.Tensor,
    block_tables: torch.Tensor,
    block_size: int,
    out: StepTensors,
) -> None:
    numbers = (
        *(len(slots), len(out.input_ids), out.block_tables.shape[1]),
        *(token_ids.stride(0), block_tables.stride(0), out.block_tables.stride(0)),
    )
    _prepare((slots, num_computed, cu_q, token_ids, block_tables, *out), numbers, block_size).run()


def _prepare(tensors: tuple[Any, ...], numbers: tuple[int, ...], block_size: int) -> Launch:
    """numbers: the kernel's integers, from num_rows on."""
    constants = {"BLOCK_SIZE": block_size, "AT_ONCE": _AT_ONCE}
    return Launch(_prepare_inputs, (numbers[0] + 1,), (*tensors, *numbers), constants)


def append_tokens(token_ids: torch.Tensor, slots: torch.Tensor, places: torch.Tensor, sampled: torch.Tensor) -> None:
    _append((token_ids, slots, places, sampled), len(slots), token_ids.stride(0)).run()


def _append(tensors: tuple[Any, ...], num_rows: int, token_stride: int) -> Launch:
    grid = (ceil_div(num_rows, _ROWS_AT_ONCE),)
    return Launch(_append_tokens, grid, (*tensors, num_rows, token_stride), {"ROWS": _ROWS_AT_ONCE})


def launches(dims: Dims) -> list[Launch]:
    ids = torch.int32
    return [
        _prepare((ids,) * 10, (2,) * 6, dims.block_size),
        *(_append((ids, ids, ids, sampled), 2, 2) for sampled in (torch.int64, torch.int32)),
    ]
