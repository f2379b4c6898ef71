"""Inputs from the slots' state: what the batch state computes on the host, padding, and tokens fed back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guards import Guards, poison

from quire.kernels.step_tensors import StepTensors

NUM_SLOTS, NUM_IDS, NUM_BLOCKS = 6, 2600, 700


def ints(values: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values, np.int32))


def make_state(guards: Guards, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and block tables of all slots."""
    generator = torch.Generator().manual_seed(block_size)
    ids = torch.randint(0, 50000, (NUM_SLOTS, NUM_IDS), generator=generator, dtype=torch.int32)
    columns = -(-NUM_IDS // block_size)
    tables = torch.randint(0, NUM_BLOCKS, (NUM_SLOTS, columns), generator=generator, dtype=torch.int32)
    return guards.put(ids), guards.put(tables)


def make_out(guards: Guards, num_tokens: int, num_rows: int, num_columns: int) -> StepTensors:
    sizes = ((num_tokens,), (num_tokens,), (num_tokens,), (num_rows,), (num_rows, num_columns))
    return StepTensors(*(guards.empty(size, dtype=torch.int32) for size in sizes))


@pytest.mark.parametrize("block_size", [16, 3])
@pytest.mark.parametrize(
    ("rows", "num_tokens"),
    [
        ([(0, 1, 5), (5, 1, 0), (3, 1, 47)], 3),
        ([(2, 1, 9), (4, 1200, 1300), (0, 17, 0)], 1218),
        ([(1, 1, 31), (-1, 1, 0), (4, 3, 16), (-1, 0, 0), (-1, 0, 0)], 12),
    ],
)
def test_rows_get_what_lies_in_their_slots(rows, num_tokens, block_size, backend, guards) -> None:
    """rows: slot (negative: padding), scheduled tokens, computed ones."""
    ids, tables = make_state(guards, block_size)
    slots, scheduled, computed = (ints(column) for column in zip(*rows, strict=True))
    cu_q = ints([0, *np.cumsum(scheduled.numpy())])
    longest = max(-(-(q_len + before) // block_size) for _, q_len, before in rows)
    out = make_out(guards, num_tokens, len(rows), longest + 2)
    state = (guards.put(slots), guards.put(computed), guards.put(cu_q), ids, tables)
    backend.prepare_inputs(*state, block_size, out)
    got, ids, tables = StepTensors(*(column.cpu() for column in out)), ids.cpu(), tables.cpu()
    for row, (slot, q_len, before) in enumerate(rows):
        tokens = slice(int(cu_q[row]), int(cu_q[row + 1]))
        if slot < 0:
            assert got.seq_lens[row] == 0
            assert not got.input_ids[tokens].any() and not got.positions[tokens].any()
            assert (got.slot_mapping[tokens] == -1).all()
            continue
        places = torch.arange(before, before + q_len)
        blocks = tables[slot, places // block_size]
        assert torch.equal(got.positions[tokens].long(), places)
        assert torch.equal(got.input_ids[tokens], ids[slot, places])
        assert torch.equal(got.slot_mapping[tokens].long(), blocks * block_size + places % block_size)
        assert got.seq_lens[row] == before + q_len
        num_blocks = -(-(before + q_len) // block_size)
        assert torch.equal(got.block_tables[row, :num_blocks], tables[slot, :num_blocks])
        assert (got.block_tables[row, num_blocks:] == poison(torch.int32)).all()
    behind = slice(int(cu_q[-1]), num_tokens)
    assert (got.slot_mapping[behind] == -1).all()
    assert not got.input_ids[behind].any() and not got.positions[behind].any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_sampled_tokens_are_the_next_inputs(dtype, backend, guards) -> None:
    ids, tables = make_state(guards, 16)
    before = ids.clone()
    slots, places = guards.put(ints([4, -1, 0])), guards.put(ints([70, 0, 31]))
    backend.append_tokens(ids, slots, places, guards.put(torch.tensor([123, 9, 456], dtype=dtype)))
    before[4, 70], before[0, 31] = 123, 456
    assert torch.equal(ids, before)
    out = make_out(guards, 3, 3, 8)
    backend.prepare_inputs(slots, places, guards.put(ints([0, 1, 2, 3])), ids, tables, 16, out)
    assert out.input_ids.tolist() == [123, 0, 456]
    assert out.seq_lens.tolist() == [71, 0, 32]
