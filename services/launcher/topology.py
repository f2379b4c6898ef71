"""Which processes a deployment has, and the command line of each.

The way of a request, top-down: frontends, tokenizers, the engine, its workers. Every service gets
exactly its own settings, by flags; secrets by environment. Starts nothing itself.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from quire.shared.config import EngineConfig, FrontendConfig, ServiceConfig, TokenizerConfig, WorkerConfig
from quire.shared.flags import build, fields, secrets, to_argv

from .gpus import gpu_of_rank

CONFIGS: dict[str, type[ServiceConfig]] = {
    "frontend": FrontendConfig,
    "tokenizer": TokenizerConfig,
    "engine": EngineConfig,
    "worker": WorkerConfig,
}
KINDS = tuple(CONFIGS)
"""Top-down: the order of stopping."""


class ServiceSpec(msgspec.Struct, frozen=True):
    """One process to be: what to execute, under which name."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}
    """Added to the launcher's own, from which every QUIRE_ setting was taken out."""
    group: str = ""
    """Of services that are of no use without each other: they are lost and started as one."""

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class Topology:
    """Makes specs from the settings given to the launcher (`values`, by field name) and a run directory."""

    def __init__(self, values: dict[str, Any], run_dir: str, parent_pid: int | None = None) -> None:
        self._values = dict(values)
        self._run_dir = run_dir
        self._parent_pid = os.getpid() if parent_pid is None else parent_pid

    def spec(self, name: str) -> ServiceSpec:
        """The process of that name: frontend-I, tokenizer-I, engine-I or worker-ENGINE-RANK."""
        kind = name.partition("-")[0]
        own = {"run_dir": self._run_dir, "name": name, "parent_pid": self._parent_pid}
        config = build(CONFIGS[kind], {**self._values, **own})
        command = (sys.executable, "-m", f"quire.services.{kind}", *to_argv(config))
        if isinstance(config, WorkerConfig) and config.tensor_parallel_size > 1:
            group, _, rank = name.rpartition("-")
            return ServiceSpec(name, command, {**secrets(config), **gpu_of_rank(int(rank))}, group)
        return ServiceSpec(name, command, secrets(config))

    def replica(self, index: int = 0) -> list[ServiceSpec]:
        """An engine and its workers, workers first: they take longest to start. Workers elsewhere are not started."""
        engine = build(EngineConfig, self._values)
        names = [] if engine.workers else [f"worker-{index}-{rank}" for rank in range(engine.tensor_parallel_size)]
        return [self.spec(name) for name in [*names, f"engine-{index}"]]

    def several(self, kind: str, count: int) -> list[ServiceSpec]:
        return [self.spec(f"{kind}-{index}") for index in range(count)]


def child_environment(spec: ServiceSpec) -> dict[str, str]:
    """The launcher's environment without the settings that it has already read."""
    settings = {field.variable for config in CONFIGS.values() for field in fields(config).values()}
    kept = {name: value for name, value in os.environ.items() if name not in settings}
    return {**kept, **spec.environment}
