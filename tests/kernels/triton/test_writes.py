"""A step's changes find their places, and blocks are copied in every layer; nothing beside them is touched."""

from __future__ import annotations

import pytest
import torch


def test_words_are_written_where_their_segments_say(backend, guards) -> None:
    generator = torch.Generator().manual_seed(3)
    packed = torch.randint(-(2**31), 2**31 - 1, (5000,), generator=generator, dtype=torch.int32)
    segments = [(0, 4999, 1), (10, 100, 3000), (9000, 0, 1), (5000, 77, 1024), (3200, 5, 0), (9001, 7, 998)]
    target = guards.put(torch.zeros(9999, dtype=torch.int32))
    expected = target.cpu().clone()
    for place, source, length in segments:
        expected[place : place + length] = packed[source : source + length]
    backend.write_words(target, guards.put(packed), guards.put(torch.tensor(segments, dtype=torch.int32)))
    assert torch.equal(target.cpu(), expected)


def test_no_segments_change_nothing(backend, guards) -> None:
    target = guards.put(torch.arange(9, dtype=torch.int32))
    packed = guards.put(torch.zeros(4, dtype=torch.int32))
    backend.write_words(target, packed, guards.empty((0, 3), dtype=torch.int32))
    assert target.tolist() == list(range(9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("shape", [(2, 16, 64), (1, 3, 5)])
def test_blocks_are_copied_in_every_layer(dtype, shape, backend, guards) -> None:
    num_layers, num_blocks = 3, 9
    numbers = torch.randn(num_layers, num_blocks, *shape, generator=torch.Generator().manual_seed(1))
    caches = guards.put(numbers.to(dtype).view(torch.uint8)).view(dtype)
    pairs = [(0, 8), (0, 5), (7, 1)]
    expected = caches.cpu().view(torch.uint8).clone()
    for source, target in pairs:
        expected[:, target] = expected[:, source]
    backend.copy_block_pairs(caches, guards.put(torch.tensor(pairs, dtype=torch.int32)))
    assert torch.equal(caches.cpu().view(torch.uint8), expected)
