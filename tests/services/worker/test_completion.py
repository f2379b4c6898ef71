"""A descriptor that is readable once what is watched is done, and not before."""

from __future__ import annotations

import select
import threading

from quire.services.worker.completion import Completion


class Event:
    def __init__(self) -> None:
        self.reached = threading.Event()

    def wait(self) -> None:
        self.reached.wait()

    def is_done(self) -> bool:
        return self.reached.is_set()


def is_readable(completion: Completion, seconds: float) -> bool:
    return bool(select.select([completion.fileno()], [], [], seconds)[0])


def test_it_wakes_for_each_event_in_order():
    completion, events = Completion(), [Event(), Event()]
    for event in events:
        completion.watch(event)
    assert not is_readable(completion, 0)
    events[0].reached.set()
    assert is_readable(completion, 30)
    completion.clear()
    completion.clear()  # nothing since: no error
    assert not is_readable(completion, 0)
    events[1].reached.set()
    assert is_readable(completion, 30)
    completion.close()


def test_an_event_that_fails_wakes_too_and_the_next_is_still_waited_for():
    class Failing(Event):
        def wait(self) -> None:
            raise RuntimeError("the device is gone")

    completion, last = Completion(), Event()
    completion.watch(Failing())
    assert is_readable(completion, 30)
    completion.clear()
    completion.watch(last)
    last.reached.set()
    assert is_readable(completion, 30)
    completion.close()
