"""The frontend's side of the link to the tokenizers: requests down, deltas up into mailboxes.

Each prompt is one Generate, held here as a Record until its last choice has ended; it sticks to the
tokenizer it was sent to. An attempt that is lost, wherever, comes to one place (`_lost`), and goes on
from there. Knows text and token counts, and nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable

import msgspec

from quire.shared.config import FrontendConfig
from quire.shared.errors import SERVICE_UNAVAILABLE, ApiError
from quire.shared.link import Client, Reader
from quire.shared.messages import (
    Abort,
    Accepted,
    Bequest,
    Finding,
    Generate,
    Inquiry,
    ModelCard,
    Refused,
    Report,
    RequestId,
    TextBatch,
    ToFrontend,
)
from quire.shared.metrics import Metrics
from quire.shared.neighbours import Below
from quire.shared.request_ids import RequestIds
from quire.shared.service import Service

from .known_services import KnownServices, card_in
from .mailbox import Mailbox
from .record import Record, new_record
from .resuming import Resuming, submittable
from .text_batches import TextBatches

logger = logging.getLogger("quire.frontend")

_RETRY_SECONDS = 2.0
ABORT_CAUSES = ("client_gone", "slow_reader", "queue_timeout", "cancelled", "shutdown")
RESUMED_CAUSES = ("tokenizer", "lost", "moved", "unavailable")


class _Tokenizer(msgspec.Struct):
    client: Client[ToFrontend]
    reader: Reader
    report: Report | None = None
    num_in_flight: int = 0
    """Choices."""


class TokenizerClient:
    """All tokenizers that are there, and every request sent to one of them."""

    def __init__(self, service: Service[FrontendConfig], metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self.known = KnownServices()
        self.known.ledger.is_complete = service.config.parent_pid is None  # nobody will tell of what was before
        self._loop = loop
        self._metrics = metrics
        self._recovery_time = metrics.histogram("quire_recovery_seconds")
        for cause in RESUMED_CAUSES:  # so that the first is seen as an increase
            metrics.counter("quire_streams_resumed_total", cause=cause)
        for cause in ABORT_CAUSES:
            metrics.counter("quire_aborts_total", cause=cause)
        self._service = service
        self._records: dict[RequestId, Record] = {}
        """By the id of the present attempt."""
        self._parked: dict[RequestId, Record] = {}
        """Those of the records that wait to be submitted again, in the order of their loss."""
        self._batches = TextBatches(self._records, self._end_choice, self._lost, loop)
        self._resuming = Resuming(service.config.resume, service.config.resume_timeout)
        self._ids = RequestIds()
        self._tokenizers: dict[str, _Tokenizer] = {}
        self._num_wanting_ids = 0
        self._remote = set(service.config.tokenizer_address)
        self.on_letter: Callable[[Inquiry | Finding | Bequest], None] | None = None
        """Gets what siblings write."""
        self.on_tokenizer_lost: Callable[[], None] | None = None
        self._below: Below[ToFrontend] = Below(
            service, "tokenizer", ToFrontend, self._on_appear, self._on_vanish, service.config.tokenizer_address
        )

    # --- who is there

    @property
    def ready_names(self) -> list[str]:
        found = ((name, one.report) for name, one in self._tokenizers.items())
        return [name for name, report in found if report is not None and report.state == "ready"]

    @property
    def card(self) -> ModelCard | None:
        """Of the served model, once a tokenizer is ready."""
        for name in self.ready_names:
            report = self._tokenizers[name].report
            if report is not None and (card := card_in(report)) is not None:
                return card
        return None

    @property
    def num_in_flight(self) -> int:
        return sum(record.num_open for record in self._records.values())

    def poll(self) -> None:
        """Every 100 ms: dial who has appeared, go on with what was lost with whom."""
        self._below.poll()
        if self._parked:
            self._submit_parked()

    def carry(self, letter: Inquiry | Finding | Bequest) -> None:
        """Have a tokenizer hand it to a sibling; without one it is lost, as it may be on the way."""
        if (name := self._least_loaded()) is not None:
            self._tokenizers[name].client.send(letter)

    def publish(self, report: Report) -> None:
        """Send our report down, so that sibling frontends can show it."""
        for one in self._tokenizers.values():
            one.client.send(report)

    def close(self) -> None:
        for one in self._tokenizers.values():
            one.reader.close()
        self._below.close()

    def _on_appear(self, name: str, client: Client[ToFrontend]) -> None:
        reader = Reader(client, functools.partial(self._receive, name), self._loop)
        self._tokenizers[name] = _Tokenizer(client, reader)

    def _on_vanish(self, name: str) -> None:
        one = self._tokenizers[name]
        if name in self._remote:
            one.report = None  # its link stays, and so does our reader: it may be heard again
        else:
            one.reader.close()
            del self._tokenizers[name]
        self.known.forget(name)
        for record in [record for record in self._records.values() if record.tokenizer == name]:
            self._lost(record, "tokenizer")
        if self.on_tokenizer_lost is not None:
            self.on_tokenizer_lost()

    # --- what was lost

    def _lost(self, record: Record, cause: str) -> None:
        """An attempt has come to nothing (see Resuming.lost for why): it is made again, or the record ends."""
        failure = self._resuming.lost(record, cause, self._loop.time())
        if failure is not None:
            self._forget(record)
            record.mailbox.fail(failure)
            return
        self._metrics.counter("quire_streams_resumed_total", cause=cause).add()
        self._leave_tokenizer(record)
        del self._records[record.request_id]
        # What may still come of the old attempt is of an id that nobody knows.
        record.request_id = self._ids.next()
        self._records[record.request_id] = self._parked[record.request_id] = record
        if cause in ("tokenizer", "moved"):
            self._submit_parked()

    def _submit_parked(self) -> None:
        """Submit again what can be, end what has waited too long."""
        now = self._loop.time()
        for record in list(self._parked.values()):
            if (failure := self._resuming.expired(record, now)) is not None:
                self._forget(record)
                record.mailbox.fail(failure)
        under_way = (record for record in self._records.values() if record.tokenizer)
        for record in submittable(self._parked.values(), under_way) if self._parked else ():
            if (name := self._least_loaded()) is None:
                return
            del self._parked[record.request_id]
            self._send(record, name)

    def _leave_tokenizer(self, record: Record) -> None:
        if (one := self._tokenizers.get(record.tokenizer)) is not None:
            one.num_in_flight -= record.num_open
        record.tokenizer = ""

    # --- requests down

    def submit(self, generates: list[Generate], mailbox: Mailbox, may_wait: bool = False) -> list[Record]:
        """Send the prompts of one HTTP request to the ready tokenizer with the fewest in flight.

        Without one: raises ApiError, or with `may_wait` (it goes on with an answer) waits as what was lost does.
        """
        name = self._least_loaded()
        if name is None and not may_wait:
            message = "No tokenizer is ready."
            raise ApiError(SERVICE_UNAVAILABLE, message, retry_after_seconds=_RETRY_SECONDS)
        records = [new_record(generate, mailbox, position) for position, generate in enumerate(generates)]
        for record in records:
            self._records[record.request_id] = record
            self._num_wanting_ids += record.generate.text.return_prompt_ids
            if name is not None:
                self._send(record, name)
            else:
                self._lost(record, "unavailable")
        return records

    def _least_loaded(self) -> str | None:
        """The ready tokenizer with the fewest choices of ours."""
        ready = self.ready_names
        return min(ready, key=lambda name: self._tokenizers[name].num_in_flight) if ready else None

    def _send(self, record: Record, name: str) -> None:
        one = self._tokenizers[name]
        record.tokenizer = name
        one.num_in_flight += record.num_open
        one.client.send(record.attempt())

    def abort(self, records: list[Record], cause: str) -> None:
        """End those that have not ended; their late rows are ignored."""
        is_counted = False
        for record in records:
            if self._records.get(record.request_id) is not record:
                continue
            if (one := self._tokenizers.get(record.tokenizer)) is not None:
                one.client.send(Abort(record.request_id, None, cause))
            self._forget(record)
            if not is_counted:
                self._metrics.counter("quire_aborts_total", cause=cause).add()
                is_counted = True

    def is_parked(self, records: list[Record]) -> bool:
        """Whether one of them waits for something that was lost to come back."""
        return any(record.request_id in self._parked for record in records)

    def fail_all(self, error: ApiError, cause: str) -> None:
        """End everything under way, as at a shutdown."""
        for record in list(self._records.values()):
            self.abort([record], cause)
            record.mailbox.fail(error)

    def _forget(self, record: Record) -> None:
        if self._records.pop(record.request_id, None) is None:
            return
        self._parked.pop(record.request_id, None)
        self._num_wanting_ids -= record.generate.text.return_prompt_ids
        self._leave_tokenizer(record)
        record.num_open = 0

    # --- deltas up

    def _receive(self, name: str, message: ToFrontend) -> None:
        match message:
            case TextBatch():
                is_plain = not (message.started or message.finished or message.logprobs or message.prompt_logprobs)
                if is_plain and not self._num_wanting_ids:
                    self._batches.deliver_plain(message)
                else:
                    self._batches.deliver(message)
            case Accepted():
                if (record := self._records.get(message.request_id)) is not None:
                    if record.parked_since:
                        self._recovery_time.observe(self._loop.time() - record.parked_since)
                    record.is_accepted, record.parked_since = True, 0.0
                    record.mailbox.accept(record.position, message)
                    if record.generate.text.only_tokenizes:
                        self._forget(record)
            case Refused():
                if (record := self._records.get(message.request_id)) is None:
                    pass
                elif message.code == SERVICE_UNAVAILABLE.code:
                    self._lost(record, "unavailable")
                else:
                    self._forget(record)
                    record.mailbox.fail(ApiError.from_refused(message))
            case Report():
                self._below.hear(name, message)
                if (one := self._tokenizers.get(name)) is not None:
                    one.report = message
                self.known.hear(message)
                if self._parked:
                    self._submit_parked()
            case Inquiry() | Finding() | Bequest():
                if self.on_letter is not None:
                    self.on_letter(message)

    def _end_choice(self, record: Record, choice: int) -> None:
        if record.num_open == 1:
            self._forget(record)
            return
        record.end_choice(choice)
        if (one := self._tokenizers.get(record.tokenizer)) is not None:
            one.num_in_flight -= 1
