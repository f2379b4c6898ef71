"""Tensors of safetensors files on their way to a device: read in large pieces, copied while the next ones are read.

A ring of pinned staging buffers is filled by reader threads in the order of the files; a side stream copies
from them into device memory, so that disk, copies and what is made of a tensor overlap. Knows no model.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import torch
from msgspec import Struct

from quire.shared.model_errors import ModelFilesError
from quire.shared.weight_files import TensorEntry

from .device_stream import DeviceEvent, DeviceStream, current_stream, side_stream, staging_memory

Key = TypeVar("Key")

_NUM_BUFFERS = 4
"""Of the ring, as many as there are readers: one core alone copies out of the page cache slower than a GPU takes it."""
_BUFFER_BYTES = 32 << 20
_ALIGNMENT = 16
"""Of tensors in a staging buffer, in bytes: copies are of whole vectors then."""


class Part(Struct, frozen=True):
    """Some bytes of a tensor: entry `index`, from `begin` on, lying in a chunk from `place` on."""

    index: int
    begin: int
    place: int
    size: int


class Chunk(Struct):
    """What one buffer takes: consecutive bytes of one file, and what of them is wanted."""

    file: Path
    offset: int
    size: int
    parts: list[Part]


def chunks_of(entries: Iterable[TensorEntry], buffer_bytes: int = _BUFFER_BYTES) -> Iterator[Chunk]:
    """Entries, in the order of files and offsets, cut where a buffer is full; gaps that nobody wants are left out."""
    chunk: Chunk | None = None
    for index, entry in enumerate(entries):
        begin = 0
        while begin < entry.size_bytes:
            offset = entry.offset + begin
            if chunk is None or not _continues(chunk, entry.file, offset, buffer_bytes):
                if chunk is not None:
                    yield chunk
                chunk = Chunk(entry.file, offset, 0, [])
            place = offset - chunk.offset
            size = min(entry.size_bytes - begin, buffer_bytes - place)
            chunk.parts.append(Part(index, begin, place, size))
            chunk.size = place + size
            begin += size
    if chunk is not None:
        yield chunk


def _continues(chunk: Chunk, file: Path, offset: int, buffer_bytes: int) -> bool:
    """Whether a chunk has room for what lies at `offset`, right behind it but for padding."""
    gap = offset - (chunk.offset + chunk.size)
    return chunk.file == file and 0 <= gap < _ALIGNMENT and offset - chunk.offset < buffer_bytes


class WeightStream(Generic[Key]):
    """The tensors of `entries`, in the order of files and offsets, one after the other by `tensors`."""

    def __init__(
        self,
        entries: list[tuple[Key, TensorEntry]],
        device: torch.device,
        num_buffers: int = _NUM_BUFFERS,
        buffer_bytes: int = _BUFFER_BYTES,
        side: DeviceStream | None = None,
        current: DeviceStream | None = None,
    ) -> None:
        self._entries = entries
        self._device = device
        # No more pinned memory than there is to copy: taking it costs time.
        num_buffers = max(1, min(num_buffers, -(-sum(entry.size_bytes for _, entry in entries) // buffer_bytes)))
        self._buffers = [staging_memory(buffer_bytes, device) for _ in range(num_buffers)]
        self._copied: list[DeviceEvent | None] = [None] * num_buffers
        """The end of the last copies out of each buffer."""
        self._chunks = enumerate(chunks_of([entry for _, entry in entries], buffer_bytes))
        self._side = side or side_stream(device)
        self._current = current or current_stream(device)
        self._files: dict[Path, int] = {}
        self._arrived: dict[int, tuple[torch.Tensor, int]] = {}
        """Entries that are partly there: the tensor, and how many bytes of it."""

    def tensors(self) -> Generator[tuple[Key, torch.Tensor], None, None]:
        """(key, uint8 [size_bytes] on the device), for work of the stream that was current when this was made.

        Raises ModelFilesError for a file that has become shorter, OSError for one that cannot be read.
        """
        for key, entry in self._entries:
            if not entry.size_bytes:
                yield key, torch.empty(0, dtype=torch.uint8, device=self._device)
        under_way: deque[tuple[int, Chunk, Future[None]]] = deque()
        readers = ThreadPoolExecutor(len(self._buffers), "weights")
        try:
            for number, chunk in self._chunks:
                if len(under_way) == len(self._buffers):
                    yield from self._take(*under_way.popleft())
                place = number % len(self._buffers)
                given = (self._descriptor(chunk.file), chunk, self._buffers[place], self._copied[place])
                under_way.append((place, chunk, readers.submit(_read, *given)))
            while under_way:
                yield from self._take(*under_way.popleft())
        finally:
            readers.shutdown(cancel_futures=True)
            for descriptor in self._files.values():
                os.close(descriptor)
            # Staging memory is given back only when no copy reads it any more.
            self._side.record().wait()

    def _take(self, place: int, chunk: Chunk, reading: Future[None]) -> Iterator[tuple[Key, torch.Tensor]]:
        """Copy out of a buffer once it is filled; the tensors that are whole by that."""
        reading.result()
        whole: list[tuple[int, torch.Tensor]] = []
        for part in chunk.parts:
            tensor, size = self._arrived.pop(part.index, (None, 0))
            if tensor is None:
                with self._side.issue():
                    tensor = torch.empty(
                        self._entries[part.index][1].size_bytes, dtype=torch.uint8, device=self._device
                    )
            source = self._buffers[place][part.place : part.place + part.size]
            self._side.copy(tensor[part.begin : part.begin + part.size], source)
            if size + part.size == tensor.numel():
                whole.append((part.index, tensor))
            else:
                self._arrived[part.index] = (tensor, size + part.size)
        copied = self._copied[place] = self._side.record()
        if whole:
            self._current.follow(copied)
        for index, tensor in whole:
            self._current.uses(tensor)
            yield self._entries[index][0], tensor

    def _descriptor(self, file: Path) -> int:
        if file not in self._files:
            descriptor = self._files[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._files[file]


def _read(descriptor: int, chunk: Chunk, buffer: torch.Tensor, copied: DeviceEvent | None) -> None:
    """Fill a buffer as soon as what was in it has been copied."""
    if copied is not None:
        copied.wait()
    room = memoryview(buffer.numpy())[: chunk.size]  # pyright: ignore[reportArgumentType]
    done = 0
    while done < chunk.size:
        count = os.preadv(descriptor, [room[done:]], chunk.offset + done)
        if not count:
            raise ModelFilesError(f"{chunk.file} ends at {chunk.offset + done} bytes: it was changed while it was read")
        done += count
