"""Where each tensor of a checkpoint lies: the headers of its safetensors files, checked.

Read by the worker to map weights from disk, and by the launcher to refuse a broken folder early.
Offsets are checked against shapes and file sizes, so that mapping them is safe.
Knows no tensor library; other weight formats are refused.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import msgspec

from .model_errors import ModelFilesError

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}")
_HEADER_LIMIT = 100 << 20
"""Bytes, as in the reference implementation."""
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8,
}  # fmt: skip


class TensorEntry(msgspec.Struct, frozen=True):
    """One tensor of a safetensors file."""

    file: Path
    dtype: str
    """As safetensors spells it: F32, BF16, F16 ..."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the beginning of the file."""
    size_bytes: int


class _RawEntry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


def read_weight_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor by its name, of a single file or of all shards. Raises ModelFilesError."""
    entries: dict[str, TensorEntry] = {}
    for file in _weight_files(folder):
        for name, entry in _read_header(file).items():
            if name in entries:
                raise ModelFilesError(f"{name} is in both {entries[name].file.name} and {file.name}")
            entries[name] = entry
    return entries


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _shards(folder, index)
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise ModelFilesError(f"{folder} has only pickled weights; Quire reads safetensors alone")
    raise ModelFilesError(f"{folder} has no weights (*.safetensors)")


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ModelFilesError(f"{index} cannot be read: {error}") from None
    if not all(_FILE_NAME.fullmatch(name) for name in names):
        raise ModelFilesError(f"{index} names files outside its folder, or that no folder can hold")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelFilesError(f"{folder} lacks {len(missing)} of its {len(names)} weight files: {shown}")
    return [folder / name for name in names]


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """Header: its length (uint64), then JSON of that length; tensors follow, offsets counted from its end."""
    try:
        with file.open("rb") as opened:
            file_size = opened.seek(0, 2)
            opened.seek(0)
            (length,) = struct.unpack("<Q", opened.read(8).ljust(8, b"\xff"))
            if length > min(_HEADER_LIMIT, file_size - 8):
                raise ModelFilesError(f"{file} is not a safetensors file, or is cut off")
            header = msgspec.json.decode(opened.read(length), type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        raw = {name: msgspec.json.decode(entry, type=_RawEntry) for name, entry in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ModelFilesError(f"{file} cannot be read: {error}") from None
    return {name: _checked(file, name, entry, 8 + length, file_size) for name, entry in raw.items()}


def _checked(file: Path, name: str, raw: _RawEntry, data_start: int, file_size: int) -> TensorEntry:
    begin, end = raw.data_offsets
    item_bytes = ITEM_BYTES.get(raw.dtype)
    if item_bytes is None:
        raise ModelFilesError(f"{file}: {name} has the unknown type {raw.dtype}")
    if any(size < 0 for size in raw.shape) or not 0 <= begin <= end or end - begin != math.prod(raw.shape) * item_bytes:
        raise ModelFilesError(f"{file}: the offsets of {name} do not fit its shape")
    if data_start + end > file_size:
        raise ModelFilesError(f"{file} has {file_size} bytes but {name} ends at {data_start + end}: it is cut off")
    return TensorEntry(file, raw.dtype, raw.shape, data_start + begin, end - begin)
