"""Per-head norm of q and k, rotary embedding, and the cache write of k and v, in one kernel.

A program takes some heads of one token, so that q, k and v are read once; q is rotated where it lies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .launch import Dims, Launch, ceil_div, next_power_of_2

_HEADS_AT_ONCE = 16
"""Of one program: 4 KiB of q, k or v at a head_dim of 128."""


@triton.jit(do_not_specialize_on_alignment=["positions", "slot_mapping"])
def _rope_and_cache(
    qkv,
    q_norm,
    k_norm,
    cos_sin,
    positions,
    slot_mapping,
    key_cache,
    value_cache,
    epsilon,
    key_scale,
    value_scale,
    block_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_SCALED: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    # Angles are shared by the two halves of a head, so both are held, each of HEAD_DIM // 2 columns.
    column = tl.arange(0, HALF)
    is_column = column < HEAD_DIM // 2
    is_q = head < NUM_HEADS
    is_k = (head >= NUM_HEADS) & (head < NUM_HEADS + NUM_KV_HEADS)
    is_v = (head >= NUM_HEADS + NUM_KV_HEADS) & (head < NUM_HEADS + 2 * NUM_KV_HEADS)
    is_there = (head < NUM_HEADS + 2 * NUM_KV_HEADS)[:, None] & is_column[None, :]
    source = qkv + token * ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM) + head[:, None] * HEAD_DIM + column[None, :]
    raw_first = tl.load(source, mask=is_there, other=0.0)
    raw_second = tl.load(source + HEAD_DIM // 2, mask=is_there, other=0.0)
    first, second = raw_first.to(tl.float32), raw_second.to(tl.float32)
    if HAS_NORM:
        mean = (tl.sum(first * first, 1) + tl.sum(second * second, 1)) / HEAD_DIM
        inverse = tl.rsqrt(mean + epsilon)[:, None]
        of_q, of_k = is_q[:, None] & is_column[None, :], is_k[:, None] & is_column[None, :]
        columns = column[None, :] + tl.zeros([HEADS, 1], tl.int32)
        weight_first = tl.load(q_norm + columns, mask=of_q, other=0.0).to(tl.float32)
        weight_first += tl.load(k_norm + columns, mask=of_k, other=0.0).to(tl.float32)
        weight_second = tl.load(q_norm + columns + HEAD_DIM // 2, mask=of_q, other=0.0).to(tl.float32)
        weight_second += tl.load(k_norm + columns + HEAD_DIM // 2, mask=of_k, other=0.0).to(tl.float32)
        # Rounded in between, as the specification (and the models' authors) do.
        first = (first * inverse * weight_first).to(raw_first.dtype).to(tl.float32)
        second = (second * inverse * weight_second).to(raw_first.dtype).to(tl.float32)
    angles = cos_sin + tl.load(positions + token).to(tl.int64) * HEAD_DIM + column
    cosine = tl.load(angles, mask=is_column, other=0.0)[None, :]
    sine = tl.load(angles + HEAD_DIM // 2, mask=is_column, other=0.0)[None, :]
    turned_first = (first * cosine - second * sine).to(raw_first.dtype)
    turned_second = (second * cosine + first * sine).to(raw_first.dtype)
    tl.store(source, turned_first, mask=is_there & is_q[:, None])
    tl.store(source + HEAD_DIM // 2, turned_second, mask=is_there & is_q[:, None])

    slot = tl.load(slot_mapping + token).to(tl.int64)
    is_written = is_there & (slot >= 0)
    place = (slot // BLOCK_SIZE) * block_stride + (slot % BLOCK_SIZE) * HEAD_DIM
    kv_head = tl.where(is_v, head - NUM_HEADS - NUM_KV_HEADS, head - NUM_HEADS)
    target = place + kv_head[:, None] * (BLOCK_SIZE * HEAD_DIM) + column[None, :]
    if IS_SCALED:
        turned_first = turned_first.to(tl.float32) / key_scale
        turned_second = turned_second.to(tl.float32) / key_scale
        raw_first = raw_first.to(tl.float32) / value_scale
        raw_second = raw_second.to(tl.float32) / value_scale
    stored = key_cache.dtype.element_ty
    tl.store(key_cache + target, turned_first.to(stored), mask=is_written & is_k[:, None])
    tl.store(key_cache + target + HEAD_DIM // 2, turned_second.to(stored), mask=is_written & is_k[:, None])
    tl.store(value_cache + target, raw_first.to(stored), mask=is_written & is_v[:, None])
    tl.store(value_cache + target + HEAD_DIM // 2, raw_second.to(stored), mask=is_written & is_v[:, None])


def _launch(
    arguments: tuple[Any, ...], num_tokens: int, num_heads: int, num_kv_heads: int, head_dim: int, block_size: int
) -> Launch:
    """arguments: the kernel's, up to block_stride; dtypes in place of tensors where it is only compiled."""
    all_heads = num_heads + 2 * num_kv_heads
    cache = arguments[6]
    stored = cache if isinstance(cache, torch.dtype) else cache.dtype
    return Launch(
        _rope_and_cache,
        (num_tokens, ceil_div(all_heads, _HEADS_AT_ONCE)),
        arguments,
        {
            "NUM_HEADS": num_heads,
            "NUM_KV_HEADS": num_kv_heads,
            "HEAD_DIM": head_dim,
            "HALF": next_power_of_2(head_dim // 2),
            "BLOCK_SIZE": block_size,
            "HEADS": min(_HEADS_AT_ONCE, next_power_of_2(all_heads)),
            "HAS_NORM": arguments[1] is not None,
            "IS_SCALED": stored.itemsize == 1,
        },
        expects=("wide loads",) if head_dim % 16 == 0 else (),
    )


def rope_and_cache(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    epsilon: float,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    cache_scales: tuple[float, float] | None = None,
) -> torch.Tensor:
    """A token whose slot is negative is padding: nothing of it is written to the cache."""
    num_kv_heads, block_size, head_dim = key_cache.shape[1:]
    num_tokens = qkv.shape[0]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    scales = cache_scales or (1.0, 1.0)
    if q_norm is None or k_norm is None:
        q_norm = k_norm = None
    arguments = (
        *(qkv, q_norm, k_norm, cos_sin, positions, slot_mapping, key_cache, value_cache),
        *(epsilon, *scales, key_cache.stride(0)),
    )
    _launch(arguments, num_tokens, num_heads, num_kv_heads, head_dim, block_size).run()
    return qkv.view(num_tokens, -1, head_dim)[:, :num_heads]


def launches(dims: Dims) -> list[Launch]:
    norm = dims.dtype if dims.has_qk_norm else None
    arguments = (
        *(dims.dtype, norm, norm, torch.float32, torch.int32, torch.int32, dims.cache_dtype, dims.cache_dtype),
        *(1e-6, 1.0, 1.0, dims.num_kv_heads * dims.block_size * dims.head_dim),
    )
    return [_launch(arguments, 1, dims.num_heads, dims.num_kv_heads, dims.head_dim, dims.block_size)]
