"""The tokenizer process: frontends above, engines below, and the wiring between the parts.

Down: Generate -> encoding lane -> Submit. Up: TokenBatch -> translation -> TextBatch. Every request
that gets in ends exactly once, whoever of the neighbours vanishes.
Does nothing heavy itself: it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from quire.shared.config import TokenizerConfig
from quire.shared.errors import SERVICE_UNAVAILABLE, refused
from quire.shared.link import Reader
from quire.shared.messages import (
    Abort,
    Accepted,
    Bequest,
    Finding,
    Generate,
    Hello,
    Inquiry,
    Look,
    Refused,
    Report,
    TokenBatch,
    ToTokenizer,
    Vocabulary,
)
from quire.shared.neighbours import Above
from quire.shared.service import Service

from .encoding_lanes import EncodingLanes
from .engine_client import Engines
from .helper_ahead import HelperAhead
from .model import Model
from .outbox import Outbox
from .preparation import Job, Outcome, Preparation, Tokenized
from .reporting import Reporting
from .request import Request
from .sibling_post import carry
from .stats import Stats
from .translation import add_resumed, end_request, translate

logger = logging.getLogger("quire.tokenizer")

RETRY_SECONDS = 1.0

_LOST = "the engine that ran this request was lost"


class TokenizerService:
    """One tokenizer process. To be made on its running event loop."""

    def __init__(self, service: Service[TokenizerConfig], loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._server = service.listen(ToTokenizer)
        self._above = Above(self._server, service, self._on_frontend_gone)
        self._engines = Engines(service, service.config.engine_address, self._from_engine, self._on_engine_lost, loop)
        self._reader = Reader(self._server, self._from_above, loop)
        self._model: Model | None = None
        self._lanes: EncodingLanes | None = None
        self._requests: dict[int, Request] = {}
        self._taught: dict[str, int] = {}
        """The incarnation of each engine that has the vocabulary."""
        self._outboxes: dict[str, Outbox] = {}
        self._stats = Stats()
        self._reporting = Reporting(service, self._above, self._engines, self._stats)
        self._helper_ahead = HelperAhead(service.config.helper_ahead)

    def load(self, model: Model) -> None:
        """From here on requests can be prepared."""
        self._model = model
        preparation = Preparation(model.tokenizer, model.template, model.reasoning_format, model.constraints)
        self._lanes = EncodingLanes(preparation.prepare, self._on_prepared, self._loop, preparation.needs_helper)
        self._reporting.model = model
        self._reporting.publish()

    # --- from above -----------------------------------------------------------------------------------

    def _from_above(self, received: tuple[str, Any]) -> None:
        peer, message = received
        match message:
            case Generate():
                self._generate(peer, message)
            case Abort():
                self._abort(message)
            case Hello():
                self._above.hear(peer, message)
            case Look():
                self.poll()
            case Report():
                self._reporting.frontends[peer] = message
            case Inquiry() | Finding() | Bequest():
                carry(message, self._server, self._above)

    def _generate(self, peer: str, generate: Generate) -> None:
        if generate.request_id in self._requests:
            logger.error(
                "request %d from %s is under way already; its second coming is ignored", generate.request_id, peer
            )
            return
        chosen = None if self._reporting.is_draining else self._engines.choose()
        if self._model is None or self._lanes is None or chosen is None:
            sentence = "the server is shutting down" if self._reporting.is_draining else "no engine is ready"
            self._server.send(peer, refused(generate.request_id, SERVICE_UNAVAILABLE, sentence, None, RETRY_SECONDS))
            self._stats.refused(SERVICE_UNAVAILABLE.code)
            return
        engine, card = chosen
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = self._outboxes[peer] = Outbox(peer)
        job = Job(generate, self._model.limits(card), time.monotonic())
        self._requests[generate.request_id] = Request(job, engine, outbox)
        self._engines.count(engine, 1)
        self._lanes.put(job)

    def _on_prepared(self, job: Job, outcome: Outcome) -> None:
        request = self._requests[job.generate.request_id]
        if isinstance(outcome, Refused):
            self._refuse(request, outcome)
            return
        if isinstance(outcome, Tokenized):
            self._server.send(request.outbox.frontend, outcome.answer)
            self._drop(request)
            return
        submit = outcome.submit
        self._stats.prepared(len(submit.prompt_ids) // 4, time.monotonic() - job.received)
        request.submitted(outcome)
        if submit.grammar is not None:
            self._teach(request.engine)
        self._engines.send(request.engine, submit)
        for abort in request.early_aborts:
            self._abort(abort)

    def _abort(self, abort: Abort) -> None:
        request = self._requests.get(abort.request_id)
        if request is None:
            return
        if abort.choice is not None and not request.is_submitted:
            request.early_aborts.append(abort)
            return
        if request.is_submitted:
            self._engines.send(request.engine, abort)
        if abort.choice is None:
            self._drop(request)
        elif abort.choice < len(request.choices):
            request.end_choice(abort.choice)
            if not request.num_open:
                self._drop(request)

    def _on_frontend_gone(self, peer: str) -> None:
        self._reporting.frontends.pop(peer, None)
        self._outboxes.pop(peer, None)
        for request in [request for request in self._requests.values() if request.outbox.frontend == peer]:
            self._abort(Abort(request.request_id, None, "peer_gone"))

    # --- from below -----------------------------------------------------------------------------------

    def _from_engine(self, engine: str, message: Any) -> None:
        match message:
            case TokenBatch():
                self._translate(engine, message)
            case Accepted():
                self._accepted(message)
            case Refused():
                request = self._requests.get(message.request_id)
                if request is not None:
                    self._refuse(request, message)
            case Report():
                self._teach(engine)
                if self._model is not None and message.card is not None:
                    self._model.tokenizer.texts.grow(message.card.vocab_size)
                self._reporting.publish_if_changed()

    def _teach(self, engine: str) -> None:
        """An engine that is ready gets the vocabulary, once: grammars are matched with it."""
        report = self._engines.report_of(engine)
        if self._model is None or report is None or report.state != "ready":
            return
        if self._taught.get(engine) != report.incarnation:
            self._taught[engine] = report.incarnation
            self._engines.send(engine, Vocabulary(self._model.tokenizer.to_json()))

    def _translate(self, engine: str, batch: TokenBatch) -> None:
        if self._model is None:
            return  # and so no request either
        try:
            translation = translate(batch, self._requests, self._model.tokenizer.texts)
        except Exception:
            logger.exception("a step of %s could not be turned to text; its requests are ended", engine)
            self._end_broken(engine, batch.request_ids)
            return
        for outbox in translation.outboxes:
            self._flush(outbox)
        for abort in translation.aborts:
            self._engines.send(engine, abort)
        for request in translation.ended:
            self._drop(request)
        self._stats.translated(len(batch.token_ids) // 4, len(translation.aborts))

    def _accepted(self, accepted: Accepted) -> None:
        request = self._requests.get(accepted.request_id)
        if request is None:
            return
        request.is_accepted = True
        prompt_ids = request.prompt_ids if request.returns_prompt_ids else b""
        if prompt_ids or request.prompt_text or request.starts_in_reasoning:
            accepted = msgspec.structs.replace(
                accepted,
                prompt_ids=prompt_ids,
                prompt_text=request.prompt_text,
                starts_in_reasoning=request.starts_in_reasoning,
            )
            request.prompt_text = ""
        self._server.send(request.outbox.frontend, accepted)
        if any(request.resumed_texts) or not request.num_open:
            for abort in add_resumed(request):
                self._engines.send(request.engine, abort)
            self._flush(request.outbox)
            if not request.num_open:
                self._drop(request)

    def _on_engine_lost(self, engine: str) -> None:
        """Nothing more will come of what this engine had: end it all now."""
        for request in [request for request in self._requests.values() if request.engine == engine]:
            self._end_early(request, "lost", _LOST)
        self._reporting.publish_if_changed()

    def _end_early(self, request: Request, reason: str, message: str) -> None:
        if not request.is_accepted:
            self._refuse(request, refused(request.request_id, SERVICE_UNAVAILABLE, message, None, RETRY_SECONDS))
            return
        end_request(request, reason, message)
        self._flush(request.outbox)
        self._drop(request)

    def _end_broken(self, engine: str, request_ids: list[int]) -> None:
        """End requests whose rows this service could not handle: a hole in a text is worse than an end."""
        for request in [self._requests[each] for each in set(request_ids) if each in self._requests]:
            self._engines.send(engine, Abort(request.request_id, None, "shutdown"))
            self._end_early(request, "error", "an internal error ended this request; the server's log says why")

    # --- requests end ---------------------------------------------------------------------------------

    def _refuse(self, request: Request, answer: Refused) -> None:
        self._server.send(request.outbox.frontend, answer)
        self._stats.refused(answer.code)
        self._drop(request)

    def _drop(self, request: Request) -> None:
        if request.job is not None:
            request.job.is_cancelled = True
        if self._requests.pop(request.request_id, None) is not None:
            self._engines.count(request.engine, -1)

    def _flush(self, outbox: Outbox) -> None:
        batch = outbox.take()
        if batch is not None:
            self._server.send(outbox.frontend, batch)

    # --- how we are -----------------------------------------------------------------------------------

    def poll(self) -> None:
        """Neighbours and reports; to be called every POLL_SECONDS."""
        self._above.poll()
        self._engines.poll()
        self._reporting.num_requests = len(self._requests)
        self._reporting.poll()
        if self._helper_ahead.is_due(self._reporting.is_ready, len(self._requests), time.monotonic()):
            self._start_helper()

    def _start_helper(self) -> None:
        if self._model is not None:
            self._loop.run_in_executor(None, self._model.template.start_helper)

    # --- the end --------------------------------------------------------------------------------------

    async def drain(self, timeout_seconds: float, hurry: asyncio.Event) -> None:
        """Admit nothing more, let what runs finish until the time is over or `hurry` is set, then end the rest."""
        self._reporting.is_draining = True
        self._reporting.publish()
        deadline = time.monotonic() + timeout_seconds
        while self._requests and time.monotonic() < deadline and not hurry.is_set():
            await asyncio.sleep(0.02)
        for request in list(self._requests.values()):
            if request.is_submitted:
                self._engines.send(request.engine, Abort(request.request_id, None, "shutdown"))
            self._end_early(request, "moved", "the server is shutting down")

    def close(self) -> None:
        self._reader.close()
        if self._lanes is not None:
            self._lanes.close()
        if self._model is not None:
            self._model.template.close()
        self._engines.close()
        self._server.close()
