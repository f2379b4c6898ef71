"""What every service does first: read its flags, tie its life to its parent's, take its name, listen.

Used by each service's main; holds the service's identity and its latest report.
Knows nothing of what the service is for.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from .config import ServiceConfig, all_fields
from .flags import parse
from .forbidden import forbid
from .link import Keys, Server
from .log_lines import start_logging
from .messages import ModelCard, Report
from .parent_process import die_with_parent
from .run_directory import NameTakenError, Registration, RunDirectory, RunDirectoryError, default_path

ConfigT = TypeVar("ConfigT", bound=ServiceConfig)

logger = logging.getLogger("quire.service")


class Service(Generic[ConfigT]):
    """A running service: its config, its name in the run directory, its links' keys, its reports.

    Raises RunDirectoryError, NameTakenError or ValueError, each with a sentence for the operator.
    """

    def __init__(self, kind: str, config: ConfigT) -> None:
        self.kind = kind
        self.config = config
        self.directory = RunDirectory(config.run_dir or default_path())
        self.keys = Keys.load(config.key_file) if config.key_file else None
        self.registration: Registration = self.directory.register(config.name or f"{kind}-auto")
        self.name = self.registration.name
        self.incarnation = self.registration.incarnation
        self._sequence = 0
        self.last_report = self.report("starting", detail="starting")

    def listen(self, incoming: Any) -> Server[Any]:
        """Bind this service's own address and make it findable. `incoming`: the union of its messages."""
        address = self.config.listen or self.directory.socket_address(self.name)
        if address.startswith("tcp://") and self.keys is None:
            raise ValueError(f"--listen {address} needs --key-file: links over tcp are never open")
        server: Server[Any] = Server(address, incoming, None if address.startswith("ipc://") else self.keys)
        self.registration.announce(server.address)
        return server

    def report(
        self,
        state: str,
        detail: str = "",
        progress: float = 0.0,
        steps: int = 0,
        samples: dict[str, float] | None = None,
        memory_plan: list[tuple[str, int]] | None = None,
        card: ModelCard | None = None,
        known: list[Report] | None = None,
    ) -> Report:
        """The next report of this service; also kept as `last_report`, which new peers are sent."""
        self._sequence += 1
        self.last_report = Report(
            name=self.name,
            incarnation=self.incarnation,
            sequence=self._sequence,
            state=state,
            detail=detail,
            progress=progress,
            steps=steps,
            samples=samples or {},
            memory_plan=memory_plan or [],
            card=card,
            known=known or [],
            pid=os.getpid(),
        )
        return self.last_report

    def close(self) -> None:
        """Give the name back. Safe to call twice."""
        self.registration.close()
        self.directory.close()


def bootstrap(kind: str, config_type: type[ConfigT], argv: Sequence[str] | None = None) -> Service[ConfigT]:
    """Parse flags and become a service; exits with one line when that cannot be."""
    forbid()
    config = parse(config_type, argv, prog=f"quire run {kind}", all_fields=all_fields())
    if config.parent_pid is not None:
        die_with_parent(config.parent_pid)
    start_logging(config.log_level, config.name or kind, config.log_format)
    raise_file_limit()
    # A supervisor that finds this service stalled asks for all stacks before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        return Service(kind, config)
    except (RunDirectoryError, NameTakenError, ValueError) as error:
        sys.exit(f"quire: {error}")


def raise_file_limit() -> None:
    """Soft limit of open files up to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        logger.warning("the limit of open files could not be raised")
