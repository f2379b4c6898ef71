"""A batch whose lengths lie on the device alone is attended as one known to the host, whatever pads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.kernels import RaggedBatch, cpu
from quire.kernels.cpu import native
from quire.kernels.cpu.native import library
from quire.kernels.cpu.native.build import BuildError

BLOCK_SIZE = 4


@pytest.fixture(params=["torch", "native"])
def attend(request):
    if request.param == "torch":
        return cpu.paged_attention
    try:
        library.load()
    except BuildError as error:
        pytest.skip(str(error))
    return native.paged_attention


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("q_lens", "num_padding"), [([1, 1, 1], 2), ([1, 7, 3], 0), ([1, 1, 9], 3)])
def test_padding_changes_nothing(attend, q_lens, num_padding, window):
    generator = torch.Generator().manual_seed(len(q_lens) + num_padding)
    lens = np.array([length + 5 * row for row, length in enumerate(q_lens)], np.int32)
    cu_q = np.r_[0, np.cumsum(q_lens)].astype(np.int32)
    tables = np.arange(len(lens) * 6, dtype=np.int32)[::-1].reshape(len(lens), 6).copy()
    keys, values = torch.randn(2, len(lens) * 6, 2, BLOCK_SIZE, 16, generator=generator)
    host = (tables, cu_q, lens)
    known = RaggedBatch(*(torch.from_numpy(column) for column in host), *host, BLOCK_SIZE)
    q = torch.randn(int(cu_q[-1]) + num_padding + 1, 4, 16, generator=generator)
    expected = attend(q[: cu_q[-1]], keys, values, known, 0.25, window)

    is_decode = set(q_lens) == {1}
    step = 1 if is_decode else 0
    padded = RaggedBatch.on_device(
        torch.cat((torch.from_numpy(tables), torch.zeros(num_padding, 6, dtype=torch.int32))),
        torch.tensor([*cu_q, *(int(cu_q[-1]) + step * (row + 1) for row in range(num_padding))], dtype=torch.int32),
        torch.tensor([*lens, *[0] * num_padding], dtype=torch.int32),
        BLOCK_SIZE,
        len(lens) + num_padding if is_decode else 0,
    )
    for _ in range(2):  # nothing of the first call is kept
        out = attend(q, keys, values, padded, 0.25, window)
        torch.testing.assert_close(out[: cu_q[-1]], expected)
        assert not out[cu_q[-1] :].any()
        keys = torch.randn(keys.shape, generator=generator)
        expected = attend(q[: cu_q[-1]], keys, values, known, 0.25, window)
