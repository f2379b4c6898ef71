"""A JSON list of token ids as int32 bytes, decoded piece by piece.

One call for millions of ids would keep the interpreter, and with it every stream, for a tenth of a second.
Used by completion_protocol.py. Knows no vocabulary.
"""

from __future__ import annotations

import array
import sys

from quire.shared.errors import INVALID_TYPE, ApiError

from .bounds import MAX_ID, Items, Number, out_of_bounds
from .protocol import decode_part

MAX_PROMPT_IDS = 1 << 22
_PIECE_BYTES = 32 << 10


def packed_ids(raw: bytes, ids_type: object) -> bytes:
    """`raw`: the list, valid JSON; `ids_type`: what it must decode to. Raises ApiError."""
    ids = array.array("i")
    if len(raw) <= 2 * _PIECE_BYTES:
        ids.fromlist(decode_part(raw, ids_type, "prompt"))
    else:
        _extend(ids, raw.strip()[1:-1])
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


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
            message = f"prompt must hold token ids: whole numbers from 0 to {MAX_ID}."
            raise ApiError(INVALID_TYPE, message, "prompt") from None
        ids.fromlist(piece)
        if len(ids) > MAX_PROMPT_IDS:
            raise out_of_bounds("prompt", f"must have at most {MAX_PROMPT_IDS} token ids")
        start = end + 1
