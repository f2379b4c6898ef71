"""The way of one generation request through the frontend, from its body to the end of its answer.

Read, check, take a place, submit, wait for the yes, answer (streamed or whole), clean up: the same
for both endpoints, which differ in how a body is parsed and how an answer is written.
Knows no field of either.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from quire.shared.errors import CANCELLED, RATE_LIMIT_EXCEEDED, SERVER_OVERLOADED, ApiError
from quire.shared.messages import Accepted, Generate, ModelCard
from quire.shared.request_ids import chat_id, completion_id

from .admission import Held, Permit, tokens_in
from .answers import Answer, Asked, Tally, scored
from .beam import BeamSearches
from .beam_params import BeamParams, beams_of
from .best_of import best
from .chat import ChatAnswer
from .chat_protocol import parse_chat
from .completion_protocol import parse_completion
from .completions import CompletionAnswer
from .exchange import Exchange
from .mailbox import ClientGone, Delta, Mailbox
from .parsed_chat import ParsedChatAnswer
from .parsed_request import ParsedRequest
from .record import Record
from .request_log import RequestFacts
from .sampling import max_tokens_of
from .stream_interval import Intervals
from .streaming import EventStream
from .submission import asked_of, generates_of

if TYPE_CHECKING:
    from .app import Application

_FULL_BELOW = (RATE_LIMIT_EXCEEDED.code, SERVER_OVERLOADED.code)
"""Refusals that pass: the door knows when there will be room."""


def _parse_chat(body: bytes) -> ParsedRequest:
    request, prompt, tools = parse_chat(body)
    return ParsedRequest(request, [prompt], tools)


def _parse_completion(card: ModelCard, body: bytes) -> ParsedRequest:
    return ParsedRequest(*parse_completion(body, card))


def _chat_answer(asked: Asked, accepted: list[Accepted], tally: Tally) -> Answer:
    if asked.parsing is None:
        return ChatAnswer(asked, accepted, tally)
    return ParsedChatAnswer(asked, accepted, tally, asked.parsing)


Read = Callable[["Application", Exchange, bytes], Awaitable[ParsedRequest]]
"""Makes a body the request that it is. Raises ApiError."""


class Endpoint(msgspec.Struct, frozen=True):
    """In what the endpoints differ."""

    operation: str
    """As OpenTelemetry calls it."""
    read: Read
    write_id: Callable[..., str]
    answer: Callable[[Asked, list[Accepted], Tally], Answer]


def read_by(parse: Callable[[bytes], ParsedRequest]) -> Read:
    """For requests that are told by their bodies alone."""

    async def read(app: Application, exchange: Exchange, body: bytes) -> ParsedRequest:
        return await app.parser.parse(parse, body)

    return read


async def _read_completion(app: Application, exchange: Exchange, body: bytes) -> ParsedRequest:
    return await app.parser.parse(functools.partial(_parse_completion, app.require_card()), body)


CHAT = Endpoint("chat", read_by(_parse_chat), chat_id, _chat_answer)
COMPLETION = Endpoint("text_completion", _read_completion, completion_id, CompletionAnswer)


async def generate(app: Application, exchange: Exchange, endpoint: Endpoint) -> None:
    """Answer one request. Raises ApiError while nothing was sent, and ClientGone."""
    arrival = time.time()
    facts = exchange.facts = RequestFacts(
        arrival, exchange.request_id.decode(), endpoint.operation, exchange.scope["path"], exchange.key_name[:8]
    )
    card = app.look()
    max_size = app.config.max_body_size
    held = app.admission.unread(card, exchange.declared_size(max_size))
    with app.admission.enter(card, exchange.key_name, held) as permit:
        body = await exchange.read_json(max_size)
        await app.turnstile.enter()
        parsed = await endpoint.read(app, exchange, body)
        if parsed.request.request_id is not None:
            exchange.name(parsed.request.request_id)
        generates = generates_of(app, exchange, parsed, card, arrival)
        asked = asked_of(endpoint.write_id(generates[0].request_id), parsed, card, arrival)
        width, num_prompts = parsed.request.width, len(parsed.prompts)
        permit.change(card, Held(num_prompts * width, tokens_in(len(body), num_prompts, card), len(body)))
        beams = beams_of(parsed.request, generates, max_tokens_of(parsed.request, card), card)
        facts.id, facts.model, facts.num_choices = asked.id, asked.model, asked.num_choices
        facts.is_streamed = bool(parsed.request.stream)
        await _Generation(app, exchange, endpoint, asked, generates, permit, facts).run(facts.is_streamed, card, beams)


class _Generation:
    """One request behind the door."""

    def __init__(
        self,
        app: Application,
        exchange: Exchange,
        endpoint: Endpoint,
        asked: Asked,
        generates: list[Generate],
        permit: Permit,
        facts: RequestFacts,
    ) -> None:
        self._app = app
        self._exchange = exchange
        self._endpoint = endpoint
        self._asked = asked
        self._generates = generates
        self._permit = permit
        self._facts = facts
        self._mailbox = Mailbox(asked.num_prompts, asked.num_prompts * asked.num_drawn, app.loop)
        self._mailbox.on_begin = permit.begin
        self._mailbox.wants_output_ids = asked.parsing is not None and bool(asked.parsing.reasoning_format)
        self._records: list[Record] = []
        self._sending: asyncio.Task[None] | None = None
        exchange.cancel = self._cancel

    async def run(self, is_streamed: bool, card: ModelCard, beams: BeamParams | None) -> None:
        tasks = [self._start(card, beams), self._app.loop.create_task(self._watch())]
        tally: Tally | None = None
        try:
            accepted = await self._settled()
            tally = Tally(self._asked, accepted)
            answer = self._endpoint.answer(self._asked, accepted, tally)
            if is_streamed:
                steady = Intervals(answer, self._asked.tokens_per_chunk) if self._asked.tokens_per_chunk > 1 else answer
                await self._stream(steady, tally)
            else:
                whole = await self._whole(answer, tally)
                self._permit.give_back()
                await self._exchange.respond(200, whole)
            await self._app.turnstile.enter()
        except ApiError as error:
            self._facts.outcome = error.code
            if error.code in _FULL_BELOW:
                error.retry_after_seconds = max(error.retry_after_seconds or 1, self._app.admission.retry_seconds())
            if not self._exchange.has_started:
                raise
            self._app.errors.note(error, self._exchange.request_id.decode())
        finally:
            for task in tasks:
                if task is not None:
                    task.cancel()
            self._app.client.abort(self._records, "client_gone")
            self._exchange.cancel = None
            self._mailbox.forget()
            self._note(tally)

    def _start(self, card: ModelCard, beams: BeamParams | None) -> asyncio.Task[None] | None:
        """Have the mailbox filled, by a task where more is to be done than to submit. Raises ApiError."""
        app, generates, mailbox = self._app, self._generates, self._mailbox
        if beams is None:
            self._records = app.client.submit(generates, mailbox)
            return None
        search = BeamSearches(app.client, app.ids, generates, beams, mailbox, self._records, app.loop)
        return app.loop.create_task(search.run(card))

    async def _settled(self) -> list[Accepted]:
        """Every prompt's yes. Raises ApiError."""
        limit = self._app.config.queue_timeout
        timer = self._app.loop.call_later(limit, self._on_queue_timeout) if limit else None
        try:
            accepted = await self._mailbox.settled()
        finally:
            if timer is not None:
                timer.cancel()
        self._permit.count_tokens(sum(one.num_prompt_tokens for one in accepted) - self._mailbox.num_begun_tokens)
        return accepted

    def _on_queue_timeout(self) -> None:
        """No engine has it yet; from there on the engine minds the time."""
        if self._app.client.is_parked(self._records):
            return  # --resume-timeout ends it
        self._app.client.abort(self._records, "queue_timeout")
        limit = self._app.config.queue_timeout
        message = f"This request has waited for {limit:g} s to be prepared (--queue-timeout); please retry later."
        self._mailbox.fail(ApiError(SERVER_OVERLOADED, message))

    async def _watch(self) -> None:
        await self._exchange.wait_until_gone()
        self._end("client_gone")

    def _cancel(self) -> None:
        self._app.client.abort(self._records, "cancelled")
        self._mailbox.fail(ApiError(CANCELLED, "The request was cancelled."))

    def _end(self, cause: str) -> None:
        """Nobody waits any more: abort below at once, and have the owner of the connection stop."""
        self._app.client.abort(self._records, cause)
        self._mailbox.fail(ClientGone())

    async def _stream(self, answer: Answer, tally: Tally) -> None:
        hold_seconds = self._app.config.queue_timeout
        stream = EventStream(
            self._exchange, self._mailbox, answer, self._asked, tally,
            self._on_first, self._permit.give_back, hold_seconds,
        )  # fmt: skip
        # A task of its own: a delta then wakes three coroutines and not all those between it and the route.
        # Not a name here: what it raises refers to this frame, which would refer to it.
        self._sending = self._app.loop.create_task(stream.run())
        is_stalled = False

        def on_stall() -> None:
            nonlocal is_stalled
            is_stalled = True
            self._end("slow_reader")
            transport = self._exchange.scope.get("quire.transport")
            if transport is not None:
                transport.abort()  # closing would wait for the reader to take what is unsent
                self._app.listener.count_dropped("stalled")
            if self._sending is not None:
                self._sending.cancel()

        self._app.watchdog.add(stream, on_stall)
        try:
            await self._sending
        except asyncio.CancelledError:
            if not is_stalled:
                raise
            self._facts.outcome = "slow_reader"
            raise ClientGone from None
        finally:
            self._app.watchdog.remove(stream)
            self._sending = None

    async def _whole(self, answer: Answer, tally: Tally) -> bytes:
        """The plain answer: each choice's deltas merged into one."""
        asked = self._asked
        choices: list[Delta | None] = [None] * (asked.num_prompts * asked.num_drawn)
        while tally.num_open:
            for delta in await self._mailbox.take():
                if asked.is_scoring:
                    delta = scored(delta)
                if not any(choices):
                    self._on_first()
                tally.add(delta, asked.num_drawn)
                choice = choices[delta.index]
                if choice is None:
                    choices[delta.index] = delta
                else:
                    choice.merge(delta)
        whole = [choice for choice in choices if choice is not None]
        return answer.whole(whole if asked.num_drawn == asked.n else best(whole, asked.num_drawn, asked.n))

    def _on_first(self) -> None:
        now = self._facts.first_token_at = time.time()
        self._app.metrics.histogram("vllm:time_to_first_token_seconds").observe(now - self._facts.arrival)

    def _note(self, tally: Tally | None) -> None:
        """What the log wants to know; `tally`: unless it ended before it began."""
        facts = self._facts
        facts.queue_seconds = self._mailbox.queue_seconds
        if tally is None:
            return
        facts.prompt_tokens, facts.cached_tokens = tally.prompt_tokens, tally.cached_tokens
        facts.output_tokens, facts.finish_reasons = tally.output_tokens, sorted(set(tally.reasons))
        if not tally.num_open:
            self._app.metrics.histogram("vllm:e2e_request_latency_seconds").observe(time.time() - facts.arrival)
