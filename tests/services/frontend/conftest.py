"""A real frontend process over a fake tokenizer: the tests' side of the link is a real Server.

The fake answers by what the prompt says (see FakeTokenizer._script), so that a test needs nothing
but HTTP. Everything it was sent is kept for looking at.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from quire.services.tokenizer.sibling_post import carry
from quire.shared.config import TokenizerConfig
from quire.shared.link import Server, wait
from quire.shared.messages import (
    Abort,
    Accepted,
    Bequest,
    ChatPrompt,
    Finding,
    Finished,
    Generate,
    GenerationDefaults,
    Hello,
    IdsPrompt,
    Inquiry,
    LogprobEntry,
    ModelCard,
    ReasoningIds,
    Refused,
    Report,
    Started,
    TextBatch,
    TextLogprobs,
    ToTokenizer,
)
from quire.shared.neighbours import Above
from quire.shared.service import Service

ROOT = Path(__file__).resolve().parents[3]
CARD = ModelCard(
    names=["demo", "org/demo:latest"],
    root="/models/demo",
    created=1_700_000_000,
    vocab_size=1000,
    max_model_len=2048,
    max_num_seqs=16,
    num_kv_tokens=65536,
    has_chat_template=True,
    defaults=GenerationDefaults(),
    limits={"helper_timeout": 1.5, "helper_memory": 256 << 20},
)


def eventually(is_true: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait for something that must come; the limit only ends a test that has failed."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise AssertionError("it never came")
        time.sleep(0.005)


def pack(ids: list[int]) -> bytes:
    return array.array("i", ids).tobytes()


def entry(token: bytes, logprob: float = -0.5, token_id: int | None = None, rank: int = 1) -> LogprobEntry:
    return LogprobEntry(len(token) if token_id is None else token_id, token, logprob, rank)


class Row(msgspec.Struct):
    """What the fake does for one choice: its deltas, then its end (None: never)."""

    texts: list[str]
    finish: str | None = "stop"
    stop_reason: int | str | None = None
    message: str = ""


class FakeTokenizer:
    """A tokenizer's address, link and manners, without a tokenizer."""

    def __init__(self, run_dir: Path, index: int = 0, card: ModelCard = CARD) -> None:
        self.service = Service("tokenizer", TokenizerConfig(run_dir=str(run_dir), name=f"tokenizer-{index}"))
        self.card = card
        self.generates: list[Generate] = []
        self.aborts: list[Abort] = []
        self.reports: dict[str, Report] = {}
        self.extra_known: list[Report] = []
        self.samples: dict[str, float] = {}
        self.num_finished = 0
        """Choices that have ended by themselves."""
        self._waiting: list[tuple[float, Callable[[], None]]] = []
        self._ended: set[int] = set()
        self._server: Server[ToTokenizer] = self.service.listen(ToTokenizer)
        self._above = Above(self._server, self.service, lambda name: None)
        self._is_ready = True
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_open = False
        self._thread.join(10)
        self._server.close()
        self.service.close()

    def set_ready(self, is_ready: bool) -> None:
        self._is_ready = is_ready

    def _run(self) -> None:
        published = 0.0
        was_ready = None
        while self._is_open:
            due_in = min((when for when, _ in self._waiting), default=float("inf")) - time.monotonic()
            wait([self._server], max(0.0, min(0.02, due_in)))
            while (item := self._server.receive()) is not None:
                self._on_message(*item)
            now = time.monotonic()
            due = [action for when, action in self._waiting if when <= now]
            self._waiting = [item for item in self._waiting if item[0] > now]
            for action in due:
                action()
            self._above.poll()
            if now - published > 0.2 or was_ready != self._is_ready:
                published, was_ready = now, self._is_ready
                self._above.publish(self._report())

    def _report(self) -> Report:
        state = "ready" if self._is_ready else "starting"
        known = [*self.extra_known, *self.reports.values()]
        return self.service.report(
            state, detail="" if self._is_ready else "loading", card=self.card, known=known, samples=self.samples
        )

    def _on_message(self, peer: str, message: ToTokenizer) -> None:
        match message:
            case Hello():
                self._above.hear(peer, message)
            case Report():
                self.reports[message.name] = msgspec.structs.replace(message, known=[])
            case Inquiry() | Finding() | Bequest():
                carry(message, self._server, self._above)
            case Abort():
                self.aborts.append(message)
                self._ended.add(message.request_id)
            case Generate():
                self.generates.append(message)
                self._answer(peer, message)

    def send(self, peer: str, message: msgspec.Struct) -> None:
        self._server.send(peer, message)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._waiting.append((time.monotonic() + seconds, action))

    def _answer(self, peer: str, generate: Generate) -> None:
        text = prompt_text(generate)
        if "!refuse" in text:
            status, code = (400, "context_length_exceeded") if "!refuse-long" in text else (503, "server_overloaded")
            self.send(peer, Refused(generate.request_id, status, code, "It is too much.", "messages", 7.0))
            return
        if "!silent" in text:
            return
        ids = pack(list(range(len(text.split()))))
        shown = text if generate.text.return_prompt_text else ""
        inside = "!inside" in text
        self.send(peer, Accepted(generate.request_id, len(text.split()), ids, shown, starts_in_reasoning=inside))
        if "!late" in text:  # it waits too long in the engine
            late = Refused(generate.request_id, 503, "server_overloaded", "It has waited for too long.", None, 1.0)
            self.later(0.2, lambda: self.send(peer, late))
            return
        if "!hang" in text:
            return
        rows = [self._script(text, generate, choice) for choice in range(generate.n)]
        pause = 0.05 if "!slow" in text else 0.0
        done = len(generate.history[0].output_ids) // 4 if generate.history else 0
        self._step(peer, generate, rows, done, pause)

    def _script(self, text: str, generate: Generate, choice: int) -> Row:
        if "!say " in text:
            written = text.partition("!say ")[2]
            size = 3 if "!bits" in text else len(written)
            return Row([written[at : at + size] for at in range(0, len(written), size or 1)] or [""])
        if "!flood" in text:
            return Row(
                ["~" * 4096] * (50_000 if "!flood-on" in text else 2_000), None if "!flood-on" in text else "length"
            )
        if "!error" in text:
            return Row(["par", "tial"], "error", message="The worker stumbled.")
        if "!stuck" in text:
            return Row(["a ", "b "], None)
        if "!long" in text:
            return Row([f"w{i} " for i in range(200)], "length")
        if "!unicode" in text:
            return Row(["", "é", "", '\u2028\u0000"\\', "😀", "\n"], "stop")
        if "!stop" in text:
            return Row(["one", " two"], "stop", "END" if "!stop-string" in text else 7)
        return Row(["Hello", "", " wor", "ld", f" {choice}"], "stop")

    def _step(self, peer: str, generate: Generate, rows: list[Row], step: int, pause: float) -> None:
        """One step's batch of all choices; the next one follows."""
        if generate.request_id in self._ended:
            return
        here = [choice for choice, row in enumerate(rows) if step < len(row.texts)]
        texts = [rows[choice].texts[step] for choice in here]
        ends = [
            Finished(row, rows[choice].finish or "", rows[choice].stop_reason, rows[choice].message)
            for row, choice in enumerate(here)
            if step == len(rows[choice].texts) - 1 and rows[choice].finish is not None
        ]
        logprobs = []
        if generate.sampling.logprobs is not None:
            logprobs = [
                TextLogprobs(row, [entry(text.encode(), -0.25)], [tops(generate.sampling.logprobs)])
                for row, text in enumerate(texts)
            ]
        prompt_logprobs = []
        if step == 0 and generate.sampling.prompt_logprobs is not None:
            words = prompt_text(generate).split(" ")[1:]
            tokens = [entry((" " + word).encode(), -1.0) for word in words]
            prompt_logprobs = [TextLogprobs(0, tokens, [tops(generate.sampling.prompt_logprobs)] * len(tokens))]
        batch = TextBatch(
            request_ids=[generate.request_id] * len(here),
            choices=here,
            texts=texts,
            counts=[1] * len(here),
            token_ids=pack([100 + step] * len(here)),
            started=[Started(row, 3, 0.0) for row in range(len(here))] if step == 0 else [],
            finished=ends,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        self.send(peer, batch)
        self.num_finished += len(ends)
        if any(step + 1 < len(row.texts) for row in rows):
            if pause:
                self.later(pause, lambda: self._step(peer, generate, rows, step + 1, pause))
            else:
                self._step_on(peer, generate, rows, step + 1)

    def _step_on(self, peer: str, generate: Generate, rows: list[Row], step: int) -> None:
        self.later(0.0, lambda: self._step(peer, generate, rows, step, 0.0))


def tops(number: int) -> list[LogprobEntry]:
    return [entry(b"top%d" % rank, -0.1 * rank, 500 + rank, rank) for rank in range(1, number + 1)]


def prompt_text(generate: Generate) -> str:
    """The prompt as the fake reads it: the last message's text, the text, or the ids as words."""
    prompt = generate.prompt
    if isinstance(prompt, ChatPrompt):
        content = msgspec.json.decode(prompt.messages_json)[-1]["content"]
        return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content or [])
    if isinstance(prompt, IdsPrompt):
        ids = array.array("i", prompt.token_ids)
        return " ".join(f"<{number}>" for number in ids)
    return prompt.text


class Frontend:
    """A real frontend process."""

    def __init__(
        self, run_dir: Path, *flags: str, environment: dict[str, str] | None = None, max_files: int | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "quire.services.frontend", "--port", str(self.port)]
        if max_files is not None:
            command = ["sh", "-c", f'ulimit -n {max_files}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            [*command, "--run-dir", str(run_dir), *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stderr=self.log,
        )
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def wait_ready(self) -> Frontend:
        self.wait_answering()
        eventually(lambda: self.client.get("/ready").status_code == 200)
        return self

    def wait_answering(self) -> Frontend:
        def is_answering() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the frontend ended: {self.read_log()}")
            try:
                return self.client.get("/health/live").status_code == 200
            except httpx.TransportError:
                return False

        eventually(is_answering)
        return self

    def read_log(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self.log.close()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="q-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def shared_run_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="q-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def tokenizer(shared_run_dir: Path) -> Iterator[FakeTokenizer]:
    fake = FakeTokenizer(shared_run_dir)
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def frontend(shared_run_dir: Path, tokenizer: FakeTokenizer) -> Iterator[Frontend]:
    """One for all tests of a module that need no flags of their own."""
    process = Frontend(shared_run_dir).wait_ready()
    yield process
    process.stop()


@pytest.fixture
def start(run_dir: Path) -> Iterator[Callable[..., Frontend]]:
    """Start frontends with flags; they are stopped at the end."""
    started: list[Frontend] = []

    def start_one(*flags: str, environment: dict[str, str] | None = None, max_files: int | None = None) -> Frontend:
        process = Frontend(run_dir, *flags, environment=environment, max_files=max_files)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.stop()


@pytest.fixture
def fake(run_dir: Path) -> Iterator[FakeTokenizer]:
    """A tokenizer of this test alone."""
    one = FakeTokenizer(run_dir)
    yield one
    one.close()


@pytest.fixture(scope="session")
def frontend_class() -> type[Frontend]:
    return Frontend


@pytest.fixture(scope="session")
def fake_class() -> type[FakeTokenizer]:
    return FakeTokenizer


class ParsingFrontend(Frontend):
    """One with a tokenizer of its own."""

    fake: FakeTokenizer


@pytest.fixture(scope="module")
def parsing() -> Iterator[ParsingFrontend]:
    """A frontend whose model thinks and calls as Qwen3 does; its answers are what the prompt says after !say."""
    with tempfile.TemporaryDirectory(prefix="q-", dir="/tmp") as path:
        fake = FakeTokenizer(Path(path))
        fake.card = msgspec.structs.replace(
            fake.card, tool_format="hermes", reasoning_format="think", reasoning_ids=ReasoningIds(ends=[102])
        )
        process = ParsingFrontend(Path(path))
        process.wait_ready()
        process.fake = fake
        yield process
        process.stop()
        fake.close()
