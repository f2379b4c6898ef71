"""No step of the sampler compiles anything that was not listed, whatever its rows and wherever its columns lie."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from compile_gate import sm_90

from quire.kernels.slot_state import make_slots
from quire.kernels.triton import logprobs, penalties, sampling
from quire.kernels.triton.launch import Dims, Launch

_MODULES = (sampling, penalties, logprobs)
DIMS = Dims(torch.bfloat16, torch.bfloat16, 512, 1024, 8, 2, 64, 4096, 16, 8, 64, True, "silu", (None,))


def crooked(size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """As a column of a packed copy: aligned to its own size only."""
    return torch.zeros(size + 1, dtype=dtype)[1:]


@pytest.mark.parametrize("num_rows", [1, 2, 16, 37])
def test_a_step_compiles_nothing(num_rows, mode, monkeypatch) -> None:
    if mode == "interp":
        pytest.skip("triton is interpreted in this process")
    device, vocab_size, found = torch.device("cpu"), DIMS.vocab_size, list[str]()
    with sm_90():
        known = {id(launch.compile()) for module in _MODULES for launch in module.launches(DIMS)}

        def compile_only(launch: Launch) -> None:
            if id(launch.compile()) not in known:
                found.append(launch.kernel.fn.__name__)

        monkeypatch.setattr(Launch, "run", compile_only)
        state = make_slots(64, vocab_size, 300, device)
        workspace = sampling.make_sampling_workspace(64, vocab_size, device)
        logits = torch.zeros(num_rows, vocab_size)
        columns = crooked(num_rows), crooked(num_rows)
        results = crooked(num_rows), crooked(num_rows, dtype=torch.bool)
        grammar = torch.zeros(5, vocab_size // 32, dtype=torch.int32)
        sampling.sample_slots(logits, *columns, grammar, state, workspace, *results)
        logprobs.token_logprobs(logits, crooked(num_rows, dtype=torch.int64), num_rows % 21)
        penalties.remember_tokens(state.counts, 3, crooked(num_rows), num_rows // 2)
    assert not found
