"""Tells the worker's loop when a step of its device is done: a thread waits for it, and a descriptor wakes the loop.

So that the loop can wait for plans and for results at once, without looking again and again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading

from .device_stream import DeviceEvent


class Completion:
    """`fileno` is readable from the end of an event that was watched until `clear`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events: queue.SimpleQueue[DeviceEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def watch(self, event: DeviceEvent) -> None:
        """Events are waited for in the order of these calls."""
        self._events.put(event)

    def fileno(self) -> int:
        return self._descriptor

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):  # nothing was done since
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Once all watched events are done."""
        self._events.put(None)
        self._thread.join()
        os.close(self._descriptor)

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            # A device that has failed tells whoever asks it next: the loop, once it is awake.
            with contextlib.suppress(RuntimeError):
                event.wait()
            os.eventfd_write(self._descriptor, 1)
