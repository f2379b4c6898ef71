"""The run directories of this user's servers: a fresh one for each, and which of them are alive.

Two servers can run side by side because each has its own; `quire scale` finds them here.
Knows nothing of processes or messages.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from quire.shared.run_directory import RunDirectory, RunDirectoryError, default_path

_STALE_SECONDS = 60
"""A directory younger than this may belong to a server that is just starting."""


class ServerDirectory:
    """The run directory of one server. `remove` takes away what is left in it, and it itself if we made it.

    Raises RunDirectoryError with a sentence when `path` cannot be used or another server holds it.
    """

    def __init__(self, path: str | None) -> None:
        self._is_ours = path is None
        self.registry = RunDirectory(_make() if path is None else path)
        self.path = self.registry.path
        holder = self.registry.entry("launcher-0")
        if holder is not None:
            raise RunDirectoryError(f"run directory {self.path} is held by another server (pid {holder.pid})")

    def remove(self, names: Iterable[str]) -> None:
        """Remove what services of these names left when they were killed."""
        self.registry.close()
        remove_files(self.path, names)
        if self._is_ours:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def remove_files(path: Path, names: Iterable[str]) -> None:
    """Remove what services of these names left in a run directory; they must be dead."""
    for name in names:
        for file in (path / name, path / f"{name}.sock"):
            file.unlink(missing_ok=True)
    # Of groups that were killed while they met.
    for file in (*path.glob("worker-*.rendezvous"), *path.glob("worker-*.plans")):
        file.unlink(missing_ok=True)


def _base() -> Path:
    return default_path().parent


def _make() -> Path:
    """A fresh private directory; also sweeps those of servers that were killed."""
    base = _base()
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in _candidates():
            _sweep(path)
        return Path(tempfile.mkdtemp(prefix=default_path().name + "-", dir=base))
    except OSError as error:
        raise RunDirectoryError(f"no run directory can be made in {base}: {error.strerror}") from None


def _candidates() -> list[Path]:
    return [path for path in _base().glob(default_path().name + "-*") if path.is_dir()]


def _sweep(path: Path) -> None:
    """Remove a directory in which nobody lives any more."""
    with contextlib.suppress(OSError, RunDirectoryError):
        if time.time() - path.stat().st_mtime < _STALE_SECONDS:
            return
        registry = RunDirectory(path)
        try:
            if registry.entries():
                return
        finally:
            registry.close()
        remove_files(path, [name for name in os.listdir(path) if not name.endswith(".sock")])
        path.rmdir()


def live_servers() -> list[Path]:
    """Run directories of this user in which a launcher lives, newest first."""
    found: list[tuple[int, Path]] = []
    for path in [*_candidates(), *([default_path()] if default_path().is_dir() else [])]:
        with contextlib.suppress(OSError, RunDirectoryError):
            registry = RunDirectory(path)
            entry = registry.entry("launcher-0")
            registry.close()
            if entry is not None:
                found.append((entry.incarnation, path))
    return [path for _, path in sorted(found, reverse=True)]
