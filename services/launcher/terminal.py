"""The launcher's output: plain lines, and on a terminal one status line that is redrawn.

Knows nothing of what the lines say.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Protocol

_BAR_WIDTH = 24


class Stream(Protocol):
    """Of a text stream what a terminal needs."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Terminal:
    """Writes to `stream` (stderr if absent). Colours and the status line only on a terminal."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stderr
        self.is_tty = self._stream.isatty()
        self._has_colour = self.is_tty and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        encoding = (getattr(self._stream, "encoding", None) or "ascii").lower()
        self.is_unicode = encoding.startswith("utf")
        self._status = ""

    def line(self, text: str = "") -> None:
        """Print a whole line, above the status line if there is one."""
        self._erase()
        self._write(text + "\n")
        self._draw()

    def status(self, text: str) -> None:
        """Show `text` in the status line; '' takes it away. Nothing happens without a terminal."""
        if not self.is_tty or text == self._status:
            return
        self._erase()
        self._status = text
        self._draw()

    def bold(self, text: str) -> str:
        return self._coloured("1", text)

    def green(self, text: str) -> str:
        return self._coloured("32", text)

    def red(self, text: str) -> str:
        return self._coloured("31", text)

    def dim(self, text: str) -> str:
        return self._coloured("2", text)

    def bar(self, progress: float) -> str:
        """A progress bar; `progress` is 0 to 1."""
        filled = round(_BAR_WIDTH * min(1.0, max(0.0, progress)))
        full, empty = ("█", "░") if self.is_unicode else ("#", ".")
        return f"{full * filled}{empty * (_BAR_WIDTH - filled)} {progress:4.0%}"

    @property
    def tick(self) -> str:
        return self.green("✓" if self.is_unicode else "ok")

    def _coloured(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._has_colour else text

    def _erase(self) -> None:
        if self._status:
            self._write("\r\x1b[K")

    def _draw(self) -> None:
        if self._status:
            width = shutil.get_terminal_size().columns - 1
            self._write(self._status[:width])

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError, UnicodeEncodeError):
            pass  # nobody reads it any more; the server goes on


def size(num_bytes: int) -> str:
    """Bytes for people: 948 MiB, 1.5 GiB."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
