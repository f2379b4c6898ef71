"""Beam search for one HTTP request: what stands between its mailbox and the tokenizers while beams are sought.

Each step of each beam is a request of one token, whose prompt is in the prefix cache; when the search
(shared/beam_search.py) is over, a request whose whole output is its history gives each beam's text. The answer's
mailbox then gets every beam as one delta, so that answers are written and streamed as any other. What is lost on
the way goes on by itself, as every record does (tokenizer_client.py). Knows no HTTP and no fields.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from quire.shared.beam_search import Beam, BeamSearch, BeamTrails
from quire.shared.errors import INTERNAL_ERROR, ApiError
from quire.shared.messages import (
    Accepted,
    Generate,
    History,
    IdsPrompt,
    LogprobEntry,
    ModelCard,
    SamplingParams,
    TextParams,
)
from quire.shared.request_ids import RequestIds

from .beam_params import BeamParams
from .completion_protocol import ids_prompt
from .mailbox import AnswerFailed, Delta, Mailbox
from .record import Record
from .tokenizer_client import TokenizerClient

logger = logging.getLogger("quire.frontend")


_Scored = tuple[LogprobEntry, list[LogprobEntry]]
"""A token, and those that were likeliest in its place."""


class _Search:
    """One prompt's."""

    def __init__(self, generate: Generate, accepted: Accepted, params: BeamParams, card: ModelCard) -> None:
        self.generate = generate
        self.prompt_ids = accepted.prompt_ids
        self.num_cached_tokens: int | None = None
        room = card.max_model_len - accepted.num_prompt_tokens
        self._num_top = params.logprobs
        self._trails: BeamTrails[_Scored] = BeamTrails()
        self.beams: BeamSearch = params.search(room if params.max_tokens is None else min(params.max_tokens, room))

    def prompt(self, beam: Beam) -> IdsPrompt:
        return IdsPrompt(self.prompt_ids + _packed(beam.token_ids))

    def step(self, outputs: list[Delta]) -> None:
        """One token further, by the outputs of all beams that run, in order."""
        if self.num_cached_tokens is None:
            self.num_cached_tokens = outputs[0].num_cached_tokens
        likeliest = [_likeliest(output) for output in outputs]
        if self._num_top is not None:
            self._trails.note(
                self.beams.running,
                [{entry.token_id: (entry, entries[: self._num_top]) for entry in entries} for entries in likeliest],
            )
        self.beams.step([[(entry.token_id, entry.logprob) for entry in entries] for entries in likeliest])
        if self._num_top is not None:
            self._trails.keep([*self.beams.running, *self.beams.best])

    def scores(self, beam: Beam) -> tuple[list[LogprobEntry], list[list[LogprobEntry]]] | tuple[None, None]:
        """The logprobs of its tokens and of those that were likeliest there, as a Delta has them, if asked for."""
        if self._num_top is None:
            return None, None
        trail = self._trails.of(beam)
        return [entry for entry, _ in trail], [top for _, top in trail]


class BeamSearches:
    """Of all prompts of an HTTP request, step by step together. `records`: those under way, kept up to date in place.

    To end it, cancel the task that runs it, then abort the records.
    """

    def __init__(
        self,
        client: TokenizerClient,
        ids: RequestIds,
        generates: list[Generate],
        params: BeamParams,
        mailbox: Mailbox,
        records: list[Record],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._client = client
        self._ids = ids
        self._generates = generates
        self._params = params
        self._mailbox = mailbox
        self._records = records
        self._loop = loop
        self._sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            logprobs=max(params.search(1).num_candidates, params.logprobs or 0),
        )

    async def run(self, card: ModelCard) -> None:
        """Until the mailbox has every beam, or why there is none."""
        try:
            searches = await self._begin(card)
            while running := [search for search in searches if search.beams.running]:
                await self._step(running)
            await self._deliver(searches)
        except asyncio.CancelledError:
            raise
        except ApiError as error:
            self._mailbox.fail(error)
        except Exception:
            logger.exception("a beam search failed")
            self._mailbox.fail(AnswerFailed(INTERNAL_ERROR, "The server failed to answer this request."))

    async def _begin(self, card: ModelCard) -> list[_Search]:
        """The first token of each prompt; the answer's prompts are accepted as soon as these are."""
        step = self._submit([self._first(generate, card) for generate in self._generates], is_first=True)
        accepted = await step.settled()
        for position, one in enumerate(accepted):
            self._mailbox.accept(position, one)
        pairs = zip(self._generates, accepted, strict=True)
        searches = [_Search(generate, one, self._params, card) for generate, one in pairs]
        for position, (search, output) in enumerate(zip(searches, await _outputs(step), strict=True)):
            self._mailbox.begin(position, step.queue_seconds)
            search.step([output])
        return searches

    def _first(self, generate: Generate, card: ModelCard) -> Generate:
        text = msgspec.structs.replace(generate.text, return_prompt_ids=True)
        if text.truncate_prompt_tokens == -1:  # leaves room for all tokens, not for this one
            room = max(1, card.max_model_len - max(1, self._params.max_tokens or 1))
            text = msgspec.structs.replace(text, truncate_prompt_tokens=room)
        return msgspec.structs.replace(generate, n=1, sampling=self._sampling, text=text)

    async def _step(self, searches: list[_Search]) -> None:
        """One token further, all beams of all searches together."""
        asked = [
            self._continued(search.generate, search.prompt(beam), self._sampling, TextParams())
            for search in searches
            for beam in search.beams.running
        ]
        outputs = await _outputs(self._submit(asked))
        for search in searches:
            own, outputs = outputs[: len(search.beams.running)], outputs[len(search.beams.running) :]
            search.step(own)

    async def _deliver(self, searches: list[_Search]) -> None:
        """The best beams with their texts."""
        found: list[Delta] = []
        asked: list[tuple[Delta, Generate]] = []
        for position, search in enumerate(searches):
            for rank, beam in enumerate(search.beams.best[: self._params.n]):
                delta = self._delta(position * self._params.n + rank, beam, search)
                found.append(delta)
                shown = beam.token_ids
                if delta.finish_reason == "stop" and not search.generate.text.include_stop_str_in_output:
                    shown = shown[:-1]
                if shown:
                    asked.append((delta, self._text_of(search, shown)))
        if asked:
            outputs = await _outputs(self._submit([generate for _, generate in asked]))
            for (delta, _), output in zip(asked, outputs, strict=True):
                delta.text = output.text
        for delta in found:
            self._mailbox.deliver(delta)

    def _delta(self, index: int, beam: Beam, search: _Search) -> Delta:
        packed = _packed(beam.token_ids)
        tokens, top = search.scores(beam)
        is_ended = beam.token_ids[-1] in self._params.eos_token_ids
        if tokens and is_ended and not search.generate.text.include_stop_str_in_output:
            tokens[-1] = msgspec.structs.replace(tokens[-1], token=b"")  # it is not in the text
        return Delta(
            index,
            count=len(beam.token_ids),
            tokens=tokens,
            top=top,
            token_ids=packed if search.generate.text.return_prompt_ids else b"",
            num_cached_tokens=search.num_cached_tokens,
            finish_reason="stop" if is_ended else "length",
            output_ids=packed if self._mailbox.wants_output_ids else b"",
        )

    def _text_of(self, search: _Search, shown: tuple[int, ...]) -> Generate:
        """A request that computes nothing: its history is its whole output, and comes back as text."""
        text = msgspec.structs.replace(
            search.generate.text, return_prompt_ids=False, return_prompt_text=False, truncate_prompt_tokens=None
        )
        sampling = SamplingParams(max_tokens=len(shown), temperature=0.0, ignore_eos=True)
        history = [History(_packed(shown), 0)]
        return self._continued(search.generate, IdsPrompt(search.prompt_ids), sampling, text, history)

    def _continued(
        self,
        generate: Generate,
        prompt: IdsPrompt,
        sampling: SamplingParams,
        text: TextParams,
        history: list[History] | None = None,
    ) -> Generate:
        """A request behind the first: the answer has begun, and waits."""
        return msgspec.structs.replace(
            generate, request_id=self._ids.next(), prompt=prompt, n=1, sampling=sampling, text=text,
            history=history or [], max_queue_seconds=0.0,
        )  # fmt: skip

    def _submit(self, generates: list[Generate], is_first: bool = False) -> Mailbox:
        step = Mailbox(len(generates), len(generates), self._loop)
        self._records[:] = self._client.submit(generates, step, may_wait=not is_first)
        return step


async def _outputs(step: Mailbox) -> list[Delta]:
    """Each request's whole output, in order. Raises what the step failed with."""
    found: list[Delta | None] = [None] * len(step.accepted)
    num_open = len(found)
    while num_open:
        for delta in await step.take():
            num_open -= delta.finish_reason is not None
            if (so_far := found[delta.index]) is None:
                found[delta.index] = delta
            else:
                so_far.merge(delta)
    return [delta for delta in found if delta is not None]


def _likeliest(output: Delta) -> list[LogprobEntry]:
    if not output.top:
        raise AnswerFailed(INTERNAL_ERROR, "A step of the beam search came back without logprobs.")
    return output.top[0]


def _packed(token_ids: tuple[int, ...]) -> bytes:
    return ids_prompt(list(token_ids)).token_ids
