"""The offline API: `LLM` generates from Python, over the same chain as a server, without HTTP.

Starts a tokenizer, an engine and its worker as processes of their own and takes the frontend's
place above them. `quire.LLM` and `quire.SamplingParams` are these.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from quire.shared.config import EngineConfig, LauncherConfig, TokenizerConfig, WorkerConfig
from quire.shared.flags import fields
from quire.shared.messages import ChatPrompt, IdsPrompt, Prompt, Report, TextPrompt
from quire.shared.run_directory import RunDirectoryError

from .child import Child, Ending
from .offline_link import OfflineLink
from .offline_params import Completion, Output, SamplingParams, TokenLogprob
from .preflight import LaunchError, check_host, check_model, check_tensor_parallel
from .server_directories import ServerDirectory
from .supervisor import Supervisor
from .topology import Topology

__all__ = ["LLM", "Completion", "LLMError", "Output", "SamplingParams", "TokenLogprob"]

_IDLE_SECONDS = 0.5
_CLOSE_SECONDS = 20.0


class LLMError(RuntimeError):
    """The model cannot be loaded, or its processes were lost; with the cause."""


class LLM:
    """A model, loaded until `close` (or the end of a `with` block). Calls from several threads take turns.

    `model` is a checkpoint folder or hub id; the demo model if absent. `settings` are the flags of
    `quire serve` that concern tokenizer, engine and worker: max_num_seqs=8, dtype="float32".
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, tokenizers: int = 1, **settings: Any) -> None:
        known = {name for config in (TokenizerConfig, EngineConfig, WorkerConfig) for name in fields(config)}
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise TypeError(f"LLM has no setting {unknown[0]!r}")
        values = {"log_level": "warning", **settings, "model": None if model is None else os.fspath(model)}
        try:
            check_host()
            check_model(values["model"], values.get("load_format", "auto"))
            check_tensor_parallel(values)
            self._directory = ServerDirectory(None)
        except (LaunchError, RunDirectoryError) as error:
            raise LLMError(str(error)) from None
        self._lock = threading.Lock()
        self._observer = _Quiet()
        config = LauncherConfig(run_dir=str(self._directory.path), name="launcher-0", shutdown_timeout=0.0)
        topology = Topology(values, str(self._directory.path))
        self._supervisor = Supervisor(config, topology.spec, self._observer)
        specs = [*topology.replica(), *topology.several("tokenizer", tokenizers)]
        # The kernel ends the children with the thread that started them: it has to be one that stays.
        self._watcher = threading.Thread(target=self._watch, args=(specs,), name="quire-supervisor", daemon=True)
        self._watcher.start()
        atexit.register(self.close)
        self._link: OfflineLink | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        while not self._observer.is_ready.wait(0.05):
            self._check()
        self._link = OfflineLink(str(self._directory.path))
        while self._link.card is None:
            self._link.pump(0.05)
            self._check()
        threading.Thread(target=self._keep_alive, name="quire-link", daemon=True).start()

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str | Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[Output]:
        """Continue each prompt (a text, or token ids). One output a prompt, in order; a bad one has an `error`."""
        is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        listed: Any = [prompts] if is_one else prompts
        return self._run([_prompt(prompt) for prompt in listed], params)

    def chat(
        self,
        messages: Sequence[dict[str, Any]] | Sequence[Sequence[dict[str, Any]]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[Output]:
        """Answer a conversation, or each of several, by the checkpoint's chat template."""
        listed: Any = [messages] if messages and isinstance(messages[0], dict) else messages
        encode = msgspec.json.encode
        prompts: list[Prompt] = [
            ChatPrompt(
                encode(list(conversation)),
                encode(list(tools)) if tools else b"",
                encode(chat_template_kwargs) if chat_template_kwargs else b"",
            )
            for conversation in listed
        ]
        return self._run(prompts, params)

    def _run(self, prompts: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None) -> list[Output]:
        each = [params or SamplingParams()] * len(prompts) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts have {len(each)} sampling params")
        with self._lock:
            self._check()
            if self._link is None:
                raise LLMError("this LLM is closed")
            return self._link.run(list(zip(prompts, each, strict=True)), self._failure)

    def close(self) -> None:
        """End the processes. Safe to call twice; no call may be under way."""
        atexit.unregister(self.close)
        with self._lock:
            self._supervisor.ask_to_stop()
            self._watcher.join(_CLOSE_SECONDS)
            names = set(self._supervisor.names_used)
            if self._link is not None:
                self._link.close()
                names.add(self._link.name)
                self._link = None
            self._directory.remove(names)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _watch(self, specs: list[Any]) -> None:
        try:
            self._supervisor.run(specs)
        finally:
            self._observer.has_ended.set()

    def _keep_alive(self) -> None:
        """Between calls: take the reports that come, and say hello."""
        while not self._observer.has_ended.wait(_IDLE_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    if self._link is not None:
                        self._link.pump()
                finally:
                    self._lock.release()

    def _failure(self) -> str:
        return (self._supervisor.cause or "the processes have ended") if self._observer.has_ended.is_set() else ""

    def _check(self) -> None:
        failure = self._failure()
        if failure:
            raise LLMError(failure)


def _prompt(prompt: str | Sequence[int]) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    return IdsPrompt(array("i", prompt).tobytes())


class _Quiet:
    """An observer that passes on what the services print (warnings and errors), and says nothing itself."""

    def __init__(self) -> None:
        self.is_ready = threading.Event()
        self.has_ended = threading.Event()

    def started(self, child: Child) -> None: ...

    def reported(self, child: Child, report: Report) -> None: ...

    def printed(self, child: Child, line: str) -> None:
        print(line, file=sys.stderr)

    def ended(self, child: Child, ending: Ending, is_expected: bool) -> None: ...

    def restarting(self, cause: str, delay_seconds: float) -> None: ...
    def gave_up(self, cause: str) -> None: ...

    def ready(self, seconds: float) -> None:
        self.is_ready.set()

    def stopping(self) -> None: ...
