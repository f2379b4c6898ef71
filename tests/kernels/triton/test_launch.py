"""What a model's steps launch has all been compiled beforehand; and who serves a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from compile_gate import sm_90

from quire.kernels import RaggedBatch, StepTensors, cpu, dispatch
from quire.kernels import triton as backend
from quire.kernels.triton import launch
from quire.kernels.triton.launch import Dims, Launch

DIMS = Dims(
    dtype=torch.bfloat16,
    cache_dtype=torch.bfloat16,
    hidden_size=512,
    intermediate_size=1024,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=4096,
    block_size=16,
    max_num_seqs=8,
    max_num_blocks=64,
    has_qk_norm=True,
    activation="silu",
    windows=(None, 128),
)


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Launches that `launches` does not name; they are compiled instead of run."""
    with sm_90():
        known = {id(kernel) for kernel in backend.compile_all(backend.launches(DIMS), 2)}
        found: list[str] = []

        def compile_only(launch: Launch) -> None:
            if id(launch.compile()) not in known:
                found.append(f"{launch.kernel.fn.__name__} {launch.constants}")

        monkeypatch.setattr(Launch, "run", compile_only)
        yield found


def crooked(*size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """As a column of a packed copy: aligned to its own size only."""
    count = int(np.prod(size))
    return torch.zeros(count + 1, dtype=dtype)[1:].view(size)


def run_a_step(q_lens: list[int], num_columns: int) -> None:
    num_rows, num_tokens, dims = len(q_lens), sum(q_lens), DIMS
    cu_q, seq_lens = np.concatenate(([0], np.cumsum(q_lens))), np.full(num_rows, num_columns * dims.block_size)
    tables = np.zeros((num_rows, num_columns), np.int32)
    batch = RaggedBatch(
        crooked(num_rows, num_columns), crooked(num_rows + 1), crooked(num_rows), tables, cu_q, seq_lens, 16
    )
    columns = (crooked(num_tokens), crooked(num_tokens), crooked(num_tokens), crooked(num_rows))
    state = (crooked(num_rows), crooked(num_rows), crooked(num_rows + 1), torch.zeros(8, 99), torch.zeros(8, 7))
    state = (*state[:3], *(table.int() for table in state[3:]))
    backend.prepare_inputs(*state, 16, StepTensors(*columns, batch.block_tables))
    hidden = torch.zeros(num_tokens, dims.hidden_size, dtype=dims.dtype)
    backend.rms_norm(hidden, hidden[0], 1e-6)
    backend.add_rms_norm(hidden, hidden.clone(), hidden[0], 1e-6)
    qkv = torch.zeros(num_tokens, (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim, dtype=dims.dtype)
    caches = torch.zeros(2, 5, dims.num_kv_heads, dims.block_size, dims.head_dim, dtype=dims.dtype).unbind(0)
    norm = torch.zeros(dims.head_dim, dtype=dims.dtype)
    angles = torch.zeros(40, dims.head_dim)
    q = backend.rope_and_cache(qkv, norm, norm, 1e-6, angles, columns[0], columns[1], *caches)
    for window in dims.windows:
        backend.paged_attention(q, *caches, batch, 0.1, window)
    backend.gated_activation(torch.zeros(num_tokens, 2 * dims.intermediate_size, dtype=dims.dtype), "silu")
    backend.append_tokens(state[3], crooked(num_rows), crooked(num_rows), crooked(num_rows, dtype=torch.int64))


@pytest.mark.parametrize("q_lens", [[1], [1, 1, 1], [1] * 16, [5], [1, 1, 300, 16], [8192]])
def test_a_step_compiles_nothing(q_lens: list[int], unforeseen: list[str]) -> None:
    for num_columns in (1, 16, 17, 600):
        run_a_step(q_lens, num_columns)
    assert not unforeseen


def test_a_gpu_is_served_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[str, Any] = {}
    monkeypatch.setattr(dispatch, "_backends", chosen)
    monkeypatch.setattr(dispatch, "_names", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    dispatch.serve_gpu()
    assert chosen["cuda"] is backend and dispatch.backend_name("cuda") == "triton"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dispatch.serve_gpu()
    assert chosen["cuda"] is cpu


def test_what_two_threads_at_once_could_not_parse_is_compiled_alone() -> None:
    class Clashing:
        """A launch at whose first compilation Python's parser fails, as it may beside another thread's."""

        def __init__(self, name: str, clashes: int) -> None:
            self.name, self.clashes = name, clashes

        def compile(self) -> str:
            if self.clashes:
                self.clashes -= 1
                raise SystemError("AST constructor recursion depth mismatch")
            return self.name

    launches: Any = [Clashing("a", 0), Clashing("b", 1), Clashing("c", 0)]
    assert launch.compile_all(launches, 2) == ["a", "b", "c"]
    with pytest.raises(SystemError):
        launch.compile_all([Clashing("d", 2)], 2)  # type: ignore[list-item]
