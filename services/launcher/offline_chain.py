"""The processes behind the offline API: a tokenizer, an engine and its worker, and our session above them.

Started and ended as one. What they are asked is not its business.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any

from quire.shared.config import LauncherConfig
from quire.shared.messages import Report
from quire.shared.run_directory import RunDirectoryError

from .child import Child, Ending
from .offline_session import CLOSED, OfflineSession
from .offline_settings import check
from .preflight import LaunchError, check_host, check_model, check_tensor_parallel
from .server_directories import ServerDirectory
from .supervisor import Supervisor
from .topology import Topology

_CLOSE_SECONDS = 20.0


class LLMError(RuntimeError):
    """The model cannot be loaded, its processes were lost, or a request failed; with the cause."""


class OfflineChain:
    """Loaded when the constructor returns. Raises LLMError; TypeError or ValueError for a setting that cannot be."""

    def __init__(self, model: str | os.PathLike[str] | None, tokenizers: int, settings: dict[str, Any]) -> None:
        if tokenizers < 1:
            raise ValueError(f"tokenizers is {tokenizers}; it must be at least 1")
        # A batch is known when it comes, and most have no use for the helper process.
        values = {
            "log_level": "warning",
            "helper_ahead": 0.0,
            **check(settings),
            "model": None if model is None else os.fspath(model),
        }
        self._pid = os.getpid()
        try:
            check_host()
            check_model(values["model"], values.get("load_format", "auto"))
            check_tensor_parallel(values)
            self._directory = ServerDirectory(None)
        except (LaunchError, RunDirectoryError) as error:
            raise LLMError(str(error)) from None
        self._observer = _Quiet()
        config = LauncherConfig(run_dir=str(self._directory.path), name="launcher-0", shutdown_timeout=0.0)
        topology = Topology(values, str(self._directory.path))
        self._supervisor = Supervisor(config, topology.spec, self._observer)
        specs = [*topology.replica(), *topology.several("tokenizer", tokenizers)]
        # The kernel ends the children with the thread that started them: it has to be one that stays.
        self._watcher = threading.Thread(target=self._watch, args=(specs,), name="quire-supervisor", daemon=True)
        self._watcher.start()
        self._session: OfflineSession | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def _await(self) -> None:
        while not self._observer.is_ready.wait(0.05):
            self._check()
        self._session = OfflineSession(self.run_dir, self.failure)
        while not self._session.is_ready.wait(0.05):
            self._check()

    @property
    def session(self) -> OfflineSession:
        """Raises LLMError when the processes are gone, or `close` was called."""
        self._check()
        if self._session is None:
            raise LLMError(CLOSED)
        return self._session

    @property
    def run_dir(self) -> str:
        return str(self._directory.path)

    @property
    def pids(self) -> dict[str, int]:
        """Of the services that run, by their names."""
        return {name: child.pid for name, child in self._supervisor.children.items()}

    def failure(self) -> str:
        """Why there is no model any more; '' as long as there is one."""
        return (self._supervisor.cause or "the processes have ended") if self._observer.has_ended.is_set() else ""

    def close(self) -> None:
        """End the processes. Safe to call twice; what is under way ends with an error."""
        if os.getpid() != self._pid:
            return  # a fork of the process they belong to
        atexit.unregister(self.close)
        with self._lock:
            self._supervisor.ask_to_stop()
            self._watcher.join(_CLOSE_SECONDS)
            names = set(self._supervisor.names_used)
            if self._session is not None:
                self._session.close()
                names.add(self._session.name)
                self._session = None
            self._directory.remove(names)

    def _watch(self, specs: list[Any]) -> None:
        try:
            self._supervisor.run(specs)
        finally:
            self._observer.has_ended.set()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise LLMError("this LLM belongs to the process that made it; make another one in this one")
        if self._session is None and self._observer.is_ready.is_set() and self._observer.has_ended.is_set():
            raise LLMError(CLOSED)
        failure = self.failure()
        if failure:
            raise LLMError(failure)


class _Quiet:
    """An observer that passes on what the services print (warnings and errors), and says nothing itself."""

    def __init__(self) -> None:
        self.is_ready = threading.Event()
        self.has_ended = threading.Event()

    def started(self, child: Child) -> None: ...

    def reported(self, child: Child, report: Report) -> None: ...

    def printed(self, child: Child, line: str) -> None:
        print(line, file=sys.stderr)

    def ended(self, child: Child, ending: Ending, is_expected: bool) -> None: ...

    def restarting(self, cause: str, delay_seconds: float) -> None: ...
    def gave_up(self, cause: str) -> None: ...

    def ready(self, seconds: float) -> None:
        self.is_ready.set()

    def stopping(self) -> None: ...
