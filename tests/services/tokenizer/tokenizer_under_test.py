"""A tokenizer process between an engine and a frontend that a test plays itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from quire.services.tokenizer.token_ids import pack_ids
from quire.shared.config import ServiceConfig
from quire.shared.link import Client, wait
from quire.shared.messages import (
    Abort,
    Accepted,
    Finished,
    Generate,
    GenerationDefaults,
    Hello,
    ModelCard,
    Prompt,
    Refused,
    Report,
    RequestId,
    SamplingParams,
    Submit,
    TextBatch,
    TextParams,
    ToEngine,
    ToFrontend,
    TokenBatch,
)
from quire.shared.service import Service

ROOT = Path(__file__).resolve().parents[3]
Wanted = TypeVar("Wanted")
DEADLINE_SECONDS = 20.0


class FakeEngine:
    """Registered as an engine; says what the test tells it to."""

    def __init__(self, run_dir: Path, name: str = "engine-0", max_model_len: int = 512, vocab_size: int = 2048) -> None:
        self.service = Service("engine", ServiceConfig(run_dir=str(run_dir), name=name))
        self.server = self.service.listen(ToEngine)
        self.peer = ""
        self.card = ModelCard([], "", 0, vocab_size, max_model_len, 8, 4096, False, GenerationDefaults())
        worker = Report("worker-0-0", 1, 1, "ready", "", 1.0, 0)
        self.service.report("ready", card=self.card, known=[worker])

    def next(self, kind: type[Wanted]) -> Wanted:
        """The next message of a kind; answers Hello on the way."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            received = self.server.receive()
            if received is None:
                wait([self.server], 0.05)
                continue
            self.peer, message = received
            if isinstance(message, Hello):
                self.server.send(self.peer, self.service.last_report)
            if isinstance(message, kind):
                return message
        raise TimeoutError(f"the engine got no {kind.__name__}")

    def say(self, message: msgspec.Struct) -> None:
        self.server.send(self.peer, message)

    def accept(self) -> Submit:
        submit = self.next(Submit)
        self.say(Accepted(submit.request_id, len(submit.prompt_ids) // 4))
        return submit

    def tokens(self, request_id: int, ids: list[int], end: str | None = None, choice: int = 0, **columns: Any) -> None:
        finished = [] if end is None else [Finished(0, end)]
        self.say(TokenBatch([request_id], [choice], [len(ids)], pack_ids(ids), finished=finished, **columns))

    def close(self) -> None:
        self.server.close()
        self.service.close()


class FakeFrontend:
    """Registered as a frontend and dialled to one tokenizer."""

    def __init__(self, run_dir: Path, tokenizer: str = "tokenizer-0", name: str = "frontend-0") -> None:
        self.service = Service("frontend", ServiceConfig(run_dir=str(run_dir), name=name))
        self.server = self.service.listen(Hello)
        self.client: Client[Any] = Client(self.service.directory.socket_address(tokenizer), name, ToFrontend)
        self.client.send(Hello(name, self.service.incarnation))
        self._last_id = int(name.rpartition("-")[2]) * 1000
        self.report: Report | None = None

    def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        text: TextParams | None = None,
        n: int = 1,
        **fields: Any,
    ) -> RequestId:
        self._last_id += 1
        request_id = RequestId(self._last_id)
        sampling = sampling or SamplingParams(max_tokens=8)
        self.client.send(Generate(request_id, prompt, n, sampling, text or TextParams(), 0, 0.0, **fields))
        return request_id

    def next(self, kind: type[Wanted], that: Callable[[Wanted], bool] = lambda _: True) -> Wanted:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            message = self.client.receive()
            if message is None:
                wait([self.client], 0.05)
                continue
            if isinstance(message, Report):
                self.report = message
            if isinstance(message, kind):
                if that(message):
                    return message
            elif isinstance(message, Refused):
                raise AssertionError(f"refused: {message.message}")
        raise TimeoutError(f"the frontend got no {kind.__name__}")

    def until_ready(self) -> Report:
        return self.next(Report, lambda report: report.state == "ready")

    def text_of(self, request_id: int) -> tuple[str, Finished]:
        """All text of a request's only choice, and its end."""
        text = ""
        while True:
            batch = self.next(TextBatch)
            for row, owner in enumerate(batch.request_ids):
                if owner == request_id:
                    text += batch.texts[row]
                    for end in batch.finished:
                        if end.row == row:
                            return text, end

    def abort(self, request_id: RequestId, choice: int | None = None) -> None:
        self.client.send(Abort(request_id, choice, "client_gone"))

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self.service.close()


class TokenizerProcess:
    """`python -m quire.services.tokenizer` in a run directory."""

    def __init__(self, run_dir: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "quire.services.tokenizer", "--run-dir", str(run_dir), *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, str]:
        """SIGTERM; (exit code, what it said)."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
