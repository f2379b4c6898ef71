"""A GPU's path asks torch only for what it has: on a pretended GPU, from the weights' stream to replayed steps."""

from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("triton")
from checkpoints import make_checkpoint
from plans import Driver, int32
from pretended_gpu import Gpu

from quire.services.worker import device_setup
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Masks


@pytest.fixture(autouse=True)
def no_stream_is_kept():
    yield
    device_setup._stream_of_steps.cache_clear()


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_model_is_loaded_configured_and_run_on_a_gpu(tmp_path, monkeypatch, eight_bits):
    folder, gpu = make_checkpoint("qwen3", tmp_path), Gpu()
    flags = {"quantization": "fp8", "kv_cache_dtype": "fp8"} if eight_bits else {}
    with gpu.use(monkeypatch):
        runner = ModelRunner(folder, "cuda", threads=1, **flags)
        for is_eager in (False, True):
            runner._has_graphs = not is_eager
            gpu.num_captured = gpu.num_replayed = 0
            driver = Driver(runner, budget=80)
            rows = [
                driver.row(0, [5] * 20),
                driver.row(1, [6] * 33, logprobs=3),
                driver.row(2, [7] * 9, temperature=1.0, top_p=0.5, frequency_penalty=0.3, repetition_penalty=1.2),
                driver.row(3, [8] * 6, logit_bias={3: 1.0}, allowed_token_ids=[1, 2, 3]),
            ]
            driver.step([(row, row.num_missing) for row in rows])
            driver.step([(row, 1) for row in rows])
            copies = [(rows[0].blocks[0], rows[3].blocks[0])]
            plan = msgspec.structs.replace(driver.plan([(row, 1) for row in rows], copies), awaits_masks=True)
            bits = b"\xff" * (4 * -(-runner.config.vocab_size // 32))
            runner.step(plan, lambda step, bits=bits: Masks(step, int32(3), bits))
            scored = driver.row(5, [9] * 12, prompt_logprobs=2)
            driver.step([(scored, 12)])
            assert (gpu.num_captured > 0) == (gpu.num_replayed > 0) == (not is_eager)
            assert not gpu.is_capturing
    assert driver.ready.device == "pretended" and driver.ready.backend.startswith("triton")
    assert gpu.launched >= {"_prepare_inputs", "attention", "sampling_pass", "_survey", "_write_words", "_copy_blocks"}
    assert ("_quantize_rows" in gpu.launched) == eight_bits
