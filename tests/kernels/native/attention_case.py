"""Batches for paged attention with the cache they lie in, and what attention in float64 makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire.kernels import RaggedBatch
from quire.kernels.cpu.native import attention


def ragged(tables: np.ndarray, cu_q: np.ndarray, lens: np.ndarray, block_size: int) -> RaggedBatch:
    on_device = (torch.from_numpy(tables), torch.from_numpy(cu_q), torch.from_numpy(lens))
    return RaggedBatch(*on_device, tables, cu_q, lens, block_size)


class Case:
    """Rows (query tokens, tokens before them) on random blocks; all of the cache that is no row's token is NaN."""

    def __init__(
        self,
        rows: list[tuple[int, int]],
        *,
        dtype: torch.dtype = torch.float32,
        block_size: int = 16,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 16,
        shared_blocks: int = 0,
        shared_by: Sequence[Sequence[int]] = ((),),
        seed: int = 0,
    ) -> None:
        """The first `shared_blocks` blocks are the same for the rows of a group in `shared_by`; (): for all rows."""
        rows = sorted(rows, key=lambda row: row[0] != 1)
        generator = torch.Generator().manual_seed(seed)
        self.rows, self.block_size, self.scale = rows, block_size, 1.2 * head_dim**-0.5
        self.lens = np.array([q_len + before for q_len, before in rows], np.int32)
        widths = -(-self.lens // block_size)
        num_blocks = int(widths.sum()) + 5
        self.tables = np.full((len(rows), max(1, int(widths.max()))), num_blocks - 1, np.int32)
        free = iter(torch.randperm(num_blocks, generator=generator).tolist())
        for row, width in enumerate(widths):
            self.tables[row, :width] = [next(free) for _ in range(width)]
        for group in shared_by:
            sharing = np.array(group or range(len(rows)))
            self.tables[sharing, :shared_blocks] = self.tables[sharing[0], :shared_blocks]
        shape = (num_blocks, heads[1], block_size, head_dim)
        self.caches = (torch.full(shape, torch.nan, dtype=dtype), torch.full(shape, torch.nan, dtype=dtype))
        for cache in self.caches:
            for row, length in enumerate(self.lens.tolist()):
                blocks, offsets = self.places(row, np.arange(length))
                cache[blocks, :, offsets] = torch.randn(
                    length, heads[1], head_dim, generator=generator, dtype=torch.float32
                ).to(dtype)
        self.cu_q = np.concatenate(([0], np.cumsum([q_len for q_len, _ in rows]))).astype(np.int32)
        self.q = torch.randn(int(self.cu_q[-1]), heads[0], head_dim, generator=generator).to(dtype)

    def places(self, row: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = self.tables[row, positions // self.block_size]
        return torch.from_numpy(blocks).long(), torch.from_numpy(positions % self.block_size)

    def batch(self) -> RaggedBatch:
        return ragged(self.tables, self.cu_q, self.lens, self.block_size)

    def native(self, window: int | None = None) -> torch.Tensor:
        return attention.paged_attention(self.q, *self.caches, self.batch(), self.scale, window)

    def expected(self, window: int | None = None) -> torch.Tensor:
        """In float64."""
        out = torch.empty(self.q.shape, dtype=torch.float64)
        num_per_kv = self.q.shape[1] // self.caches[0].shape[1]
        for row, length in enumerate(self.lens.tolist()):
            start, end = self.cu_q[row : row + 2].tolist()
            places = self.places(row, np.arange(length))
            keys, values = (cache[places[0], :, places[1]].double() for cache in self.caches)
            scores = torch.einsum("qhd,khd->hqk", self.q[start:end].double(), keys.repeat_interleave(num_per_kv, 1))
            seen_to = torch.arange(length - (end - start), length)[:, None]
            positions = torch.arange(length)
            is_hidden = positions > seen_to
            if window:
                is_hidden |= positions <= seen_to - window
            weights = torch.softmax((scores * self.scale).masked_fill(is_hidden, -torch.inf), dim=-1)
            out[start:end] = torch.einsum("hqk,khd->qhd", weights, values.repeat_interleave(num_per_kv, 1))
        return out

    def check(self, window: int | None = None) -> None:
        out, expected = self.native(window), self.expected(window)
        if self.q.dtype == torch.float32:
            torch.testing.assert_close(out.double(), expected, atol=3e-6, rtol=1e-5)
            return
        # The bound in the module's docstring, and a rounding of the output.
        greatest = max((cache.nan_to_num().abs().max().item() for cache in self.caches), default=0.0)
        assert ((out.double() - expected).abs() <= greatest * 2**-8 + expected.abs() * 2**-8 + 1e-5).all()
        assert (out.double() - expected).norm() <= expected.norm() * 5e-3
