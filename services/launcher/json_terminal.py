"""The launcher's output with --log-format json: whatever is said becomes one JSON object a line.

In the place of Terminal. Lines of children that are JSON already go through as they are.
"""

from __future__ import annotations

from quire.shared.log_lines import json_line, read

from .terminal import Stream, Terminal


class JsonTerminal(Terminal):
    """No colours, no status line, no empty lines."""

    def __init__(self, stream: Stream | None = None) -> None:
        super().__init__(stream)
        self.is_tty = self._has_colour = False

    def line(self, text: str = "") -> None:
        is_ours = text.startswith("{") and read(text) is not None
        if text.strip():
            super().line(text if is_ours else json_line("info", "launcher", text.strip()))


def terminal_of(log_format: str, stream: Stream | None = None) -> Terminal:
    return JsonTerminal(stream) if log_format == "json" else Terminal(stream)
