"""`quire plan`: the forecast against what a worker really takes, and published dimensions on GPUs that are not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint

from quire.services.worker.errors import DeviceError
from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.plan import forecast, main
from quire.shared import model_files
from quire.shared.messages import Configure

DIMENSIONS = Path(__file__).parents[3] / "bench" / "dimensions"
GIB = 1 << 30


def plan(name: str, memory: int, **values: Any) -> Any:
    return forecast(model_files.read_model_config(DIMENSIONS / name), values, memory)


@pytest.mark.parametrize("family", ["llama 2", "qwen3"])
@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
def test_weights_and_cache_are_what_a_worker_takes(tmp_path: Path, family: str, quantization: str) -> None:
    folder = make_checkpoint(family, tmp_path)
    values = {"quantization": quantization, "kv_cache_memory": 1 << 20, "max_num_seqs": 4, "dtype": "float32"}
    found = forecast(model_files.read_model_config(folder), values, None)
    runner = ModelRunner(folder, "cpu", "float32", 1, quantization=quantization)
    ready = runner.configure(Configure(4, 1024, None, 16, 1 << 20, 0.9))
    planned, taken = dict(found.parts), dict(ready.memory_plan)
    assert planned["kv cache"] == taken["kv cache"] and found.num_tokens == ready.num_blocks * 16
    # Packed weights are padded to the width of vectors, which shows in models as small as these.
    assert planned["weights"] == pytest.approx(taken["weights"], rel=0 if quantization == "none" else 0.4)


def test_published_models_take_what_their_cards_say() -> None:
    large = plan("qwen3-8b", 80 * GIB)
    assert dict(large.parts)["weights"] == pytest.approx(8.19e9 * 2, rel=0.01)
    assert large.token_bytes == 36 * 2 * 8 * 128 * 2
    assert sum(size for _, size in large.parts) <= 0.9 * 80 * GIB and large.max_model_len == 40960
    small = plan("qwen3-0.6b", 24 * GIB)
    assert dict(small.parts)["weights"] == pytest.approx(0.596e9 * 2, rel=0.01)


def test_a_byte_each_makes_room_for_more() -> None:
    plain, fp8 = (plan("llama-3.1-8b", 24 * GIB, quantization=kind) for kind in ("none", "fp8"))
    assert fp8.num_tokens > plain.num_tokens
    assert plan("llama-3.1-8b", 24 * GIB, kv_cache_dtype="fp8").token_bytes * 2 == plain.token_bytes


def test_ranks_share_a_model() -> None:
    alone, shared = plan("llama-3.1-8b", 80 * GIB), plan("llama-3.1-8b", 80 * GIB, tensor_parallel_size=4)
    assert dict(shared.parts)["weights"] == pytest.approx(dict(alone.parts)["weights"] / 4, rel=0.01)
    assert shared.token_bytes * 4 == alone.token_bytes


@pytest.mark.parametrize(
    ("values", "memory", "complaint"),
    [
        ({}, 12 * GIB, "the weights take 14.96 GiB of 12.00 GiB"),
        ({"max_model_len": 131072}, 24 * GIB, "lower --max-model-len or raise --memory-utilization"),
        ({"max_model_len": 200000}, 80 * GIB, "more than the 131072"),
    ],
)
def test_what_does_not_fit_says_what_to_change(values: dict[str, Any], memory: int, complaint: str) -> None:
    with pytest.raises(DeviceError, match=complaint):
        plan("llama-3.1-8b", memory, **values)


def test_the_command_prints_a_table_and_exits_by_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DIMENSIONS / "qwen3-8b"), "--memory", "80GiB", "--max-model-len", "8192"]) == 0
    said = capsys.readouterr().out
    assert "kv cache" in said and "144.00 KiB a token" in said and "texts may have 8,192" in said
    assert main([str(DIMENSIONS / "qwen3-8b"), "--memory", "8GiB"]) == 1
    assert "It does not fit" in capsys.readouterr().err
    assert main(["/no/such/folder"]) == 1
    with pytest.raises(SystemExit):
        main(["--memory", "much"])
