"""What a slot has had: counted and marked when it is taken, whatever it held before."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.slot_state import make_counts


def bits(words: torch.Tensor) -> set[int]:
    return {
        32 * place + bit
        for place, word in enumerate(words.tolist())
        for bit in range(32)
        if word >> bit & 1
    }  # fmt: skip


@pytest.mark.parametrize("vocab_size", [64, 77, 1000])
def test_prompts_are_marked_and_outputs_counted(vocab_size, backend, guards) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    counts = make_counts(3, vocab_size, torch.device(guards.device))
    for slot, num_tokens, num_prompt in ((1, 30, 20), (2, 1500, 1100), (1, 40, 40), (0, 5, 0)):
        ids = torch.randint(0, vocab_size, (num_tokens,), generator=generator, dtype=torch.int32)
        ids[0] = vocab_size - 1
        others = [tensor.clone() for tensor in counts]
        backend.remember_tokens(counts, slot, guards.put(ids), num_prompt)
        assert bits(counts.prompt[slot]) == set(ids[:num_prompt].tolist())
        expected = torch.bincount(ids[num_prompt:], minlength=vocab_size)
        assert torch.equal(counts.outputs[slot].cpu().long(), expected)
        for before, after in zip(others, counts, strict=True):
            left_alone = [other for other in range(3) if other != slot]
            assert torch.equal(before[left_alone], after[left_alone])


def test_a_slot_of_no_tokens_is_empty(backend, guards) -> None:
    counts = make_counts(1, 50, torch.device(guards.device))
    counts.outputs.fill_(3), counts.prompt.fill_(-1)
    backend.remember_tokens(counts, 0, guards.put(torch.zeros(0, dtype=torch.int32)), 0)
    assert not counts.outputs.any() and not counts.prompt.any()
