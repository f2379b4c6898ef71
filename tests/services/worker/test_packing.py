"""Packing while loading: a weight is packed as soon as its last part is there, and held once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoints import make_checkpoint

from quire import kernels
from quire.kernels.cpu.linear import PlainWeight
from quire.services.worker.errors import DeviceError
from quire.services.worker.layers.placement import Placement
from quire.services.worker.models import build_model
from quire.services.worker.packing import Packing, choose_linear
from quire.services.worker.weights import load_weights
from quire.shared import model_files

CPU = Placement(torch.device("cpu"), torch.float32)


class Held:
    """Packs plainly, and notes how many weights had been packed."""

    def __init__(self, has_rows: bool = True) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._has_rows = has_rows

    def __call__(self, weight: torch.Tensor) -> PlainWeight:
        self.shapes.append(tuple(weight.shape))
        packed = PlainWeight(weight.clone())
        packed.has_rows = self._has_rows
        return packed


def load(folder: Path, pack: Held):
    config = model_files.read_model_config(folder)
    model = build_model(config, CPU)
    targets = model.targets()
    packing = Packing(model, targets, kernels.LinearChoice("held", pack, "held"))
    counts: list[int] = []

    def filled(name: str) -> None:
        packing.filled(name)
        counts.append(len(pack.shapes))

    load_weights(model_files.read_weight_entries(folder), targets, config.tie_word_embeddings, on_filled=filled)
    return model, packing, counts


@pytest.mark.parametrize("family", ["llama 2", "qwen3", "llama with biases"])
def test_every_weight_is_packed_once_on_the_way(tmp_path, family):
    pack = Held()
    model, packing, counts = load(make_checkpoint(family, tmp_path), pack)
    assert len(pack.shapes) == len(model.linears())
    assert counts == sorted(counts)
    assert counts[len(counts) // 2] > 0
    assert packing.weight_bytes() == sum(
        entry.size_bytes for entry in model_files.read_weight_entries(tmp_path).values()
    )


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_tied_embedding_is_held_once_where_rows_can_be_read_from_the_head(tmp_path, has_rows):
    model, packing, _ = load(make_checkpoint("qwen3", tmp_path), Held(has_rows))
    plain = model.embedding.weight
    size = sum(entry.size_bytes for entry in model_files.read_weight_entries(tmp_path).values())
    if has_rows:
        assert plain is model.head.weight
        assert packing.weight_bytes() == size
    else:
        assert isinstance(plain, torch.Tensor)
        assert packing.weight_bytes() == size + plain.nbytes
    assert model.embedding(torch.tensor([3, 0], dtype=torch.int32)).shape == (2, 64)


def test_a_kind_that_cannot_be_had_is_named_with_its_flag(tmp_path):
    model = build_model(model_files.read_model_config(make_checkpoint("qwen3", tmp_path)), CPU)
    with pytest.raises(DeviceError, match=r"--linear native --quantization none: .* for torch.float32"):
        choose_linear(model, CPU, "native", "none")
