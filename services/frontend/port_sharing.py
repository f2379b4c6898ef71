"""A port that several frontends listen on: how the one that leaves is passed over for new connections.

The kernel spreads connections over the sockets of a port by a hash, and resets those that a closed socket has not
taken yet. So before it closes, all new ones are steered to the socket that has listened last: its successor's.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_ATTACH_PROGRAM = 51
"""SO_ATTACH_REUSEPORT_CBPF: a program for all sockets of the port, which gives the number of the one to take."""
_DETACH_PROGRAM = 68
"""SO_DETACH_REUSEPORT_BPF."""
_RETURN_CONSTANT = 0x06
_INSTRUCTION = struct.Struct("@HBBI")
_PROGRAM = struct.Struct("@HP")
"""struct sock_fprog: number of instructions, where they are."""


def steer_to(sock: socket.socket, number: int) -> bool:
    """Send new connections to the socket that was the number-th (from 0) to listen. A number that none has means
    the hash again. False where the kernel does not do it."""
    code = ctypes.create_string_buffer(_INSTRUCTION.pack(_RETURN_CONSTANT, 0, 0, number), _INSTRUCTION.size)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _ATTACH_PROGRAM, _PROGRAM.pack(1, ctypes.addressof(code)))
    except OSError:
        return False
    return True


def spread(sock: socket.socket) -> None:
    """By the hash, whatever was before."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH_PROGRAM, 0)
    except OSError:
        pass  # there was nothing, or the kernel has no such thing
