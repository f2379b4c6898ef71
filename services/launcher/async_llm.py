"""`AsyncLLM`: the offline API for an event loop. The same chain and session as LLM; nothing here blocks the loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from quire.shared.messages import Prompt

from .offline_chain import LLMError, OfflineChain
from .offline_link import Job
from .offline_params import Delta, Output, SamplingParams
from .offline_prompts import ChatOptions, Messages, TextOrIds, conversation, text_or_ids

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncLLM:
    """A model for `async with AsyncLLM(...) as llm`, or between `await llm.start()` and `await llm.close()`.

    Arguments as of LLM. A call that is cancelled, and a stream that is closed, stop what they asked for.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, tokenizers: int = 1, **settings: Any) -> None:
        self._arguments = (model, tokenizers, settings)
        self._chain: OfflineChain | None = None

    async def start(self) -> AsyncLLM:
        """Load the model. Raises LLMError."""
        if self._chain is None:
            self._chain = await asyncio.to_thread(OfflineChain, *self._arguments)
        return self

    async def generate(self, prompt: TextOrIds, params: SamplingParams | None = None) -> Output:
        """Continue one prompt (a text, or token ids). Raises LLMError when it is refused or fails."""
        return await self._run(text_or_ids(prompt), params)

    async def chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Unpack[ChatOptions]
    ) -> Output:
        """Answer one conversation by the checkpoint's chat template. Raises LLMError."""
        return await self._run(conversation(messages, options), params)

    def stream(self, prompt: TextOrIds, params: SamplingParams | None = None) -> AsyncIterator[Delta]:
        """What continues a prompt, as it comes. Raises LLMError on the way."""
        return self._stream(text_or_ids(prompt), params)

    def stream_chat(
        self, messages: Messages, params: SamplingParams | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncIterator[Delta]:
        """The answer to a conversation, as it comes."""
        return self._stream(conversation(messages, options), params)

    async def close(self) -> None:
        """End the processes. Safe to call twice; calls under way end with LLMError."""
        if self._chain is not None:
            await asyncio.to_thread(self._chain.close)

    async def __aenter__(self) -> AsyncLLM:
        return await self.start()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _run(self, prompt: Prompt, params: SamplingParams | None) -> Output:
        async for _ in self._stream(prompt, params, output := []):
            pass
        return output[0]

    async def _stream(
        self, prompt: Prompt, params: SamplingParams | None, outputs: list[Output] | None = None
    ) -> AsyncIterator[Delta]:
        """Deltas; without any of them, where `outputs` is given to take the whole at the end."""
        if self._chain is None:
            raise LLMError("this AsyncLLM was not started")
        session = self._chain.session
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Delta | None] = asyncio.Queue()

        def put(delta: Delta | None) -> None:
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, delta)
            except RuntimeError:
                pass  # the loop has ended, and with it whoever waited

        job = Job(prompt, params or SamplingParams(), lambda job: put(None), put if outputs is None else None)
        if not session.submit([job]):
            raise LLMError(session.why_closed)
        has_ended = False
        try:
            while (delta := await arrived.get()) is not None:
                yield delta
            has_ended = True
            if job.output.error:
                raise LLMError(job.output.error)
            if outputs is not None:
                outputs.append(job.output)
        finally:
            if not has_ended:
                session.abort([job])
