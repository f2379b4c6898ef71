"""Greedy tokens, draws and logprobs in C++: threshold searches in each row, never a sort of the vocabulary.

Each row by itself, so that its token depends neither on its company nor on the number of threads.
Types or layouts that the library does not take go to torch.
"""

from __future__ import annotations

import torch

from .. import sampling as torch_sampling
from .library import LONG, POINTER, function

_greedy = function("greedy", POINTER, LONG, LONG, LONG, POINTER)
_rows_are_finite = function("rows_are_finite", POINTER, LONG, LONG, LONG, POINTER)
_sample = function("sample", POINTER, LONG, LONG, LONG, *[POINTER] * 6)
_token_logprobs = function("token_logprobs", POINTER, LONG, LONG, LONG, POINTER, LONG, *[POINTER] * 4)


def _is_taken(logits: torch.Tensor) -> bool:
    """Rows of float32 numbers side by side, at whatever distance from each other."""
    return logits.dtype == torch.float32 and (logits.stride(1) == 1 or logits.shape[1] == 1) and logits.numel() > 0


def _rows(logits: torch.Tensor) -> tuple[int, int, int, int]:
    """Address, distance of rows, number of rows, numbers in each."""
    return logits.data_ptr(), logits.stride(0), logits.shape[0], logits.shape[1]


def greedy(logits: torch.Tensor) -> torch.Tensor:
    if not _is_taken(logits):
        return torch_sampling.greedy(logits)
    token_ids = torch.empty(len(logits), dtype=torch.int64)
    _greedy(*_rows(logits), token_ids.data_ptr())
    return token_ids


def rows_are_finite(logits: torch.Tensor) -> torch.Tensor:
    if not _is_taken(logits):
        return torch_sampling.rows_are_finite(logits)
    found = torch.empty(len(logits), dtype=torch.bool)
    _rows_are_finite(*_rows(logits), found.data_ptr())
    return found


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    # Rows of one another's memory cannot be overwritten each by itself.
    if not _is_taken(logits) or logits.stride(0) < logits.shape[1]:
        return torch_sampling.sample(logits, temperature, top_k, top_p, min_p, uniforms)
    columns = (
        temperature.to(torch.float32).contiguous(),
        top_k.to(torch.int64).contiguous(),
        top_p.to(torch.float32).contiguous(),
        min_p.to(torch.float32).contiguous(),
        uniforms.to(torch.float64).contiguous(),
    )
    token_ids = torch.empty(len(logits), dtype=torch.int64)
    _sample(*_rows(logits), *(column.data_ptr() for column in columns), token_ids.data_ptr())
    return token_ids


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    if not _is_taken(logits):
        return torch_sampling.token_logprobs(logits, token_ids, num_top)
    count, num_top = len(logits), min(num_top, logits.shape[1])
    wanted = token_ids.to(torch.int64).contiguous()
    logprobs = torch.empty(count, dtype=torch.float32)
    ranks = torch.empty(count, dtype=torch.int64)
    top_ids = torch.empty(count, num_top, dtype=torch.int64)
    top = torch.empty(count, num_top, dtype=torch.float32)
    results = (logprobs, ranks, top_ids, top)
    _token_logprobs(*_rows(logits), wanted.data_ptr(), num_top, *(one.data_ptr() for one in results))
    return results


def check() -> None:
    """Raises AssertionError where this differs from torch."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(6, 1000, generator=generator) * 3
    _same(torch.equal(greedy(logits), torch_sampling.greedy(logits)), "greedy tokens")
    logits[1, 999] = torch.nan
    _same(torch.equal(rows_are_finite(logits), torch_sampling.rows_are_finite(logits)), "finite rows")
    logits[1, 999] = 0.0
    columns = (
        torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0, 3.0]),
        torch.tensor([0, 50, 0, 0, 3, 200]),
        torch.tensor([1.0, 0.9, 0.8, 1.0, 1.0, 0.99]),
        torch.tensor([0.0, 0.0, 0.0, 0.05, 0.0, 0.001]),
        torch.tensor([0.3, 0.5, 0.9, 0.7, 0.1, 0.95], dtype=torch.float64),
    )
    _same(torch.equal(sample(logits.clone(), *columns), torch_sampling.sample(logits.clone(), *columns)), "draws")
    chosen = torch.tensor([0, 999, 5, 6, 7, 8])
    ours, theirs = token_logprobs(logits, chosen, 5), torch_sampling.token_logprobs(logits, chosen, 5)
    for one, other in zip(ours, theirs, strict=True):
        _same(torch.allclose(one.double(), other.double(), atol=1e-5), "logprobs")


def _same(is_same: bool, what: str) -> None:
    if not is_same:
        raise AssertionError(what)
