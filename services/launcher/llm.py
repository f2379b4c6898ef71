"""The offline API: `LLM` generates from Python, over the same chain as a server, without HTTP.

What callers see; the processes are offline_chain.py's, the way of a prompt offline_session.py's.
`quire.LLM` and `quire.SamplingParams` are these.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from quire.shared.messages import Prompt

from .offline_beam import BeamSearchParams, beam_search
from .offline_chain import LLMError, OfflineChain
from .offline_link import Job
from .offline_params import Completion, Delta, Output, SamplingParams, StructuredOutputs, TokenLogprob
from .offline_prompts import ChatOptions, Messages, TextOrIds, conversation, conversations, text_or_ids, texts_or_ids
from .progress import Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

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
        return self._run(texts_or_ids(prompts), params, progress)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
        **options: Unpack[ChatOptions],
    ) -> list[Output]:
        """Answer a conversation, or each of several, by the checkpoint's chat template.

        options: tools, documents, chat_template, chat_template_kwargs, add_generation_prompt, continue_final_message.
        """
        return self._run(conversations(messages, options), params, progress)

    def stream(self, prompt: TextOrIds, params: SamplingParams | None = None) -> Iterator[Delta]:
        """What continues a prompt, as it comes: begins with the first delta that is asked for.

        Closing the iterator stops it; an error raises LLMError.
        """
        return self._stream(text_or_ids(prompt), params)

    def stream_chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Unpack[ChatOptions]
    ) -> Iterator[Delta]:
        """The answer to a conversation, as it comes; options as of `chat`."""
        return self._stream(conversation(messages, options), params)

    def beam_search(
        self, prompts: TextOrIds | Sequence[TextOrIds], params: BeamSearchParams | None = None
    ) -> list[Output]:
        """The best continuations of each prompt, best first, as its choices. Their `score`s are the beams'."""
        return beam_search(self._chain.session, texts_or_ids(prompts), params or BeamSearchParams())

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
            raise LLMError(session.why_closed)
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
