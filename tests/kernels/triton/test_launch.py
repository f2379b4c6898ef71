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


class _Compiled:
    """What a launch is compiled to; its `run` builds a launcher and loads the code, as Triton's does."""

    def __init__(self) -> None:
        self.is_loaded = False

    @property
    def run(self) -> None:
        self.is_loaded = True


def clashing(clashes: int) -> Launch:
    """A launch at whose first compilations Python's parser fails, as it may beside another thread's."""

    class Kernel:
        def __init__(self) -> None:
            self.clashes, self.num_runs = clashes, 0
            self.compiled = _Compiled()

        def warmup(self, **_: Any) -> _Compiled:
            if self.clashes:
                self.clashes -= 1
                raise SystemError("AST constructor recursion depth mismatch")
            return self.compiled

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def run(**_: Any) -> None:
                self.warmup()
                self.num_runs += 1

            return run

    return Launch(Kernel(), (1,), (), {})


def test_what_two_threads_at_once_could_not_parse_is_compiled_alone() -> None:
    launches = [clashing(0), clashing(1), clashing(0)]
    assert launch.compile_all(launches, 2) == [each.kernel.compiled for each in launches]
    with pytest.raises(SystemError):
        launch.compile_all([clashing(2)], 2)


def test_what_is_launched_while_others_are_compiled_is_parsed_again() -> None:
    beside = clashing(1)
    beside.run()
    assert beside.kernel.num_runs == 1
    with pytest.raises(SystemError):
        clashing(2).run()


def test_kernels_are_loaded_to_their_gpu_before_any_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launches, devices = [clashing(0), clashing(1)], list[torch.device]()
    monkeypatch.setattr(backend, "launches", lambda dims: launches)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    with sm_90():
        assert backend.compile_ahead(DIMS, torch.device("cuda", 0), 2) == 2
    assert all(each.kernel.compiled.is_loaded for each in launches)
    # Of the calling thread, and of each that loads.
    assert len(devices) >= 2 and set(devices) == {torch.device("cuda", 0)}
