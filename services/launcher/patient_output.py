"""The launcher's way out: a stream to write to that never waits for whoever reads it.

A terminal that is paused, a pager, a pipe that nobody empties: with writes that block, the supervisor would stand
still, then every service whose lines it no longer takes. So a thread writes; what it cannot keep up with is
left out, and said to be, so that at most MAX_WAITING_BYTES wait. Stands in for the stream of a Terminal.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import deque
from typing import TextIO

MAX_WAITING_BYTES = 1 << 20
_END_SECONDS = 2.0
"""That the last lines may take to get out when the process ends."""


class PatientOutput:
    """`write` takes text at any time, in order; `close` waits a little for what is still to be written."""

    def __init__(self, stream: TextIO, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._stream = stream
        self._max_waiting = max_waiting_bytes
        self._waiting: deque[bytes] = deque()
        self._num_waiting = 0
        """Bytes, those that are being written too."""
        self._num_left_out = 0
        """Lines."""
        self._changed = threading.Condition()
        self._is_open = True
        try:
            self._fd: int | None = stream.fileno()
        except (OSError, ValueError, AttributeError):
            self._fd = None
        self._thread = threading.Thread(target=self._write_all, name="quire-output", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "ascii"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, "replace")
        with self._changed:
            if self._num_waiting + len(data) > self._max_waiting:
                self._num_left_out += data.count(b"\n")
            else:
                if self._num_left_out:
                    self._put(f"quire: {self._num_left_out} lines are left out here: nobody read them\n".encode())
                    self._num_left_out = 0
                self._put(data)
            self._changed.notify_all()
        return len(text)

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._num_waiting += len(data)

    def flush(self) -> None:
        """It is on its way."""

    def close(self) -> None:
        """Wait until all is written, for some seconds at most. Then nothing more is taken."""
        end = time.monotonic() + _END_SECONDS
        with self._changed:
            while self._num_waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            self._is_open = False
            self._changed.notify_all()
        atexit.unregister(self.close)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if not self._is_open:
                        return
                    self._changed.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
            # Nobody may read it any more, for good: the server goes on.
            with contextlib.suppress(OSError, ValueError):
                self._write_out(data)
            with self._changed:
                self._num_waiting -= len(data)
                self._changed.notify_all()

    def _write_out(self, data: bytes) -> None:
        """By the descriptor where there is one: a lock of the stream's, held in a write that blocks, would

        hold up the end of the process.
        """
        if self._fd is None:
            self._stream.write(data.decode(self.encoding, "replace"))
            self._stream.flush()
            return
        unsent = memoryview(data)
        while unsent:
            unsent = unsent[os.write(self._fd, unsent) :]
