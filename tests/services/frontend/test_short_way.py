"""Tests of the short way of a delta: past the mailbox only when that changes no order."""

from __future__ import annotations

import asyncio

from quire.services.frontend.mailbox import Delta, Mailbox


def run(scenario) -> list[str]:
    """What reaches the client, in order: `<` by the sink, `>` by the owner of the mailbox."""

    async def main() -> list[str]:
        out: list[str] = []
        is_clogged = [False]

        def sink(delta: Delta) -> bool:
            if is_clogged[0]:
                return False
            out.append("<" + delta.text)
            return True

        mailbox = Mailbox(1, 1, asyncio.get_running_loop())
        mailbox.sink = sink

        async def own() -> None:
            while True:
                for delta in await mailbox.take():
                    out.append(">" + delta.text)

        owner = asyncio.ensure_future(own())
        await asyncio.sleep(0)
        await scenario(mailbox, is_clogged)
        for _ in range(3):
            await asyncio.sleep(0)
        owner.cancel()
        return out

    return asyncio.run(main())


def test_a_delta_passes_by_while_the_owner_sleeps():
    async def scenario(mailbox: Mailbox, is_clogged: list[bool]) -> None:
        mailbox.deliver(Delta(0, "a"), at_once=True)
        mailbox.deliver(Delta(0, "b"), at_once=True)

    assert run(scenario) == ["<a", "<b"]


def test_nothing_overtakes_what_waits():
    async def scenario(mailbox: Mailbox, is_clogged: list[bool]) -> None:
        mailbox.deliver(Delta(0, "a"))
        mailbox.deliver(Delta(0, "b"), at_once=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        mailbox.deliver(Delta(0, "c"), at_once=True)

    assert run(scenario) == [">a", ">b", "<c"]


def test_a_socket_with_something_unsent_gets_its_deltas_through_the_mailbox():
    async def scenario(mailbox: Mailbox, is_clogged: list[bool]) -> None:
        mailbox.deliver(Delta(0, "a"), at_once=True)
        is_clogged[0] = True
        mailbox.deliver(Delta(0, "b"), at_once=True)
        is_clogged[0] = False
        mailbox.deliver(Delta(0, "c"), at_once=True)

    assert run(scenario) == ["<a", ">b", ">c"]
