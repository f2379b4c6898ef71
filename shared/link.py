"""Links: the one way a message travels between two processes.

A service binds one Server (ROUTER) at its own address and dials each service below with a Client
(DEALER) under its own name. The engine and the workers block in `wait`; the frontend and the
tokenizer attach a Reader to their event loop, which drains a socket by its file descriptor
(about 1 microsecond a message, where an asyncio socket costs 12).
The only file that imports zmq. Knows no message but by its decoder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

logger = logging.getLogger("quire.link")

In = TypeVar("In")

_encoder = msgspec.msgpack.Encoder()
_context_lock = threading.Lock()
_context: zmq.Context[zmq.Socket[bytes]] | None = None
_authenticator: ThreadAuthenticator | None = None
_LINGER_MS = 500
"""How long a closing process may still deliver its last messages."""
_DRAIN_LIMIT = 512
"""Messages a Reader takes before it lets the event loop turn."""


class Keys(msgspec.Struct, frozen=True):
    """One CURVE key pair for a whole deployment; only its holders can dial or be dialled (Z85 text)."""

    public: str
    secret: str

    @classmethod
    def generate(cls) -> Keys:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Keys:
        """Raises ValueError with a sentence when the file is not a key file closed to others."""
        file = Path(path)
        try:
            if file.stat().st_mode & 0o077:
                raise ValueError(f"key file {file} must be closed to others (mode 0600)")
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except OSError as error:
            raise ValueError(f"key file {file} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"key file {file} is not one that quire keys made") from None


def _the_context() -> zmq.Context[zmq.Socket[bytes]]:
    global _context
    with _context_lock:
        if _context is None:
            _context = zmq.Context()
        return _context


def _secure(socket: zmq.Socket[bytes], keys: Keys, is_server: bool) -> None:
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    if not is_server:
        socket.curve_serverkey = keys.public.encode()
        return
    socket.curve_server = True
    _admit_only(keys)


def _admit_only(keys: Keys) -> None:
    """Have libzmq ask us for every CURVE client; without an authenticator it would admit any key."""
    global _authenticator
    context = _the_context()
    with _context_lock:
        if _authenticator is not None:
            return

        class OnlyOurs:
            def callback(self, domain: str, key: bytes) -> bool:
                return hmac.compare_digest(key, keys.public.encode())

        _authenticator = ThreadAuthenticator(context)
        _authenticator.start()
        _authenticator.configure_curve_callback("*", OnlyOurs())


class _Link(Generic[In]):
    """What both ends share: a socket without high-water marks, a typed decoder, a reader to nudge."""

    def __init__(self, kind: int, incoming: Any, keys: Keys | None, is_server: bool) -> None:
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(incoming)
        self._socket = _the_context().socket(kind)
        self._socket.sndhwm = 0  # requests are counted at the door; nothing is dropped behind it
        self._socket.rcvhwm = 0
        self._socket.linger = _LINGER_MS
        if keys is not None:
            _secure(self._socket, keys, is_server)
        self._nudge: Callable[[], None] | None = None

    def fileno(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))  # type: ignore[arg-type]

    def _decode(self, frame: bytes) -> In | None:
        try:
            return self._decoder.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.error("a message of %d bytes could not be decoded and was dropped: %s", len(frame), error)
            return None

    def _has_input(self) -> bool:
        return bool(self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)  # type: ignore[operator]

    def close(self) -> None:
        """What was sent is still delivered, for half a second at most."""
        if not self._socket.closed:
            self._socket.close()

    def discard(self) -> None:
        """Close towards a peer that is gone: what was not delivered is not meant for its successor.

        A link that lingers would connect to it, under our name, and take that from the link that is really ours.
        """
        if not self._socket.closed:
            self._socket.close(linger=0)


class Server(_Link[In]):
    """Binds at `address` and talks to many clients by their names."""

    def __init__(self, address: str, incoming: Any, keys: Keys | None = None) -> None:
        super().__init__(zmq.ROUTER, incoming, keys, is_server=True)
        self._socket.router_mandatory = True
        self._socket.router_handover = True
        self._socket.bind(address)
        self.address = self._socket.last_endpoint.decode()  # type: ignore[union-attr]

    def send(self, peer: str, message: msgspec.Struct) -> bool:
        """Never blocks. False when the peer is not (or no longer) connected."""
        try:
            payload = _encoder.encode(message)
            self._socket.send(peer.encode(), zmq.NOBLOCK | zmq.SNDMORE)
            self._socket.send(payload, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        if self._nudge is not None:
            self._nudge()
        return True

    def receive(self) -> tuple[str, In] | None:
        """The next message and who sent it; None when there is none. Never blocks."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            if frames[0][:1] == b"\0":
                continue  # of a link whose name a newer one has taken over, or that never had one
            if len(frames) != 2:
                logger.error("a message of %d frames was dropped", len(frames))
                continue
            message = self._decode(frames[1])
            if message is not None:
                return frames[0].decode("utf-8", "replace"), message


class Client(_Link[In]):
    """Dials `address` under `name`; connects again by itself when the server comes back."""

    def __init__(self, address: str, name: str, incoming: Any, keys: Keys | None = None) -> None:
        super().__init__(zmq.DEALER, incoming, keys, is_server=False)
        self._socket.setsockopt_string(zmq.IDENTITY, name)
        self._socket.reconnect_ivl = 50
        self._socket.reconnect_ivl_max = 1000
        self._socket.connect(address)

    def send(self, message: msgspec.Struct) -> None:
        """Never blocks; kept for the server while it is not there, dropped when it has refused our key."""
        try:
            self._socket.send(_encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            logger.error("a message was dropped: the server refuses this link (is --key-file the same on both sides?)")
            return
        if self._nudge is not None:
            self._nudge()

    def receive(self) -> In | None:
        """The next message; None when there is none. Never blocks."""
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return None
            message = self._decode(frame)
            if message is not None:
                return message


class Waker:
    """Ends a `wait` from any thread; what it is about is the owner's to know."""

    def __init__(self) -> None:
        self._socket = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def wake(self) -> None:
        os.eventfd_write(self._socket, 1)

    def clear(self) -> None:
        """To be called before looking at what it is about, so that nothing is missed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._socket)


def wait(
    links: Sequence[Server[Any] | Client[Any] | Waker], timeout_seconds: float | None, descriptor: int | None = None
) -> None:
    """Block until a link has something to receive or `descriptor` to read, or the time is over (None: for ever)."""
    poller = zmq.Poller()
    if descriptor is not None:
        poller.register(descriptor, zmq.POLLIN)
    for link in links:
        poller.register(link._socket, zmq.POLLIN)
    with contextlib.suppress(InterruptedError):
        poller.poll(None if timeout_seconds is None else max(0, round(timeout_seconds * 1000)))


class Reader:
    """Delivers a link's messages on an event loop: `on_message` gets what `receive` returns.

    ZeroMQ's descriptor is edge-triggered and any use of the socket may swallow the edge, so the
    socket is drained at every edge and looked at again after every send.
    """

    def __init__(
        self,
        link: Server[Any] | Client[Any],
        on_message: Callable[[Any], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._link = link
        self._on_message = on_message
        self._loop = loop or asyncio.get_running_loop()
        self._is_scheduled = False
        self._is_open = True
        link._nudge = self._look
        self._loop.add_reader(link.fileno(), self._drain)
        self._look()

    def _look(self) -> None:
        if not self._is_scheduled and self._is_open and self._link._has_input():
            self._is_scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._is_scheduled = False
        receive, on_message = self._link.receive, self._on_message
        for _ in range(_DRAIN_LIMIT):
            if not self._is_open:
                return
            message = receive()
            if message is None:
                return
            try:
                on_message(message)
            except Exception:
                logger.exception("a message could not be handled")
        self._look()

    def close(self) -> None:
        """Stop delivering; the link itself stays the caller's to close."""
        if self._is_open:
            self._is_open = False
            self._link._nudge = None
            self._loop.remove_reader(self._link.fileno())
