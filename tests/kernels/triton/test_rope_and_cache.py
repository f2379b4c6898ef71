"""Norm, rotation and cache write against the specification in float32, within guards."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from guards import Guards, relative_error

from quire.kernels import cpu

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.float8_e4m3fn}
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float8_e4m3fn: 4e-2}


class Case(NamedTuple):
    qkv: torch.Tensor
    norms: tuple[torch.Tensor | None, torch.Tensor | None]
    table: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    cache_shape: tuple[int, ...]


def make_case(num_tokens: int, heads: int, kv_heads: int, dim: int, block_size: int, has_norm: bool) -> Case:
    generator = torch.Generator().manual_seed(num_tokens + heads + dim)
    angles = torch.rand(37, dim // 2, generator=generator) * 6
    num_blocks = num_tokens // block_size + 3
    norm = tuple(torch.rand(dim, generator=generator) + 0.5 if has_norm else None for _ in range(2))
    return Case(
        torch.randn(num_tokens, (heads + 2 * kv_heads) * dim, generator=generator),
        (norm[0], norm[1]),
        torch.cat((angles.cos(), angles.sin()), dim=-1),
        torch.randint(0, 37, (num_tokens,), generator=generator, dtype=torch.int32),
        torch.randperm(num_blocks * block_size, generator=generator)[:num_tokens].int(),
        (num_blocks, kv_heads, block_size, dim),
    )


def run(
    module: ModuleType, case: Case, dtype: torch.dtype, stored: torch.dtype, guards: Guards, *scales: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    caches = [guards.empty(case.cache_shape, dtype=stored) for _ in range(2)]
    norms = [None if norm is None else guards.put(norm.to(dtype)) for norm in case.norms]
    others = (guards.put(case.table), guards.put(case.positions), guards.put(case.slots))
    q = module.rope_and_cache(guards.put(case.qkv.to(dtype)), *norms, 1e-6, *others, *caches, *scales)
    return q, caches[0], caches[1]


def rounded(case: Case, dtype: torch.dtype) -> Case:
    """The numbers that the kernel is given, in float32."""
    norms = tuple(None if norm is None else norm.to(dtype).float() for norm in case.norms)
    return case._replace(qkv=case.qkv.to(dtype).float(), norms=(norms[0], norms[1]))


@pytest.mark.parametrize(
    ("num_tokens", "heads", "kv_heads", "dim", "block_size", "has_norm", "dtype", "stored"),
    [
        (5, 4, 2, 128, 16, True, "bfloat16", "bfloat16"),
        (1, 32, 8, 64, 16, False, "bfloat16", "bfloat16"),
        (3, 7, 1, 80, 16, True, "float16", "float16"),
        (7, 3, 3, 6, 4, True, "float32", "float32"),
        (2, 2, 1, 256, 8, False, "float32", "float32"),
        (4, 16, 2, 96, 16, True, "bfloat16", "fp8"),
        (3, 5, 5, 32, 1, False, "float16", "fp8"),
    ],
)
def test_rows_are_normed_turned_and_written(
    num_tokens, heads, kv_heads, dim, block_size, has_norm, dtype, stored, backend, guards
) -> None:
    case = make_case(num_tokens, heads, kv_heads, dim, block_size, has_norm)
    dtype, stored = DTYPES[dtype], DTYPES[stored]
    q, keys, values = run(backend, case, dtype, stored, guards)
    exact = run(cpu, rounded(case, dtype), torch.float32, torch.float32, Guards("cpu"))
    assert relative_error(q, exact[0]) < TOLERANCES[dtype]
    slots = case.slots.long()
    for cache, expected in ((keys, exact[1]), (values, exact[2])):
        written, wanted = (x.cpu().float().transpose(1, 2).flatten(0, 1) for x in (cache, expected))
        assert relative_error(written[slots], wanted[slots]) < TOLERANCES[stored]
        untouched = torch.ones(len(written), dtype=torch.bool).index_fill(0, slots, False)
        assert written[untouched].isnan().all()


def test_an_fp8_cache_is_scaled_and_saturates(backend, guards) -> None:
    case = make_case(3, 2, 1, 32, 4, False)
    _, keys, values = run(backend, case, torch.float32, torch.float8_e4m3fn, guards, (0.5, 0.001))
    exact = run(cpu, case, torch.float32, torch.float32, Guards("cpu"))
    slots = case.slots.long()
    keys, values, exact_keys, exact_values = (
        x.cpu().float().transpose(1, 2).flatten(0, 1)[slots] for x in (keys, values, exact[1], exact[2])
    )
    assert relative_error(keys * 0.5, exact_keys) < 4e-2
    is_large = exact_values.abs() > 0.45
    assert torch.equal(values[is_large], exact_values[is_large].sign() * 448)


def test_padding_tokens_write_nothing(backend, guards, mode) -> None:
    if mode == "ref":
        pytest.skip("the specification is given no padding")
    case = make_case(6, 4, 2, 64, 4, True)
    case.slots[[1, 4]] = -1
    _, keys, values = run(backend, case, torch.float32, torch.float32, guards)
    kept = case.slots[case.slots >= 0].long()
    for cache in (keys, values):
        is_written = ~cache.cpu().transpose(1, 2).flatten(0, 1).isnan().any(-1).any(-1)
        assert torch.equal(is_written.nonzero()[:, 0], kept.sort().values)
