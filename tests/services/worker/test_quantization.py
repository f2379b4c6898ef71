"""--quantization int8: models say nearly what they said before, in little more than a quarter of float32's memory."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3]))

from checkpoints import DEMO_MODEL, make_checkpoint

from bench.int8_accuracy import agreement, logits_of, perplexity, relative_error, stories
from quire.services.worker.errors import DeviceError
from quire.services.worker.layers.placement import Placement
from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.models import build_model
from quire.services.worker.packing import choose_linear
from quire.shared import model_files


def test_the_demo_model_is_as_sure_of_its_stories():
    texts = stories(DEMO_MODEL, 4, 128)
    exact = logits_of(DEMO_MODEL, "float32", "none", texts)
    logits = logits_of(DEMO_MODEL, "float32", "int8", texts)
    assert perplexity(logits, texts) == pytest.approx(perplexity(exact, texts), rel=0.02)
    assert relative_error(logits, exact) < 0.05
    assert agreement(logits, exact) > 0.95


@pytest.mark.parametrize("family", ["llama 2", "llama 3", "mistral", "qwen2", "qwen3", "llama with biases"])
def test_logits_of_every_family_stay_near(tmp_path, family):
    folder = make_checkpoint(family, tmp_path)
    random = Random(0)
    texts = [[random.randrange(384) for _ in range(40)] for _ in range(2)]
    exact = logits_of(folder, "float32", "none", texts)
    logits = logits_of(folder, "float32", "int8", texts)
    assert 0 < relative_error(logits, exact) < 0.08
    assert agreement(logits, exact) > 0.8


def test_weights_take_a_quarter_of_float32():
    plain = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1)
    quantized = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1, quantization="int8")
    assert quantized.weight_bytes < 0.3 * plain.weight_bytes


def test_a_gpu_has_no_int8_weights(tmp_path):
    folder = make_checkpoint("llama 2", tmp_path)
    cpu = Placement(torch.device("cpu"), torch.float32)
    model = build_model(model_files.read_model_config(folder), cpu)
    with pytest.raises(DeviceError, match="--quantization int8: there are int8 weights on a CPU only"):
        choose_linear(model, Placement(torch.device("meta"), torch.float32), "auto", "int8")
