"""The trial step: as large as a configuration allows, in a cache of one block."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoints import make_checkpoint

from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.trial_step import Shape, inputs_of, largest_shapes, run_trial
from quire.shared import model_files
from quire.shared.messages import Configure

CONFIG = model_files.read_model_config(model_files.DEMO_MODEL)


@pytest.mark.parametrize(
    ("seqs", "budget", "longest", "shapes"),
    [
        (64, 1024, 2048, [Shape(1, 1024, 1024), Shape(1, 1024, 2048), Shape(64, 16, 16), Shape(64, 1, 2048)]),
        (4, 1024, 512, [Shape(2, 512, 512), Shape(1, 512, 512), Shape(4, 256, 256), Shape(4, 1, 512)]),
        (256, 100, 4096, [Shape(1, 100, 100), Shape(1, 100, 4096), Shape(100, 1, 1), Shape(100, 1, 4096)]),
        (1, 1, 2, [Shape(1, 1, 1), Shape(1, 1, 2)]),
    ],
)
def test_no_allowed_step_is_larger(seqs, budget, longest, shapes):
    found = largest_shapes(CONFIG, Configure(seqs, budget, longest, 16, None, 0.9))
    assert set(shapes) <= set(found)
    assert max(shape.num_rows * shape.num_scheduled for shape in found) >= budget
    assert max(shape.num_rows for shape in found) == min(seqs, budget)
    assert all(shape.seq_len <= longest for shape in found)


def test_all_lies_in_one_block():
    inputs = inputs_of(Shape(3, 5, 9), 4)
    assert inputs.positions.tolist() == [4, 5, 6, 7, 8] * 3
    assert inputs.slot_mapping.max() < 4 and inputs.block_tables.shape == (3, 3) and not inputs.block_tables.any()
    assert inputs.cu_q.tolist() == [0, 5, 10, 15]


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn], ids=str)
def test_a_model_goes_through_it(tmp_path, cache_dtype):
    runner = ModelRunner(make_checkpoint("mistral", tmp_path), "cpu", "float32", threads=1)
    counts: list[int] = []
    compute = runner.model.compute_logits

    def counting(hidden: torch.Tensor) -> torch.Tensor:
        counts.append(len(hidden))
        return compute(hidden)

    runner.model.compute_logits = counting
    run_trial(runner.model, runner.config, runner.placement, cache_dtype, Configure(6, 64, 100, 16, None, 0.9))
    assert max(counts) == 6
