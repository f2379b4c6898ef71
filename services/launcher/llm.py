"""The offline API: `LLM` generates from Python, over the same chain as a server, without HTTP.

What callers see; the processes are offline_chain.py's, the way of a prompt offline_session.py's.
`quire.LLM` and `quire.SamplingParams` are these.
"""

from __future__ import annotations

import os
import queue
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from quire.shared.messages import ChatPrompt, IdsPrompt, Prompt, TextPrompt

from .offline_beam import BeamSearchParams, beam_search
from .offline_chain import LLMError, OfflineChain
from .offline_link import Job
from .offline_params import Completion, Delta, Output, SamplingParams, StructuredOutputs, TokenLogprob
from .offline_session import CLOSED
from .progress import Progress

__all__ = [
    "LLM",
    "BeamSearchParams",
    "Completion",
    "Delta",
    "LLMError",
    "Output",
    "SamplingParams",
    "StructuredOutputs",
    "TokenLogprob",
]

TextOrIds = str | Sequence[int]
Messages = Sequence[dict[str, Any]]


class LLM:
    """A model, loaded until `close` (or the end of a `with` block). May be called from several threads at once.

    `model` is a checkpoint folder or hub id; the demo model if absent. `settings` are the flags of
    `quire serve` that concern tokenizer, engine and worker: max_num_seqs=8, dtype="float32". Raises LLMError.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, tokenizers: int = 1, **settings: Any) -> None:
        self._chain = OfflineChain(model, tokenizers, settings)

    def generate(
        self,
        prompts: TextOrIds | Sequence[TextOrIds],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Output]:
        """Continue each prompt (a text, or token ids). One output a prompt, in order; a bad one has an `error`.

        progress: a bar on stderr; None: when that is a terminal and there are several prompts.
        """
        return self._run(_listed(prompts), params, progress)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Messages | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        progress: bool | None = None,
    ) -> list[Output]:
        """Answer a conversation, or each of several, by the checkpoint's chat template."""
        listed: Any = [messages] if messages and isinstance(messages[0], dict) else messages
        prompts = [conversation(one, tools, chat_template_kwargs) for one in listed]
        return self._run(prompts, params, progress)

    def stream(self, prompt: TextOrIds, params: SamplingParams | None = None) -> Iterator[Delta]:
        """What continues a prompt, as it comes: begins with the first delta that is asked for.

        Closing the iterator stops it; an error raises LLMError.
        """
        return self._stream(text_or_ids(prompt), params)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tools: Messages | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> Iterator[Delta]:
        """The answer to a conversation, as it comes."""
        return self._stream(conversation(messages, tools, chat_template_kwargs), params)

    def beam_search(
        self, prompts: TextOrIds | Sequence[TextOrIds], params: BeamSearchParams | None = None
    ) -> list[Output]:
        """The best continuations of each prompt, best first, as its choices. Their `score`s are the beams'."""
        return beam_search(self._chain.session, _listed(prompts), params or BeamSearchParams())

    @property
    def run_dir(self) -> str:
        """Where its processes meet."""
        return self._chain.run_dir

    def close(self) -> None:
        """End the processes. Safe to call twice; calls under way end with errors."""
        self._chain.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        progress: bool | None,
    ) -> list[Output]:
        each = [params or SamplingParams()] * len(prompts) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts have {len(each)} sampling params")
        session = self._chain.session
        jobs = [Job(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
        shown = Progress(len(prompts), progress)
        try:
            session.run(jobs, shown.add, shown.draw)
        finally:
            shown.close()
        return [job.output for job in jobs]

    def _stream(self, prompt: Prompt, params: SamplingParams | None) -> Iterator[Delta]:
        session = self._chain.session
        arrived: queue.SimpleQueue[Delta | None] = queue.SimpleQueue()
        job = Job(prompt, params or SamplingParams(), lambda job: arrived.put(None), arrived.put)
        if not session.submit([job]):
            raise LLMError(CLOSED)
        has_ended = False
        try:
            while (delta := arrived.get()) is not None:
                yield delta
            has_ended = True
            if job.output.error:
                raise LLMError(job.output.error)
        finally:
            if not has_ended:
                session.abort([job])


def _listed(prompts: TextOrIds | Sequence[TextOrIds]) -> list[Prompt]:
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
    listed: Any = [prompts] if is_one else prompts
    return [text_or_ids(prompt) for prompt in listed]


def text_or_ids(prompt: TextOrIds) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    return IdsPrompt(array("i", prompt).tobytes())


def conversation(messages: Messages, tools: Messages | None, chat_template_kwargs: dict[str, Any] | None) -> ChatPrompt:
    encode = msgspec.json.encode
    return ChatPrompt(
        encode(list(messages)),
        encode(list(tools)) if tools else b"",
        encode(chat_template_kwargs) if chat_template_kwargs else b"",
    )
