"""The frontend process: flags, the port, then everything else.

The port is bound before anything heavy is imported, so that probes are answered early.
Knows nothing of HTTP.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence

from quire.shared.config import FrontendConfig
from quire.shared.service import bootstrap

_BACKLOG = 2048
_SEND_BUFFER_BYTES = 256 << 10
"""What the kernel may hold for a reader that takes nothing; left alone it would grow to megabytes."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a frontend until it is told to stop; exits with one line when it cannot start."""
    service = bootstrap("frontend", FrontendConfig, argv)
    try:
        sock = bind(service.config.host, service.config.port, listens=not service.config.is_joining)
    except OSError as error:
        service.close()
        sys.exit(f"quire: {_reason(error, service.config.host, service.config.port)}")
    from .authentication import Keys
    from .server import run

    try:
        run(service, sock, Keys.of(service.config))
    except ValueError as error:
        sys.exit(f"quire: {error}")
    finally:
        service.close()


def bind(host: str, port: int, listens: bool = True) -> socket.socket:
    """A socket that sibling frontends can share; one that does not listen yet gets no connections. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        sock.bind(address)
        if listens:
            sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another with --port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} needs more rights; choose another with --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"
