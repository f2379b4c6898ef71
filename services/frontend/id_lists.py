"""A JSON list of token ids as int32 bytes, counted and decoded piece by piece.

One call for millions of ids would keep the interpreter, and with it every stream, for a tenth of a second.
Used by completion_protocol.py. Knows no vocabulary.
"""

from __future__ import annotations

import array
import sys

from quire.shared.errors import INVALID_TYPE, ApiError, prompt_too_long

from .bounds import MAX_ID, Items, Number, out_of_bounds
from .protocol import decode_part

MAX_PROMPT_IDS = 1 << 22
_PIECE_BYTES = 32 << 10


def is_long(raw: bytes) -> bool:
    """Whether it is worth pieces."""
    return len(raw) > 2 * _PIECE_BYTES


def packed_ids(raw: bytes, ids_type: object, max_model_len: int | None = None) -> bytes:
    """`raw`: valid JSON; `ids_type`: what a short list must decode to; a long one that cannot fit is not decoded.

    Raises ApiError.
    """
    ids = array.array("i")
    if not is_long(raw):
        ids.fromlist(decode_part(raw, ids_type, "prompt"))
    else:
        raw = raw.strip()
        if raw[:1] != b"[":
            raise _no_ids()
        if max_model_len is not None:
            _check_length(raw, max_model_len)
        _extend(ids, raw[1:-1])
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def _check_length(raw: bytes, max_model_len: int) -> None:
    """A list has a comma less than values."""
    count = 1
    for start in range(0, len(raw), _PIECE_BYTES):
        count += raw.count(b",", start, start + _PIECE_BYTES)
        if count >= max_model_len:
            raise prompt_too_long(max_model_len, f"at least {count}", "prompt")


def _extend(ids: array.array[int], inside: bytes) -> None:
    check = Items(1, MAX_PROMPT_IDS, Number(0, MAX_ID)).check
    start = 0
    while start < len(inside):
        end = inside.find(b",", start + _PIECE_BYTES)
        end = len(inside) if end < 0 else end
        try:
            piece = decode_part(b"[%b]" % inside[start:end], list[int], "prompt")
            check("prompt", piece)
        except ApiError:  # where in the piece would say the wrong place
            raise _no_ids() from None
        ids.fromlist(piece)
        if len(ids) > MAX_PROMPT_IDS:
            raise out_of_bounds("prompt", f"must have at most {MAX_PROMPT_IDS} token ids")
        start = end + 1


def _no_ids() -> ApiError:
    return ApiError(INVALID_TYPE, f"prompt must hold token ids: whole numbers from 0 to {MAX_ID}.", "prompt")
