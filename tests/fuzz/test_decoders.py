"""Every decoder, briefly: only its declared errors come out. scripts/fuzz does the same for long."""

from __future__ import annotations

import msgspec
import pytest
from fuzz.decoders import DECODING_ERRORS, TARGETS, UNIONS, fuzz
from fuzz.mutation import value_of

CASES = 800
"""Of each target."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_declared_errors_come_out_of(name: str) -> None:
    assert fuzz(name, CASES) > 0


@pytest.mark.parametrize("name", UNIONS)
def test_every_extension_code_is_a_decode_error(name: str) -> None:
    import random

    decoder = msgspec.msgpack.Decoder(UNIONS[name])
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(value_of(UNIONS[name], random.Random(1))))
    for code in range(-128, 128):
        extension = msgspec.msgpack.Ext(code, b"\0" * 8)
        for place in range(1, len(message)):
            with pytest.raises(DECODING_ERRORS):
                decoder.decode(msgspec.msgpack.encode([*message[:place], extension, *message[place + 1 :]]))
        with pytest.raises(DECODING_ERRORS):
            decoder.decode(msgspec.msgpack.encode(extension))
