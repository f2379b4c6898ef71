"""--load-format dummy: a config.json is enough, and what is computed is that of a freshly initialised model."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3]))
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import FAMILIES, make_checkpoint
from plans import Driver

from bench.checkpoints import DIMENSIONS
from quire.services.worker.dummy_weights import dummy_entries, fill_with_dummies
from quire.services.worker.layers.placement import Placement
from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.models import build_model
from quire.shared import model_files

CPU = Placement(torch.device("cpu"), torch.float32)


def config_alone(family: str, folder: Path) -> Path:
    made = make_checkpoint(family, folder / "whole")
    (folder / "alone").mkdir()
    shutil.copy(made / "config.json", folder / "alone")
    return folder / "alone"


def filled(folder: Path) -> dict[str, torch.Tensor]:
    model = build_model(model_files.read_model_config(folder), CPU)
    targets = model.targets()
    kept = dict(targets)
    fill_with_dummies(targets)
    assert not targets
    return kept


@pytest.mark.parametrize("family", FAMILIES)
def test_the_headers_are_those_a_checkpoint_would_have(tmp_path, family):
    folder = make_checkpoint(family, tmp_path)
    ours = dummy_entries(model_files.read_model_config(folder))
    theirs = model_files.read_weight_entries(folder)
    assert {name: (entry.dtype, entry.shape, entry.size_bytes) for name, entry in ours.items()} == {
        name: (entry.dtype, entry.shape, entry.size_bytes) for name, entry in theirs.items()
    }


def test_weights_are_spread_as_an_initialised_models_and_the_same_at_every_start(tmp_path):
    folder = config_alone("llama with biases", tmp_path)
    tensors = filled(folder)
    for name, tensor in tensors.items():
        values = tensor.float()
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        assert values.std() == pytest.approx(0.02, rel=0.5), name
        assert values.mean() == pytest.approx(mean, abs=0.1 / math.sqrt(values.numel())), name
        assert (values == 0).float().mean() < 0.01
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in filled(folder).items())
    layers = [tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1)]
    assert not torch.equal(*layers)


def test_a_config_alone_answers_plans_and_loaded_bytes_are_counted(tmp_path):
    seen: list[tuple[int, int]] = []
    folder = config_alone("qwen3", tmp_path)
    note = lambda done, total: seen.append((done, total))  # noqa: E731
    runner = ModelRunner(folder, "cpu", "float32", 1, on_progress=note, linear="plain", load_format="dummy")
    rows = []
    for _ in range(2):
        driver = Driver(runner)
        rows.append(driver.row(0, [5, 6, 7]))
        driver.run(rows[-1:], 8)
    assert rows[0].output == rows[1].output and len(set(rows[0].output)) > 1
    assert seen[-1][0] == seen[-1][1] == runner.weight_bytes


def test_published_dimensions_have_their_published_numbers_of_parameters():
    counts = {}
    for name in ("qwen3-0.6b", "qwen3-8b", "llama-3.1-8b"):
        entries = dummy_entries(model_files.read_model_config(DIMENSIONS / name))
        counts[name] = sum(math.prod(entry.shape) for entry in entries.values())
    assert counts == {"qwen3-0.6b": 596_049_920, "qwen3-8b": 8_190_735_360, "llama-3.1-8b": 8_030_261_248}
