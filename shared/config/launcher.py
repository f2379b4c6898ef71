"""The settings of the launcher: how many of each service, and what a loss means."""

from __future__ import annotations

from typing import Annotated

from ..flags import Flag
from .service import ServiceConfig


class LauncherConfig(ServiceConfig, frozen=True, kw_only=True):
    """The launcher: starts the services in order, watches them, stops them in order."""

    frontends: Annotated[int, Flag("HTTP frontend processes", "serving", ge=1, le=64)] = 1
    tokenizers: Annotated[int, Flag("tokenizer processes", "serving", ge=1, le=64, is_often_used=True)] = 1
    restart: Annotated[
        bool, Flag("start services again that crash once the server is ready; off: the server stops", "faults")
    ] = True
    stall_limit: Annotated[
        float,
        Flag("seconds without a sign of life after which a service is killed and started again; 0: never", "faults"),
    ] = 10.0
    shutdown_timeout: Annotated[
        float, Flag("seconds that running requests may take to finish after SIGTERM", "serving", ge=0.0)
    ] = 30.0
