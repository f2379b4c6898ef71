"""Quantised weights and KV: models say nearly what they said before, in a quarter of float32's memory."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import DEMO_MODEL, make_checkpoint
from plans import Driver

from bench.quantization_accuracy import agreement, logits_of, perplexity, relative_error, stories
from quire.kernels.cpu.linear_fp8 import Fp8PackedWeight
from quire.services.worker.errors import DeviceError
from quire.services.worker.kv_cache import KVCache
from quire.services.worker.layers.placement import Placement
from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.models import build_model
from quire.services.worker.packing import choose_linear
from quire.shared import model_files
from quire.shared.messages import Configure


@pytest.mark.parametrize(
    ("quantization", "kv_cache_dtype", "error"),
    [("int8", "auto", 0.05), ("fp8", "auto", 0.09), ("none", "fp8", 0.06), ("fp8", "fp8", 0.11)],
)
def test_the_demo_model_is_as_sure_of_its_stories(quantization, kv_cache_dtype, error):
    texts = stories(DEMO_MODEL, 4, 128)
    exact = logits_of(DEMO_MODEL, "float32", "none", texts)
    logits = logits_of(DEMO_MODEL, "float32", quantization, texts, kv_cache_dtype)
    assert perplexity(logits, texts) == pytest.approx(perplexity(exact, texts), rel=0.02)
    assert 0 < relative_error(logits, exact) < error
    assert agreement(logits, exact) > 0.95


@pytest.mark.parametrize(
    ("quantization", "kv_cache_dtype", "error", "share"),
    [("int8", "auto", 0.08, 0.8), ("fp8", "auto", 0.3, 0.6), ("none", "fp8", 0.12, 0.7)],
)
@pytest.mark.parametrize("family", ["llama 2", "llama 3", "mistral", "qwen2", "qwen3", "llama with biases"])
def test_logits_of_every_family_stay_near(tmp_path, family, quantization, kv_cache_dtype, error, share):
    folder = make_checkpoint(family, tmp_path)
    random = Random(0)
    texts = [[random.randrange(384) for _ in range(40)] for _ in range(2)]
    exact = logits_of(folder, "float32", "none", texts)
    logits = logits_of(folder, "float32", quantization, texts, kv_cache_dtype)
    assert 0 < relative_error(logits, exact) < error
    assert agreement(logits, exact) > share


def test_weights_take_a_quarter_of_float32():
    plain = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1)
    quantized = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1, quantization="int8")
    assert quantized.weight_bytes < 0.3 * plain.weight_bytes


def test_fp8_leaves_embedding_and_head_as_they_are(tmp_path):
    runner = ModelRunner(make_checkpoint("llama 2", tmp_path), "cpu", "float32", threads=1, quantization="fp8")
    model = runner.model
    assert isinstance(model.embedding.weight, torch.Tensor)
    assert not isinstance(model.head.weight, Fp8PackedWeight)
    assert all(isinstance(linear.weight, Fp8PackedWeight) for linear in model.linears() if linear is not model.head)
    numbers = sum(linear.weight.nbytes for linear in model.linears() if linear is not model.head)
    config = runner.config
    of_layer = config.hidden_size * (4 * config.hidden_size + 3 * config.intermediate_size)
    assert config.num_hidden_layers * of_layer <= numbers < config.num_hidden_layers * of_layer * 1.1


@pytest.mark.parametrize(("family", "kind"), [("llama 3", "host"), ("qwen3", "host"), ("qwen3", "device")])
def test_a_row_in_fp8_does_not_depend_on_the_rows_beside_it(tmp_path, family, kind):
    """Scales are of single rows, and the KV's are 1: alone, together, in chunks and again, the same tokens come."""
    folder = make_checkpoint(family, tmp_path)
    runner = ModelRunner(folder, "cpu", "float32", 1, quantization="fp8", kv_cache_dtype="fp8", runner=kind)
    random = Random(1)
    prompts = [[random.randrange(384) for _ in range(length)] for length in (3, 17, 30, 41)]
    alone = []
    for prompt in prompts:
        driver = Driver(runner)
        row = driver.row(0, prompt)
        driver.run([row], 12)
        alone.append(row.output)
    driver = Driver(runner)
    rows = [driver.row(slot, prompt) for slot, prompt in enumerate(prompts)]
    driver.step([(rows[3], 20), (rows[1], 5)])
    driver.run(rows, 6)
    driver.preempt(rows[2])
    driver.run(rows, 12)
    assert [row.output for row in rows] == alone


def test_an_fp8_cache_holds_as_many_more_tokens(tmp_path):
    folder = make_checkpoint("qwen3", tmp_path)
    wanted = Configure(64, 64, 512, 16, 1 << 20, 0.9)
    counts = []
    for kv_cache_dtype in ("auto", "fp8"):
        runner = ModelRunner(folder, "cpu", "float32", threads=1, kv_cache_dtype=kv_cache_dtype)
        counts.append(runner.configure(wanted).num_blocks)
    assert counts[1] // 4 == counts[0]


def test_blocks_of_an_fp8_cache_are_copied(tmp_path):
    config = model_files.read_model_config(make_checkpoint("qwen3", tmp_path))
    cache = KVCache(config, Placement(torch.device("cpu"), torch.float32), 4, 16, torch.float8_e4m3fn)
    numbers = torch.arange(cache.keys.numel()) % 97
    cache.keys.copy_(numbers.view(cache.keys.shape))
    before = cache.keys.float()
    cache.copy_blocks([(0, 2), (2, 3)])
    assert torch.equal(cache.keys[:, 3].float(), before[:, 0])


def test_a_gpu_has_no_int8_weights(tmp_path):
    folder = make_checkpoint("llama 2", tmp_path)
    cpu = Placement(torch.device("cpu"), torch.float32)
    model = build_model(model_files.read_model_config(folder), cpu)
    with pytest.raises(DeviceError, match="--quantization int8: there are int8 weights on a CPU only"):
        choose_linear(model, Placement(torch.device("meta"), torch.float32), "auto", "int8")
