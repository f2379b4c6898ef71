"""Log lines: how every service writes them, as text or as JSON, and how the launcher reads them back.

Text is `time level service: sentence`; JSON is one object a line with the same four, and the fields of a
line that has some (`extra={"fields": {...}}`). Knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import re
import time
from datetime import datetime, timezone
from typing import Any, Protocol

import msgspec


class Writable(Protocol):
    """As much of a stream as lines need."""

    def write(self, text: str, /) -> object: ...


FORMATS = ("text", "json")
_TEXT = re.compile(r"^\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\S+: (.*)", re.DOTALL)
_encoder = msgspec.json.Encoder()


class _TextFormat(logging.Formatter):
    converter = time.localtime
    default_msec_format = "%s.%03d"


class _JsonFormat(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        exception = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return json_line(record.levelname, self._service, record.getMessage(), record.created, {**fields, **exception})


def json_line(
    level: str, service: str, message: str, at: float | None = None, fields: dict[str, Any] | None = None
) -> str:
    """One JSON log line, without its end. `at`: Unix seconds; now if absent."""
    when = datetime.fromtimestamp(time.time() if at is None else at, timezone.utc)
    line = {"time": when.isoformat(timespec="milliseconds"), "level": level.lower(), "service": service}
    return _encoder.encode({**line, "message": message, **(fields or {})}).decode()


def handler_of(log_format: str, service: str, stream: Writable | None = None) -> logging.Handler:
    """Writes to stderr if there is no stream."""
    handler = logging.StreamHandler(stream)
    text = _TextFormat(f"%(asctime)s %(levelname)-7s {service}: %(message)s")
    handler.setFormatter(_JsonFormat(service) if log_format == "json" else text)
    return handler


def start_logging(level: str, service: str, log_format: str = "text", stream: Writable | None = None) -> None:
    """Our loggers' lines go to stderr, or to `stream`, from `level` on."""
    root = logging.getLogger("quire")
    root.handlers[:] = [handler_of(log_format, service, stream)]
    root.setLevel(level.upper())
    root.propagate = False


class _Line(msgspec.Struct):
    level: str
    service: str
    message: str


_decoder = msgspec.json.Decoder(_Line)


def read(line: str) -> tuple[str, str] | None:
    """(level in capitals, sentence) of a log line of either form; None for anything else."""
    if line.startswith("{"):
        try:
            found = _decoder.decode(line)
        except msgspec.MsgspecError:
            return None
        return found.level.upper(), found.message
    match = _TEXT.match(line)
    return (match[1], match[2]) if match else None
