"""What comes back for one HTTP request: its event stream cut into frames, each with its time of arrival.

Used by client.py, which brings the bytes. Knows the framing of HTTP and of server-sent events; of the
API only where a frame has text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import httptools
from msgspec import Struct, field

monotonic = time.monotonic

DONE = b"[DONE]"
_HAS_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning)": ?"[^"]').search
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Answer(Struct):
    """What came back for one request. Times are seconds of CLOCK_MONOTONIC."""

    sent: float
    status: int = 0
    headers_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """Of the frames that carry text, or of the body of an answer that is no stream."""
    texts: list[bytes] = field(default_factory=list)
    """The frames that carry text, if they are kept."""
    frames: list[bytes] = field(default_factory=list)
    """Of a stream all, [DONE] too, if texts are kept."""
    last_frame: bytes = b""
    """The last one before [DONE]; with include_usage it has the usage. Else the body."""
    is_done: bool = False
    """[DONE] came, or the body of an answer that is no stream."""
    ended: float = 0.0
    error: str = ""
    retry_after: str = ""


class FrameParser:
    """Cuts the bytes of an event stream into the data of its frames, wherever they were split."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # half a line end stays for later, so that it is never taken for a whole one
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(held).replace(b"\r\n", b"\n") + held
        *frames, self._rest = data.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: "):
                self._on_frame(frame[6:])
            else:
                self._several_lines(frame)

    def _several_lines(self, frame: bytes) -> None:
        """A frame with comments, event names, or a line end left over before it."""
        lines = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
        if lines:
            self._on_frame(b"\n".join(lines))


class Response:
    """What arrives for one request; httptools calls its on_ methods.

    The reads of a chunked event stream are only noted with their times, and parsed by `parse` when all
    are there: while streams run, a frame costs little more than its system call.
    """

    def __init__(self, sent: float, keeps_texts: bool) -> None:
        self.answer = Answer(sent)
        self.is_complete = False
        self.may_stay_open = False
        self._keeps_texts = keeps_texts
        self._parser = httptools.HttpResponseParser(self)
        self._frames = FrameParser(self._on_frame)
        self._reads: list[tuple[float, bytes]] = []
        self._body: list[bytes] = []
        self._is_stream = self._is_chunked = self._is_noting = False
        self._now = 0.0

    def feed(self, data: bytes) -> bool:
        """Take a read; whether it was the last. Raises httptools.HttpParserError."""
        self._now = monotonic()
        if not self._is_noting:
            self._parser.feed_data(data)
            return self.is_complete
        self._reads.append((self._now, data))
        if len(data) < len(_LAST_CHUNK):  # the last chunk may lie across reads
            self.parse()
            return self.is_complete
        return data.endswith(_LAST_CHUNK)

    def parse(self) -> Answer:
        """The answer, whole once `feed` or `close` has ended it."""
        reads, self._reads = self._reads, []
        try:
            for self._now, data in reads:
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.is_complete = True
            self.end(f"not HTTP: {error}")
        return self.answer

    def close(self, cause: str) -> None:
        """The connection is gone."""
        self._now = monotonic()
        if not self._is_stream and not self._body:
            self.end(f"connection lost: {cause}")
        elif not self._is_chunked:
            self.on_message_complete()  # a body without a length ends with its connection
        else:
            self.end("the stream ended without its last chunk")

    def end(self, error: str) -> None:
        self.answer.error = self.answer.error or error
        self.answer.ended = self._now

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")
        elif name == b"transfer-encoding":
            self._is_chunked = value.lower() == b"chunked"
        elif name == b"retry-after":
            self.answer.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        self.answer.headers_at = self._now
        self.may_stay_open = self._parser.should_keep_alive()
        self._is_noting = self._is_stream and self._is_chunked

    def on_body(self, body: bytes) -> None:
        if self._is_stream:
            self._frames.feed(body)
        else:
            self._body.append(body)

    def _on_frame(self, data: bytes) -> None:
        answer = self.answer
        if self._keeps_texts:
            answer.frames.append(data)
        if data == DONE:
            answer.is_done = True
            return
        answer.last_frame = data
        if _HAS_TEXT(data):
            answer.arrivals.append(self._now)
            if self._keeps_texts:
                answer.texts.append(data)
        elif data.startswith(b'{"error"'):
            answer.error = data.decode("utf-8", "replace")

    def on_message_complete(self) -> None:
        answer = self.answer
        self.is_complete = True
        if not self._is_stream:
            answer.last_frame = b"".join(self._body)
            answer.arrivals.append(self._now)
            answer.is_done = True
        error = ""
        if answer.status != 200:
            error = f"{answer.status}: {answer.last_frame[:500].decode('utf-8', 'replace')}"
        elif not answer.is_done:
            error = "the stream ended without [DONE]"
        self.end(error)
