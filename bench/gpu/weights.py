"""Weights on their way: bytes a second from files in the page cache to the device, and whether all of them arrive.

By the loader's ring of pinned buffers, beside mapped files and plain copies. The files hold random bytes.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path

import torch

from quire.services.worker.weight_stream import WeightStream
from quire.shared.weight_files import TensorEntry

from .setting import Outcome, Setting

_NUM_TENSORS = 32
_ROUNDS = 3
_NUM_BUFFERS = (4, 8)
"""The loader's own number, and twice as many readers."""


def run(setting: Setting) -> Outcome:
    device, file = torch.device(setting.device), setting.folder / "weights.bin"
    content = torch.randint(0, 256, (setting.sizes.copy_bytes,), dtype=torch.uint8)
    file.write_bytes(memoryview(content.numpy()))  # pyright: ignore[reportArgumentType]
    size = len(content) // _NUM_TENSORS
    entries = [(number, TensorEntry(file, "U8", (size,), number * size, size)) for number in range(_NUM_TENSORS)]

    def streamed(num_buffers: int) -> Callable[[], None]:
        def way() -> None:
            for _ in WeightStream(entries, device, num_buffers).tensors():
                pass

        return way

    def mapped() -> None:
        for _, entry in entries:
            _mapped(file, entry).to(device)

    wrong = [
        number
        for number, tensor in WeightStream(entries, device).tensors()
        if not torch.equal(tensor, content[number * size : (number + 1) * size].to(device))
    ]
    ways = {f"pinned ring of {number}": streamed(number) for number in _NUM_BUFFERS}
    ways["mapped, plain copies"] = mapped
    rates = {name: _NUM_TENSORS * size / _seconds(way, device) for name, way in ways.items()}
    file.unlink()
    notes = [f"tensors {wrong} are not what the file holds"] if wrong else ["every tensor is what the file holds"]
    rows = [[name, rate / 1e9] for name, rate in rates.items()]
    return Outcome(["way to the device", "GB/s"], rows, {"bytes_per_second": rates, "wrong": wrong}, notes)


def _mapped(file: Path, entry: TensorEntry) -> torch.Tensor:
    with file.open("rb") as opened:
        whole = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(whole, dtype=torch.uint8, count=entry.size_bytes, offset=entry.offset)


def _seconds(way: Callable[[], None], device: torch.device) -> float:
    """The best of some rounds: others' work on the machine only ever adds."""
    found = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        way()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return min(found)
