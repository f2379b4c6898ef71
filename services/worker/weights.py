"""Weights from safetensors files straight into the model's (merged) tensors, converted on the way.

Every tensor of the model must be there, and nothing else. For a CPU files are mapped, never read whole; for
another device weight_stream.py brings them over.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from quire.shared.model_errors import ModelFilesError
from quire.shared.weight_files import TensorEntry

from .layers.placement import Targets
from .weight_stream import WeightStream

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_IGNORED = (".rotary_emb.inv_freq",)
"""Old checkpoints carry it; it is computed."""


def load_weights(
    entries: dict[str, TensorEntry],
    targets: Targets,
    is_tied: bool,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_filled: Callable[[str], None] = lambda name: None,
    columns: Callable[[str], tuple[int, int, int] | None] = lambda name: None,
    settle: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, target: target,
) -> None:
    """Fill every target and take it out of `targets`, in the order of the files. Raises ModelFilesError.

    is_tied: an lm_head.weight in the files is the embedding again, and not wanted.
    settle(name, target): the tensor to fill in its stead; see Packing.settle.
    on_filled(name) and on_progress(bytes done, bytes in all): after each tensor.
    columns(name): the first of those wanted, how many, and of how many in all; None: all. See WeightCuts.
    """
    wanted = {
        name: entry
        for name, entry in entries.items()
        if not name.endswith(_IGNORED) and not (is_tied and name == "lm_head.weight")
    }
    _check_names(wanted, targets)
    for name, entry in wanted.items():
        _check(name, targets[name], entry, columns(name))
    total = sum(entry.size_bytes for entry in wanted.values())
    done = 0
    ordered = sorted(wanted.items(), key=lambda item: (item[1].file, item[1].offset))
    device = next(target.device for target in targets.values() if not target.is_meta)
    sources = _mapped(ordered) if device.type == "cpu" else WeightStream(ordered, device).tensors()
    for name, source in sources:
        entry, target, part = wanted[name], settle(name, targets.pop(name)), columns(name)
        whole = source.view(_DTYPES[entry.dtype]).view(entry.shape)
        target.copy_(whole if part is None else whole[:, part[0] : part[0] + part[1]])
        del source, whole, target
        on_filled(name)
        done += entry.size_bytes
        on_progress(done, total)


def _check_names(entries: dict[str, TensorEntry], targets: Targets) -> None:
    for what, names in (
        ("lacks weights", targets.keys() - entries.keys()),
        ("has weights the model does not know", entries.keys() - targets.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelFilesError(f"the checkpoint {what}: {shown}")


def _check(name: str, target: torch.Tensor, entry: TensorEntry, columns: tuple[int, int, int] | None) -> None:
    if entry.dtype not in _DTYPES:
        raise ModelFilesError(f"{name} has type {entry.dtype}; supported are {', '.join(_DTYPES)}")
    shape = tuple(target.shape) if columns is None else (target.shape[0], columns[2])
    if shape != entry.shape:
        raise ModelFilesError(f"{name} has shape {list(entry.shape)}; the model's is {list(shape)}")


def _mapped(entries: list[tuple[str, TensorEntry]]) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, uint8 [size_bytes]) of each, where it lies in its file."""
    mapped: dict[Path, mmap.mmap] = {}
    for name, entry in entries:
        if entry.file not in mapped:
            mapped = {entry.file: _map(entry.file)}
        if not entry.size_bytes:
            yield name, torch.empty(0, dtype=torch.uint8)
            continue
        yield name, torch.frombuffer(mapped[entry.file], dtype=torch.uint8, count=entry.size_bytes, offset=entry.offset)
        _let_go(entry, mapped[entry.file])


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as opened:
        # A private map: torch wants memory it may write to, and the file must not change.
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)


def _let_go(entry: TensorEntry, mapped: mmap.mmap) -> None:
    """Pages that have been read count as this process's memory until it says that it is done with them."""
    start = entry.offset // mmap.PAGESIZE * mmap.PAGESIZE
    if hasattr(mmap, "MADV_DONTNEED") and entry.size_bytes:
        mapped.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.size_bytes - start)
