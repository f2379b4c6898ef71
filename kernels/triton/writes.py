"""Writes of a step's changes into what is kept on the GPU, and copies of blocks: a launch each, whatever there is."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .launch import Dims, Launch

_WORDS_AT_ONCE = 1024
_BLOCK_WORDS_AT_ONCE = 4096


@triton.jit(do_not_specialize_on_alignment=["packed", "segments"])
def _write_words(target, packed, segments, AT_ONCE: tl.constexpr):
    """Grid: segments."""
    segment = segments + tl.program_id(0) * 3
    place = tl.load(segment).to(tl.int64)
    source = packed + tl.load(segment + 1)
    length = tl.load(segment + 2)
    for begin in range(0, length, AT_ONCE):
        at = begin + tl.arange(0, AT_ONCE)
        tl.store(target + place + at, tl.load(source + at, mask=at < length, other=0), mask=at < length)


@triton.jit(do_not_specialize=["num_blocks"], do_not_specialize_on_alignment=["pairs"])
def _copy_blocks(caches, pairs, num_blocks, BLOCK_WORDS: tl.constexpr, AT_ONCE: tl.constexpr):
    """Grid: pairs, layers."""
    pair = pairs + tl.program_id(0) * 2
    layer = tl.program_id(1).to(tl.int64) * num_blocks
    source = caches + (layer + tl.load(pair)) * BLOCK_WORDS
    target = caches + (layer + tl.load(pair + 1)) * BLOCK_WORDS
    for begin in range(0, BLOCK_WORDS, AT_ONCE):
        at = begin + tl.arange(0, AT_ONCE)
        tl.store(target + at, tl.load(source + at, mask=at < BLOCK_WORDS, other=0), mask=at < BLOCK_WORDS)


def write_words(target: torch.Tensor, packed: torch.Tensor, segments: torch.Tensor) -> None:
    if len(segments):
        _write((target, packed, segments), len(segments)).run()


def _write(tensors: tuple[Any, ...], num_segments: int) -> Launch:
    return Launch(_write_words, (num_segments,), tensors, {"AT_ONCE": _WORDS_AT_ONCE})


def copy_block_pairs(caches: torch.Tensor, pairs: torch.Tensor) -> None:
    if len(pairs):
        num_layers, num_blocks = caches.shape[:2]
        words = _words(caches.dtype, caches[0, 0].numel())
        _copy((caches.view(words[0]), pairs), len(pairs), num_layers, num_blocks, words[1]).run()


def _words(dtype: torch.dtype, count: int) -> tuple[torch.dtype, int]:
    """What a block of `count` numbers is copied as: whole words, or bytes where there is an odd number of them."""
    size = dtype.itemsize * count
    return (torch.int32, size // 4) if size % 4 == 0 else (torch.uint8, size)


def _copy(tensors: tuple[Any, ...], num_pairs: int, num_layers: int, num_blocks: int, block_words: int) -> Launch:
    constants = {"BLOCK_WORDS": block_words, "AT_ONCE": _BLOCK_WORDS_AT_ONCE}
    return Launch(_copy_blocks, (num_pairs, num_layers), (*tensors, num_blocks), constants)


def launches(dims: Dims) -> list[Launch]:
    ids = torch.int32
    dtype, words = _words(dims.cache_dtype, dims.num_kv_heads * dims.block_size * dims.head_dim)
    return [_write((ids, ids, ids), 2), _copy((dtype, ids), 2, 2, 2, words)]
