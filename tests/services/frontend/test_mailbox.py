"""The mailbox of a request: what waits in it is counted in bytes."""

from __future__ import annotations

import asyncio

from quire.services.frontend.mailbox import Delta, Mailbox


def test_what_waits_is_counted_in_bytes_and_not_in_characters() -> None:
    async def count() -> None:
        box = Mailbox(1, 1, asyncio.get_running_loop())
        assert box.num_pending_bytes == 0
        for text in ("a", "é", "😀"):
            box.deliver(Delta(0, text, 1))
        assert box.num_pending_bytes == 1 + 2 + 4
        box.take_now()
        assert box.num_pending_bytes == 0

    asyncio.run(count())
