"""What clients wrote and a program has to run (templates, regexes, schemas, grammars), under limits.

The tokenizer's side of the helper process: starts it ahead or when it is first needed, hands it one program at
a time, kills and replaces it when it is over its time or memory. Blocks its caller, never the event loop.
Knows nothing of how programs are run: see untrusted_program.py.
"""

from __future__ import annotations

import logging
import os
import select
import struct
import subprocess
import sys
import threading
import time
from hashlib import blake2b

import msgspec

from quire.shared.messages import Outcome, Program

from .byte_lru import ByteLru
from .template_rendering import RenderLimits

logger = logging.getLogger("quire.tokenizer")

_PROGRAM = "quire.services.tokenizer.untrusted_program"
_CACHE_BYTES = 16 << 20
_START_SECONDS = 30.0
_MAX_FRAME_BYTES = 96 << 20
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "TZ", "LANG")
"""All that the helper gets of ours: no key, no token, no proxy."""


class HelperLostError(Exception):
    """The helper ended in the middle."""


class Untrusted:
    """Runs programs in the helper. Thread-safe; one program at a time."""

    def __init__(
        self, limit_seconds: float = 1.0, memory_bytes: int = 256 << 20, max_rendered_chars: int = 16 << 20
    ) -> None:
        self._limit_seconds = limit_seconds
        """For one program, once the helper has it."""
        self._memory_bytes = memory_bytes
        self.render_limits = RenderLimits(limit_seconds, max_rendered_chars)
        """For templates, wherever they are rendered."""
        self._lock = threading.Lock()
        self._helper: _Helper | None = None
        self._outcomes: ByteLru[Outcome] = ByteLru(_CACHE_BYTES)
        self.num_killed = 0

    @property
    def pid(self) -> int | None:
        helper = self._helper
        return None if helper is None else helper.pid

    def check_regex(self, regex: str) -> Outcome:
        return self.run(Program("regex", regex))

    def check_schema(self, schema_json: str) -> Outcome:
        return self.run(Program("json_schema", schema_json))

    def check_grammar(self, grammar: str) -> Outcome:
        """Lark's syntax, as llguidance takes it."""
        return self.run(Program("grammar", grammar))

    def run(self, program: Program) -> Outcome:
        """What became of a program: ok, or error, time, memory, lost or unavailable with a sentence. Never raises."""
        payload = msgspec.msgpack.encode(program)
        key = blake2b(payload, digest_size=16).digest()
        with self._lock:
            known = self._outcomes.get(key)
            if known is not None:
                return known
            outcome = self._run(payload)
            is_verdict = outcome.result in ("time", "memory", "lost")
            if is_verdict or (program.kind != "template" and outcome.result != "unavailable"):
                # What a template makes may depend on the clock.
                self._outcomes.put(key, outcome, len(outcome.text) + 64)
            return outcome

    def start(self) -> None:
        """Have the helper on its way before a program needs it. The calling thread must live as long as the process:

        the kernel ends a child with the thread that started it.
        """
        with self._lock:
            if self._helper is None:
                self._replace()

    def _run(self, payload: bytes) -> Outcome:
        """A helper that is lost may have been killed by somebody else: only the second loss is the program's."""
        outcome = self._try(payload)
        return outcome if outcome.result != "lost" else self._try(payload)

    def _try(self, payload: bytes) -> Outcome:
        memory = f"it needs more than {self._memory_bytes >> 20} MiB"
        try:
            helper = self._ready_helper()
        except (HelperLostError, TimeoutError, OSError) as error:
            logger.error("the helper process does not start (%s): python -m %s 0 0 1 1 says why", error, _PROGRAM)
            return Outcome("unavailable", "the server cannot run what requests program at the moment")
        try:
            outcome = helper.ask(payload, self._limit_seconds)
        except TimeoutError:
            self._replace()
            return Outcome("time", f"it takes longer than {self._limit_seconds:g} s")
        except (HelperLostError, OSError):
            self._replace()
            return Outcome("lost", f"{memory}, or breaks what compiles it")
        if outcome.result == "memory":
            self._replace()
            return Outcome("memory", memory)
        return outcome

    def _ready_helper(self) -> _Helper:
        helper = self._helper
        if helper is None or not helper.is_alive:
            helper = self._replace()
        try:
            helper.wait_ready()
        except (HelperLostError, TimeoutError):
            helper.kill()
            self._helper = None
            raise
        return helper

    def _replace(self) -> _Helper:
        """Kill the helper if there is one; the next is on its way before it is needed."""
        if self._helper is not None:
            self.num_killed += 1
            self._helper.kill()
        self._helper = _Helper(self._memory_bytes, self.render_limits)
        return self._helper

    def close(self) -> None:
        with self._lock:
            if self._helper is not None:
                self._helper.kill()
                self._helper = None


class _Helper:
    """One process and its two pipes."""

    def __init__(self, memory_bytes: int, limits: RenderLimits) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROGRAM, *map(str, (os.getpid(), memory_bytes, limits.seconds, limits.max_chars))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "MALLOC_ARENA_MAX": "1"},
            bufsize=0,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise HelperLostError
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self._is_ready = False
        self._decoder = msgspec.msgpack.Decoder(Outcome)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        if not self._is_ready:
            self._read(time.monotonic() + _START_SECONDS)
            self._is_ready = True

    def ask(self, payload: bytes, limit_seconds: float) -> Outcome:
        """Raises TimeoutError or HelperLostError; the helper is then of no use any more."""
        deadline = time.monotonic() + limit_seconds
        unsent = memoryview(struct.pack("<I", len(payload)) + payload)
        while unsent:
            self._wait(self._input.fileno(), select.POLLOUT, deadline)
            try:
                unsent = unsent[os.write(self._input.fileno(), unsent) :]
            except BlockingIOError:
                continue
            except OSError:
                raise HelperLostError from None
        return self._read(deadline)

    def _read(self, deadline: float) -> Outcome:
        (length,) = struct.unpack("<I", self._read_bytes(4, deadline))
        if length > _MAX_FRAME_BYTES:
            raise HelperLostError
        try:
            return self._decoder.decode(self._read_bytes(length, deadline))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise HelperLostError from None

    def _read_bytes(self, count: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while count:
            self._wait(self._output.fileno(), select.POLLIN, deadline)
            try:
                part = os.read(self._output.fileno(), min(count, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise HelperLostError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, descriptor: int, events: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(descriptor, events)
        if not poller.poll(max(0, round((deadline - time.monotonic()) * 1000))):
            raise TimeoutError

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()
