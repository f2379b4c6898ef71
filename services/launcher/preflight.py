"""What can be known to be wrong before anything is started: each a LaunchError with one line.

The HTTP port is taken here and held, so that nobody else gets it while the frontends start, and
so that several frontends can share it.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from quire.shared.config import WorkerConfig
from quire.shared.flags import build

from .gpus import visible_gpus

MIN_PYTHON = (3, 10)


class LaunchError(RuntimeError):
    """A sentence for the operator."""


def reserve_port(host: str, port: int) -> tuple[socket.socket, int]:
    """Hold a TCP port that frontends then share by SO_REUSEPORT; 0 takes a free one.

    The socket never listens, so it gets no connections; keep it open as long as the server runs.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise LaunchError(f"--host {host}: {error.strerror}") from None
    try:
        if port:
            _probe(family, address)
        holder = _bind(family, address, shared=True)
    except PermissionError:
        raise LaunchError(f"port {port} on {host} needs privileges; choose another --port") from None
    except OSError as error:
        if error.errno == 98:
            raise LaunchError(f"port {port} on {host} is in use; choose another --port (0 takes a free one)") from None
        raise LaunchError(f"port {port} on {host} cannot be bound: {error.strerror}") from None
    return holder, holder.getsockname()[1]


def _probe(family: int, address: tuple[object, ...]) -> None:
    """Fail if anybody listens, also one who would share the port with us: another server of this user."""
    _bind(family, address, shared=False).close()


def _bind(family: int, address: tuple[object, ...], shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without SO_REUSEADDR the probe would take a connection of a server just ended for a listener.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        bound.bind(address)  # type: ignore[arg-type]
    except OSError:
        bound.close()
        raise
    return bound


def check_model(model: str | None, load_format: str = "auto") -> None:
    """Refuse a folder that is none, or holds no model that Quire can serve. A hub id is left to the services."""
    if model is None:
        return
    from quire.shared import model_files

    try:
        model_files.check(model, has_weights=load_format != "dummy")
    except model_files.ModelFilesError as error:
        raise LaunchError(str(error)) from None


def check_tensor_parallel(values: dict[str, Any]) -> None:
    """Refuse more ranks than the model or this machine has room for. A hub id is left to the workers."""
    config = build(WorkerConfig, values)
    model, size, device = config.model, config.tensor_parallel_size, config.device
    if size == 1:
        return
    from quire.shared import model_files
    from quire.shared.sharding import part_of

    num_gpus = len(visible_gpus())
    if device != "cpu" and 0 < num_gpus < size:
        raise LaunchError(
            f"--tensor-parallel-size {size} needs a GPU for each rank, and there are {num_gpus}; lower it, or take"
            " --device cpu"
        )
    try:
        if model is None or Path(model).expanduser().exists() or not model_files.is_hub_id(model):
            part_of(model_files.read_model_config(model_files.find_model(model)), size)
    except model_files.ModelFilesError as error:
        raise LaunchError(str(error)) from None


def check_host() -> None:
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise LaunchError("Quire runs on Linux 5.3 or later")
