"""The persistent batch: its columns against a plain loop over rows, whatever plans come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.worker.batch_state import BatchState
from quire.services.worker.errors import PlanError
from quire.services.worker.sampling_state import SamplingState
from quire.services.worker.slot_lengths import Limits
from quire.shared.messages import NewRow, Plan, SamplingParams, Slot

LIMITS = Limits(
    max_num_seqs=5, max_num_batched_tokens=200, max_model_len=40, block_size=4, num_blocks=100, vocab_size=50
)


def int32(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


def new_batch() -> BatchState:
    return BatchState(LIMITS, SamplingState(LIMITS.max_num_seqs, LIMITS.vocab_size, []))


def plan(new=(), released=(), added=(), rows=()) -> Plan:
    return Plan(
        1,
        list(released),
        list(new),
        int32(*(slot for slot, _ in added)),
        int32(*(block for _, block in added)),
        b"",
        *(int32(*column) for column in (zip(*rows, strict=True) if rows else ((), (), ()))),
    )


def new_row(slot: int, ids: list[int], blocks: list[int], num_prompt: int | None = None) -> NewRow:
    return NewRow(Slot(slot), int32(*ids), num_prompt or len(ids), 0, int32(*blocks), SamplingParams(), 0)


row_parts = st.tuples(st.integers(1, 30), st.integers(0, 29), st.integers(1, 30))


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(row_parts, min_size=1, max_size=5), seed=st.integers(0, 999))
def test_inputs_are_what_a_loop_over_rows_gives(rows, seed):
    """rows: (tokens, computed, scheduled), cut to fit."""
    random = np.random.default_rng(seed)
    batch = new_batch()
    slots = random.permutation(5)[: len(rows)].tolist()
    blocks = iter(random.permutation(100).tolist())
    texts, tables, columns = {}, {}, []
    added = []
    new = []
    for slot, (length, computed, scheduled) in zip(slots, rows, strict=True):
        computed = min(computed, length - 1)
        texts[slot] = random.integers(0, 50, length).tolist()
        tables[slot] = [next(blocks) for _ in range(-(-length // 4))]
        at_first = int(random.integers(0, len(tables[slot]) + 1))
        new.append(new_row(slot, texts[slot], tables[slot][:at_first]))
        added += [(slot, block) for block in tables[slot][at_first:]]
        columns.append((slot, min(scheduled, length - computed), computed))
    # Blocks of one slot stay in order; those of different slots may come mixed.
    keys = random.random(len(added))
    order = sorted(range(len(added)), key=lambda i: keys[i])
    mixed = iter([added[i][0] for i in order])
    queues = {slot: [block for s, block in added if s == slot] for slot in slots}
    added = [(slot, queues[slot].pop(0)) for slot in mixed]
    columns.sort(key=lambda column: column[1] != 1)
    given_plan = plan(new=new, added=added, rows=columns)
    batch.apply(given_plan)
    inputs = batch.inputs(given_plan)
    ids, positions, places, cu_q, sampling = [], [], [], [0], []
    for row, (slot, scheduled, computed) in enumerate(columns):
        for position in range(computed, computed + scheduled):
            ids.append(texts[slot][position])
            positions.append(position)
            places.append(tables[slot][position // 4] * 4 + position % 4)
        cu_q.append(len(ids))
        if computed + scheduled == len(texts[slot]):
            sampling.append(row)
        needed = -(-(computed + scheduled) // 4)
        assert inputs.block_tables[row, :needed].tolist() == tables[slot][:needed]
    assert inputs.input_ids.tolist() == ids
    assert inputs.positions.tolist() == positions
    assert inputs.slot_mapping.tolist() == places
    assert inputs.cu_q.tolist() == cu_q
    assert inputs.seq_lens.tolist() == [computed + scheduled for _, scheduled, computed in columns]
    assert inputs.sampling_rows.tolist() == sampling
    assert all(column.dtype == np.int32 for column in (inputs.input_ids, inputs.positions, inputs.slot_mapping))


def test_an_appended_token_is_the_next_input():
    batch = new_batch()
    batch.apply(plan(new=[new_row(2, [4, 5, 6, 7], [9])]))
    batch.append(np.array([2], np.int32), np.array([33], np.int32))
    following = plan(added=[(2, 11)], rows=[(2, 1, 4)])
    batch.apply(following)
    inputs = batch.inputs(following)
    assert (inputs.input_ids.tolist(), inputs.slot_mapping.tolist()) == ([33], [44])
    assert inputs.sampling_rows.tolist() == [0]


def test_ids_outside_the_vocabulary_never_reach_the_model():
    batch = new_batch()
    given_plan = plan(new=[new_row(0, [-5, 7, 2**30], [0])], rows=[(0, 3, 0)])
    batch.apply(given_plan)
    assert batch.inputs(given_plan).input_ids.tolist() == [0, 7, 49]


def test_a_released_slot_is_empty_and_can_be_filled_in_the_same_plan():
    batch = new_batch()
    batch.apply(plan(new=[new_row(1, list(range(20)), [1, 2, 3, 4, 5])]))
    following = plan(released=[1], new=[new_row(1, [8, 9], [50])], rows=[(1, 2, 0)])
    batch.apply(following)
    assert batch.inputs(following).slot_mapping.tolist() == [200, 201]
    batch.apply(plan(released=[1]))
    with pytest.raises(PlanError, match="slot 1"):
        batch.inputs(plan(rows=[(1, 1, 0)]))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (plan(rows=[(0, 5, 0)]), "slot 0: 5 tokens, but it has 4"),
        (plan(rows=[(0, 1, 4)]), "slot 0"),
        (plan(rows=[(0, 0, 0)]), "without scheduled tokens"),
        (plan(rows=[(0, 1, -1)]), "negative computed"),
        (plan(rows=[(5, 1, 0)]), "slots"),
        (plan(rows=[(0, 201, 0)]), "over the budget of 200"),
    ],
)
def test_a_step_outside_of_what_a_row_has_is_refused(broken, said):
    batch = new_batch()
    batch.apply(plan(new=[new_row(0, [1, 2, 3, 4, 5], [7])]))
    with pytest.raises(PlanError, match=said):
        batch.inputs(broken)


@pytest.mark.parametrize(
    "broken",
    [
        plan(new=[new_row(9, [1], [1])]),
        plan(new=[new_row(0, list(range(45)), [1])]),
        plan(new=[new_row(0, [1], [100])]),
        plan(new=[new_row(0, [1], [-1])]),
        plan(new=[new_row(0, [1], list(range(20)))]),
        plan(released=[-1]),
    ],
)
def test_a_row_that_cannot_be_is_refused(broken):
    with pytest.raises(PlanError):
        new_batch().apply(broken)
