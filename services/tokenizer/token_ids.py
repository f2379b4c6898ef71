"""Token ids as messages carry them: little-endian int32 bytes, to lists and back.

Used wherever this service reads or writes ids. Knows nothing of what the ids mean.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

_IS_BIG_ENDIAN = sys.byteorder == "big"


def pack_ids(token_ids: Iterable[int]) -> bytes:
    """Raises OverflowError for what is no int32."""
    packed = array("i", token_ids)
    if _IS_BIG_ENDIAN:
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Raises ValueError when the length is no multiple of 4."""
    return _unpack("i", data).tolist()


def unpack_floats(data: bytes) -> list[float]:
    """float32, as logprobs travel."""
    return _unpack("f", data).tolist()


def _unpack(kind: str, data: bytes) -> array:
    unpacked = array(kind)
    unpacked.frombytes(data)
    if _IS_BIG_ENDIAN:
        unpacked.byteswap()
    return unpacked
