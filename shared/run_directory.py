"""The run directory: where services of one deployment find each other.

A service registers by holding a lock on the file of its name and writing its address into it.
The kernel drops the lock when the process dies, however it dies, so "is it there" is a lock
query: no pid, no time-out, and it works between containers that share the directory.
Knows nothing of sockets or messages.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

import msgspec

_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock on 64-bit Linux: type, whence, start, length, pid."""
_WRITE_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_MAX_INDEX = 1024


class Entry(msgspec.Struct, frozen=True):
    """One registered service."""

    name: str
    """kind-index, for example tokenizer-0; workers are worker-<engine>-<rank>."""
    incarnation: int
    """Differs between two starts under one name; grows with time."""
    address: str
    pid: int
    """As seen in the service's own pid namespace; for people, not for signals."""

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


class NameTakenError(RuntimeError):
    """A live process already holds the name."""


class RunDirectoryError(RuntimeError):
    """The directory cannot be used, with a sentence why."""


def default_path() -> Path:
    """Where a deployment's run directory is when no flag says: per user, on tmpfs if there is one."""
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    return Path(base) / f"quire-{os.getuid()}"


class RunDirectory:
    """A directory of mode 0700 holding `NAME` (locked while alive) and `NAME.sock` per service.

    Raises RunDirectoryError when the path is not ours alone or too long for a socket in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        if len(os.fsencode(self.path)) > 80:
            raise RunDirectoryError(
                f"run directory {self.path} is {len(os.fsencode(self.path))} bytes long; a Unix socket in it"
                " allows 80; choose a shorter --run-dir"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise RunDirectoryError(f"run directory {self.path}: {error.strerror}") from None
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise RunDirectoryError(
                f"run directory {self.path} must belong to this user and be closed to others (mode 0700)"
            )
        self._open: dict[str, tuple[int, int]] = {}
        """name -> (fd, inode) kept open between polls."""

    def socket_address(self, name: str) -> str:
        return f"ipc://{self.path / name}.sock"

    def register(self, name: str) -> Registration:
        """Take a name. `kind-auto` takes the first free index. Raises NameTakenError."""
        kind, _, index = name.rpartition("-")
        if index != "auto":
            return self._register(name)
        for number in range(_MAX_INDEX):
            try:
                return self._register(f"{kind}-{number}")
            except NameTakenError:
                continue
        raise NameTakenError(f"{self.path} holds {_MAX_INDEX} services of kind {kind}; none more can register")

    def _register(self, name: str) -> Registration:
        path = self.path / name
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WRITE_LOCK)
            except OSError:
                os.close(fd)
                holder = self.entry(name)
                pid = f" (pid {holder.pid})" if holder else ""
                raise NameTakenError(f"{name} is already running{pid} in {self.path}") from None
            if _same_file(fd, path):
                os.ftruncate(fd, 0)
                path.with_suffix(".sock").unlink(missing_ok=True)
                return Registration(self, name, fd)
            os.close(fd)  # its last owner unlinked it between our open and our lock

    def entry(self, name: str) -> Entry | None:
        """The live service of that name, or None."""
        fd = self._descriptor(name)
        if fd is None or not _is_locked(fd):
            return None
        try:
            return msgspec.json.decode(os.pread(fd, 4096, 0), type=Entry)
        except msgspec.DecodeError:
            return None  # registered, but not listening yet

    def entries(self, kind: str | None = None) -> dict[str, Entry]:
        """All live services (of a kind) by name. Costs a few microseconds a service: poll it."""
        names = [name for name in os.listdir(self.path) if "." not in name]
        for stale in self._open.keys() - set(names):
            self._forget(stale)
        found: dict[str, Entry] = {}
        for name in sorted(names):
            if kind is None or name.startswith(f"{kind}-"):
                entry = self.entry(name)
                if entry is not None:
                    found[name] = entry
        return found

    def close(self) -> None:
        for name in list(self._open):
            self._forget(name)

    def _descriptor(self, name: str) -> int | None:
        path = self.path / name
        try:
            inode = os.stat(path).st_ino
        except FileNotFoundError:
            self._forget(name)
            return None
        held = self._open.get(name)
        if held is not None and held[1] == inode:
            return held[0]
        self._forget(name)
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        self._open[name] = (fd, os.fstat(fd).st_ino)
        return fd

    def _forget(self, name: str) -> None:
        held = self._open.pop(name, None)
        if held is not None:
            os.close(held[0])


class Registration:
    """A held name. `announce` makes it findable; `close` takes it back, and so does dying."""

    def __init__(self, directory: RunDirectory, name: str, fd: int) -> None:
        self.directory = directory
        self.name = name
        self.incarnation = time.time_ns()
        self._fd = fd

    def announce(self, address: str) -> None:
        entry = Entry(self.name, self.incarnation, address, os.getpid())
        os.pwrite(self._fd, msgspec.json.encode(entry), 0)

    def close(self) -> None:
        if self._fd < 0:
            return
        path = self.directory.path / self.name
        path.with_suffix(".sock").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def _is_locked(fd: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.fstat(fd).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False
