"""The turnstile: how many do their work before the event loop looks for input again."""

from __future__ import annotations

import asyncio
import socket

import pytest

from quire.services.frontend.turnstile import Turnstile


async def groups(numbers: range, cancelled: tuple[int, ...] = ()) -> list[list[int]]:
    """Who came through, in groups between which the loop has looked for input: a socket that is always readable."""
    loop = asyncio.get_running_loop()
    turnstile = Turnstile(loop, at_once=3)
    found: list[list[int]] = [[]]
    near, far = socket.socketpair()
    far.send(b"x")

    async def come(number: int) -> None:
        await turnstile.enter()
        found[-1].append(number)

    tasks = [loop.create_task(come(number)) for number in numbers]
    await asyncio.sleep(0)
    loop.add_reader(near, lambda: found.append([]))
    for number in cancelled:
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    loop.remove_reader(near)
    near.close()
    far.close()
    return [group for group in found if group]


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_three_a_turn_come_through_in_order(count: int) -> None:
    found = asyncio.run(groups(range(count)))
    assert [number for group in found for number in group] == list(range(count))
    assert max(len(group) for group in found) <= 3


def test_those_who_are_gone_take_no_room() -> None:
    found = asyncio.run(groups(range(10), cancelled=(3, 4, 5, 9)))
    assert [number for group in found for number in group] == [0, 1, 2, 6, 7, 8]


def test_it_opens_again_and_again() -> None:
    async def come_often() -> int:
        turnstile = Turnstile(asyncio.get_running_loop(), at_once=2)
        for _ in range(50):
            await turnstile.enter()
        return 50

    assert asyncio.run(asyncio.wait_for(come_often(), 20)) == 50
