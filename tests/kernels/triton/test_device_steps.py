"""No step of the worker's device runner compiles anything that was not listed beforehand, eager or padded."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")
from checkpoints import make_checkpoint
from compile_gate import sm_90
from plans import Driver

from quire.kernels import dispatch
from quire.kernels import triton as backend
from quire.kernels.triton.launch import Launch
from quire.services.worker.kernel_variants import dims_of
from quire.services.worker.model_runner import ModelRunner


def test_steps_compile_nothing(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode in ("interp", "gpu"):
        pytest.skip("kernels are launched in this process")
    folder = make_checkpoint("qwen3", tmp_path)
    runners = [
        ModelRunner(folder, "cpu", "float32", threads=1, linear="plain", runner="device", enforce_eager=is_eager)
        for is_eager in (True, False)
    ]
    dims = dims_of(runners[0].model, runners[0].placement, runners[0].placement.dtype, False, block_size=4)
    found: list[str] = []
    seen: set[str] = set()
    with sm_90():
        known = {id(launch.compile()) for launch in backend.launches(dims)}

        def compile_only(launch: Launch) -> None:
            seen.add(launch.kernel.fn.__name__)
            if id(launch.compile()) not in known:
                found.append(launch.kernel.fn.__name__)

        monkeypatch.setattr(Launch, "run", compile_only)
        monkeypatch.setitem(dispatch._backends, "cpu", backend)
        for runner in runners:
            driver = Driver(runner)
            rows = [
                driver.row(slot, [3] * length, temperature=0.5, frequency_penalty=1.0, logprobs=2, logit_bias={3: 1.0})
                for slot, length in enumerate((1, 9, 30))
            ]
            rows[1].params = rows[0].params.__class__(prompt_logprobs=1, allowed_token_ids=[1, 2])
            driver.run(rows, 3)
            driver.run(rows[:1], 6)
            fork = driver.row(5, rows[1].ids)
            fork.blocks = driver.take_blocks(len(rows[1].blocks))
            driver.step([(fork, fork.num_missing)], [(rows[1].blocks[0], fork.blocks[0])])
    assert not found
    assert seen >= {
        *("_prepare_inputs", "_append_tokens", "_write_words", "_copy_blocks", "_remember"),
        *("attention", "sampling_pass", "sampling_finish", "_survey", "_report"),
    }
