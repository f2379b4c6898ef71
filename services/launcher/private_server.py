"""A server of one command's own: started for it on a free port with a fresh key, and ended with it.

`quire serve` as a child; what it prints is shown only if it does not get ready.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from .preflight import LaunchError

_READY = re.compile(r"ready at (http://\S+)")
_STOP_SECONDS = 30.0


class PrivateServer:
    """Between `with` and its end there is a server at `url` that wants `api_key`. Raises LaunchError.

    `on_line` is told what the server prints until it is ready.
    """

    def __init__(self, flags: Sequence[str], on_line: Callable[[str], None] = lambda line: None) -> None:
        self._on_line = on_line
        self.api_key = secrets.token_urlsafe(24)
        self.url = ""
        own = ("--host", "127.0.0.1", "--port", "0", "--no-ui", "--parent-pid", str(os.getpid()))
        self._command = [sys.executable, "-m", "quire", "serve", *flags, *own]
        self._lines: list[str] = []
        self._drainer: threading.Thread | None = None

    def __enter__(self) -> PrivateServer:
        environment = {**os.environ, "QUIRE_API_KEY": self.api_key}
        # Not in our process group: Ctrl-C is ours to act upon.
        self._process = subprocess.Popen(
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if self._process.stdout is None:
            raise RuntimeError("a pipe was asked for")
        self._output: IO[str] = self._process.stdout
        try:
            self._await()
        except BaseException:
            self._end()
            raise
        self._drainer = threading.Thread(target=self._drain, name="server-output", daemon=True)
        self._drainer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def cause(self) -> str:
        """Why the server has ended; '' while it runs."""
        return "" if self._process.poll() is None else self._last_words()

    def _await(self) -> None:
        for line in self._output:
            self._lines.append(line.rstrip())
            self._on_line(line.strip())
            found = _READY.search(line)
            if found:
                self.url = found.group(1)
                return
        self._process.wait()
        raise LaunchError(self._last_words())

    def _drain(self) -> None:
        for line in self._output:
            self._lines = [*self._lines[-20:], line.rstrip()]

    def _last_words(self) -> str:
        said = [line for line in self._lines if line.strip()]
        return said[-1].removeprefix("quire: ") if said else f"the server ended with code {self._process.returncode}"

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._drainer is not None:
            self._drainer.join()
        self._output.close()
