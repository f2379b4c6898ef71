"""The files of `quire batch`, in OpenAI's batch format: requests a line each in, what became of each a line out.

The output file is the record of what is done: it is only added to, and read again by whoever goes on. Sends nothing.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

_MAX_COMPLAINTS = 3


class BatchFileError(ValueError):
    """A sentence that names the file and the line."""


class BatchRequest(msgspec.Struct, frozen=True):
    """A line of the input. Its body is decoded when its turn comes."""

    custom_id: str
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class BatchResponse(msgspec.Struct):
    """What the server answered."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class BatchError(msgspec.Struct):
    """Why there is no answer."""

    code: str
    message: str


class BatchOutput(msgspec.Struct):
    """A line of the output."""

    id: str
    custom_id: str
    response: BatchResponse | None = None
    error: BatchError | None = None

    @property
    def is_answer(self) -> bool:
        return self.response is not None and self.response.status_code == 200

    @property
    def is_final(self) -> bool:
        """Whether asking again would give the same: an answer, or a refusal of the request itself."""
        return self.response is not None and (self.response.status_code < 500 and self.response.status_code != 429)


_request_decoder = msgspec.json.Decoder(BatchRequest)
_output_decoder = msgspec.json.Decoder(BatchOutput)


class BatchInput:
    """The requests of a file, whose lines are looked at once before anything is sent. Raises BatchFileError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        complaints: list[str] = []
        try:
            with path.open("rb") as opened:
                self._scan(opened, complaints)
        except OSError as error:
            raise BatchFileError(f"{path}: {error.strerror}") from None
        if complaints:
            more = f"; and {len(complaints) - _MAX_COMPLAINTS} more" if len(complaints) > _MAX_COMPLAINTS else ""
            raise BatchFileError(f"{path}: {'; '.join(complaints[:_MAX_COMPLAINTS])}{more}")
        if not self._offsets:
            raise BatchFileError(f"{path} has no requests")

    def _scan(self, opened: Any, complaints: list[str]) -> None:
        offset = 0
        for number, line in enumerate(opened, 1):
            if line.strip():
                try:
                    request = _checked(line)
                    if request.custom_id in self._offsets:
                        raise ValueError(f"custom_id {request.custom_id!r} is there twice")
                    self._offsets[request.custom_id] = offset
                except (ValueError, RecursionError) as error:
                    complaints.append(f"line {number}: {error or 'too deeply nested'}")
            offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, custom_id: str) -> bool:
        return custom_id in self._offsets

    def requests(self, done: set[str]) -> Iterator[BatchRequest]:
        """Those that are not done, in the order of the file."""
        with self._path.open("rb") as opened:
            for custom_id, offset in self._offsets.items():
                if custom_id not in done:
                    opened.seek(offset)
                    yield _request_decoder.decode(opened.readline())


def _checked(line: bytes) -> BatchRequest:
    request = _request_decoder.decode(line)
    if not request.custom_id:
        raise ValueError("custom_id is empty")
    if not request.url.startswith("/v1/"):
        raise ValueError(f"url {request.url[:80]!r} is not an endpoint such as /v1/chat/completions")
    body = msgspec.json.decode(request.body)
    if not isinstance(body, dict):
        raise ValueError("body is not a JSON object")
    if body.get("stream"):
        raise ValueError("stream is not for batches")
    return request


class BatchResults:
    """The output file. `done` are the ids of an earlier run that need not be asked again. Raises BatchFileError.

    What an earlier run could not get is asked again, and a line it was cut off in is taken back.
    """

    def __init__(self, path: Path, wanted: BatchInput) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.done: set[str] = set()
        try:
            self._file = self._held()
            if path.stat().st_size:
                with self._file:
                    self._take_over(wanted)
                    self._file = self._held()  # another file of that name by now
        except OSError as error:
            raise BatchFileError(f"{path}: {error.strerror}") from None

    def _held(self) -> BinaryIO:
        """The output file to add to, ours alone until it is closed."""
        opened = self._path.open("ab")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(opened.fileno()), self._path.stat()):
                return opened
        except BlockingIOError:
            pass
        opened.close()
        raise BatchFileError(f"{self._path}: another quire batch is writing to it")

    def _take_over(self, wanted: BatchInput) -> None:
        kept = self._path.with_name(self._path.name + ".kept")
        with self._path.open("rb") as old, kept.open("wb") as new:
            for number, line in enumerate(old, 1):
                try:
                    output = _output_decoder.decode(line)
                except msgspec.DecodeError:
                    if not line.endswith(b"\n"):
                        break  # cut off in the middle of a line
                    kept.unlink()
                    raise BatchFileError(
                        f"{self._path}: line {number} is no output of a batch; name another file"
                    ) from None
                if output.custom_id not in wanted:
                    kept.unlink()
                    raise BatchFileError(
                        f"{self._path} belongs to another batch: {output.custom_id!r} is not asked for"
                    )
                if output.is_final and output.custom_id not in self.done:
                    self.done.add(output.custom_id)
                    new.write(line.rstrip(b"\n") + b"\n")
        os.replace(kept, self._path)

    def add(self, output: BatchOutput) -> None:
        """One line, at once on its way to the disk. For any thread."""
        line = msgspec.json.encode(output) + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        with self._lock:
            self._file.close()
