"""Weights on their way to a device: however files and buffers cut them, and however late copies run."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoints import make_checkpoint

from quire import kernels
from quire.services.worker import weights
from quire.services.worker.device_stream import ImmediateStream
from quire.services.worker.layers.placement import Placement
from quire.services.worker.models import build_model
from quire.services.worker.packing import Packing
from quire.services.worker.weight_stream import WeightStream, chunks_of
from quire.shared import model_files
from quire.shared.model_errors import ModelFilesError
from quire.shared.weight_files import TensorEntry

CPU = torch.device("cpu")


class LateStream(ImmediateStream):
    """Copies nothing before somebody waits for it, as a busy device might."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.num_done = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._copies.append((target, source))

    def record(self) -> LateEvent:
        return LateEvent(self, len(self._copies))

    @torch.inference_mode()
    def run_until(self, count: int) -> None:
        with self._lock:
            for target, source in self._copies[self.num_done : count]:
                target.copy_(source)
            self.num_done = max(self.num_done, count)


class LateEvent:
    def __init__(self, stream: LateStream, count: int) -> None:
        self._stream, self._count = stream, count

    def wait(self) -> None:
        self._stream.run_until(self._count)

    def is_done(self) -> bool:
        return self._stream.num_done >= self._count


def written(folder: Path, files: list[list[int]], gap: int = 0) -> list[tuple[int, TensorEntry]]:
    """Files of tensors of so many bytes, `gap` unwanted bytes between them; keyed by number."""
    entries = []
    for number, sizes in enumerate(files):
        file = folder / f"{number}.bin"
        file.write_bytes(bytes((number * 31 + at * 7) % 251 for at in range(9 + sum(sizes) + gap * len(sizes))))
        offset = 9
        for size in sizes:
            entries.append((len(entries), TensorEntry(file, "U8", (size,), offset, size)))
            offset += size + gap
    return entries


def content(entry: TensorEntry) -> list[int]:
    return list(entry.file.read_bytes()[entry.offset : entry.offset + entry.size_bytes])


@settings(deadline=None, max_examples=40)
@given(
    files=st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=6), min_size=1, max_size=3),
    gap=st.integers(0, 40),
    buffer_bytes=st.integers(16, 100),
    num_buffers=st.integers(1, 4),
)
def test_every_tensor_arrives_whole_however_buffers_cut_it(tmp_path_factory, files, gap, buffer_bytes, num_buffers):
    entries = written(tmp_path_factory.mktemp("files"), files, gap)
    side = LateStream()
    stream = WeightStream(entries, CPU, num_buffers, buffer_bytes, side)
    found = {key: tensor.tolist() for key, tensor in stream.tensors()}
    assert found == {key: content(entry) for key, entry in entries}


def test_what_nobody_wants_is_not_read(tmp_path):
    entries = written(tmp_path, [[100, 100]], gap=1000)
    assert [chunk.size for chunk in chunks_of([entry for _, entry in entries], 4096)] == [100, 100]


def test_tensors_side_by_side_are_read_at_once(tmp_path):
    entries = written(tmp_path, [[100, 100, 50], [20]], gap=8)
    assert [chunk.size for chunk in chunks_of([entry for _, entry in entries], 4096)] == [266, 20]


def test_a_buffer_is_filled_again_only_when_its_copies_are_done(tmp_path):
    """Copies here never run by themselves: without a wait they would take what was read later."""
    entries = written(tmp_path, [[64] * 20])
    side = LateStream()
    stream = WeightStream(entries, CPU, 2, 64, side)
    kept = [tensor for _, tensor in stream.tensors()]
    assert side.num_done == 20
    assert [tensor.tolist() for tensor in kept] == [content(entry) for _, entry in entries]


def test_a_file_that_was_cut_off_meanwhile_is_named(tmp_path):
    entries = written(tmp_path, [[300]])
    file = entries[0][1].file
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelFilesError, match=r"0\.bin ends at 100 bytes"):
        list(WeightStream(entries, CPU, 2, 64).tensors())


def test_a_reader_that_stops_early_leaves_no_thread_and_no_file_open(tmp_path):
    entries = written(tmp_path, [[64] * 20])
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    tensors = WeightStream(entries, CPU, 3, 64).tensors()
    next(tensors)
    tensors.close()
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_model_loaded_through_the_stream_is_the_mapped_one(tmp_path, monkeypatch, is_sharded):
    """On a device weights have no memory before their first part comes; the same code fills a model on the CPU."""
    folder = make_checkpoint("llama with biases", tmp_path, dtype="bfloat16", is_sharded=is_sharded)
    monkeypatch.setattr(weights, "_mapped", lambda entries: WeightStream(entries, CPU, 3, 5000, LateStream()).tensors())
    config = model_files.read_model_config(folder)
    placement = Placement(CPU, torch.float32, is_deferred=True)
    model = build_model(config, placement)
    targets = model.targets()
    packing = Packing(model, targets, kernels.choose_linear(set(), CPU, torch.float32, "plain"), placement)
    assert all(target.is_meta for name, target in targets.items() if name.endswith("_proj.weight"))
    with torch.inference_mode():
        entries = model_files.read_weight_entries(folder)
        weights.load_weights(entries, targets, False, on_filled=packing.filled, settle=packing.settle)
    expected = {}
    for file in folder.glob("*.safetensors"):
        expected |= load_file(file)
    merged = [expected[f"model.layers.1.self_attn.{name}_proj.weight"].float() for name in "qkv"]
    biases = [expected[f"model.layers.1.self_attn.{name}_proj.bias"].float() for name in "qkv"]
    found = model.layers[1].attention.qkv(torch.eye(config.hidden_size))
    assert torch.equal(found, torch.nn.functional.linear(torch.eye(64), torch.cat(merged), torch.cat(biases)))
    assert torch.equal(model.norm.weight, expected["model.norm.weight"].float())
