"""The settings of every service, each a field with its flag, frozen once parsed.

What is found out at start (limits, block counts) is not here: it travels in messages.
One file a kind of service; fields that several share are in service.py. See flags.py for what a Flag says.
"""

from __future__ import annotations

from ..flags import Field, fields
from .engine import EngineConfig
from .frontend import FrontendConfig
from .launcher import LauncherConfig
from .service import ServiceConfig
from .tokenizer import TokenizerConfig
from .worker import WorkerConfig

__all__ = [
    "CONFIG_TYPES",
    "EngineConfig",
    "FrontendConfig",
    "LauncherConfig",
    "ServiceConfig",
    "TokenizerConfig",
    "WorkerConfig",
    "all_fields",
]

CONFIG_TYPES: tuple[type[ServiceConfig], ...] = (
    LauncherConfig,
    FrontendConfig,
    TokenizerConfig,
    EngineConfig,
    WorkerConfig,
)


def all_fields() -> dict[str, Field]:
    """Every setting there is, by name."""
    return {name: field for config_type in CONFIG_TYPES for name, field in fields(config_type).items()}
