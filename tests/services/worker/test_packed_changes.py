"""Changes arrive at their places however they are cut into copies."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.kernels import cpu
from quire.services.worker.packed_changes import Changes

NUM_WORDS = 30_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["run", "scatter"]), st.integers(0, 900)), max_size=8),
    st.integers(8, 3000),
    st.integers(0, 1 << 30),
)
def test_every_word_arrives_in_batches_that_fit(kinds, room, seed):
    generator = np.random.default_rng(seed)
    changes, expected, begin = Changes(), np.zeros(NUM_WORDS, np.int32), 0
    for kind, count in kinds:
        words = generator.integers(-(2**31), 2**31 - 1, count, dtype=np.int32)
        if kind == "run":
            places = begin + np.arange(count)
            changes.run(begin, words)
        else:
            places = begin + generator.permutation(count)
            changes.scatter(places, words)
        expected[places] = words
        begin += count + 1
    target = torch.zeros(NUM_WORDS, dtype=torch.int32)
    for batch in changes.batches(room):
        assert 0 < batch.size <= room
        cpu.write_words(target, torch.from_numpy(batch.words.copy()), torch.from_numpy(batch.segments.copy()))
    assert np.array_equal(target.numpy(), expected)


def test_a_run_longer_than_a_program_writes_is_cut():
    changes = Changes()
    changes.run(5, np.arange(20_000, dtype=np.int32))
    (batch,) = changes.batches(1 << 20)
    assert [length for _, _, length in batch.segments.tolist()] == [8192, 8192, 3616]


def test_nothing_changed_is_no_batch():
    changes = Changes()
    changes.run(7, np.empty(0, np.int32))
    assert list(changes.batches(100)) == []
