"""Stored responses over several frontends: who does not have one asks the others, by way of a tokenizer.

A frontend that ends hands what it has stored to one that goes on; one that is killed takes it along.
Knows neither HTTP nor what is asked for: `look_up` and `keep` are the owner's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from quire.shared.errors import KINDS, SERVICE_UNAVAILABLE, ApiError
from quire.shared.messages import Bequest, Finding, Inquiry

from .response_store import StoredResponse
from .tokenizer_client import TokenizerClient

_WAIT_SECONDS = 5.0
"""For the others' answers, which come in milliseconds from a frontend that turns its loop."""


class _Asked(msgspec.Struct):
    inquiries: dict[str, Inquiry]
    """By the frontends that have not answered."""
    answer: asyncio.Future[bytes | None]


class Siblings:
    """`look_up(operation, response_id, key_name)` gives what is here: JSON, or None; it may raise ApiError."""

    def __init__(
        self,
        own_name: str,
        client: TokenizerClient,
        look_up: Callable[[str, str, str], bytes | None],
        keep: Callable[[str, StoredResponse], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._own_name = own_name
        self._client = client
        self._look_up = look_up
        self._keep = keep
        self._loop = loop
        self._num_asked = 0
        self._asked: dict[int, _Asked] = {}
        client.on_letter = self._hear
        client.on_tokenizer_lost = self._send_again

    @property
    def names(self) -> list[str]:
        """The other frontends, those that end included: as long as they are there they have what they stored."""
        return [report.name for report in self._client.known.frontends if report.name != self._own_name]

    @property
    def ready_names(self) -> list[str]:
        """Those that serve and go on."""
        ready = (report.name for report in self._client.known.frontends if report.state == "ready")
        return [name for name in ready if name != self._own_name]

    async def ask(self, operation: str, response_id: str, key_name: str) -> bytes | None:
        """What one of the others has; None: nobody has it. Raises ApiError."""
        self._num_asked += 1
        ticket = self._num_asked
        inquiries = {
            name: Inquiry(name, self._own_name, ticket, operation, response_id, key_name) for name in self.names
        }
        if not inquiries:
            return None
        asked = self._asked[ticket] = _Asked(inquiries, self._loop.create_future())
        try:
            for inquiry in inquiries.values():
                self._client.carry(inquiry)
            return await asyncio.wait_for(asked.answer, _WAIT_SECONDS)
        except asyncio.TimeoutError:
            silent = " and ".join(sorted(asked.inquiries))
            message = f"{silent} may have this response and did not answer in time; please try again."
            raise ApiError(SERVICE_UNAVAILABLE, message, retry_after_seconds=1) from None
        finally:
            del self._asked[ticket]

    def _send_again(self) -> None:
        """What a tokenizer carried that is gone may be lost."""
        for asked in self._asked.values():
            for inquiry in asked.inquiries.values():
                self._client.carry(inquiry)

    def _hear(self, letter: Inquiry | Finding | Bequest) -> None:
        match letter:
            case Inquiry():
                self._client.carry(self._answered(letter))
            case Finding():
                self._found(letter)
            case Bequest(_, response_id, key_name, status, answer, input_items, messages):
                self._keep(response_id, StoredResponse(key_name, status, answer, input_items, messages))

    def _answered(self, inquiry: Inquiry) -> Finding:
        to, ticket = inquiry.sender, inquiry.ticket
        try:
            body = self._look_up(inquiry.operation, inquiry.response_id, inquiry.key_name)
        except ApiError as error:
            return Finding(to, self._own_name, ticket, "refused", b"", error.code, error.message, error.param)
        if body is None:
            return Finding(to, self._own_name, ticket, "absent")
        return Finding(to, self._own_name, ticket, "found", body)

    def _found(self, finding: Finding) -> None:
        asked = self._asked.get(finding.ticket)
        if asked is None or asked.answer.done():
            return
        if finding.outcome == "found":
            asked.answer.set_result(finding.body)
        elif finding.outcome == "refused":
            kind = KINDS.get(finding.code, SERVICE_UNAVAILABLE)
            asked.answer.set_exception(ApiError(kind, finding.message, finding.param))
        else:
            asked.inquiries.pop(finding.sender, None)
            if not asked.inquiries:
                asked.answer.set_result(None)

    def bequeath(self, stored: list[tuple[str, StoredResponse]]) -> None:
        """Hand these to a sibling that is ready, else to one that starts (it may be ready and we do not know yet)."""
        starting = [one.name for one in self._client.known.frontends if one.state == "starting"]
        heir = next((name for name in [*self.ready_names, *starting] if name != self._own_name), None)
        if heir is None:
            return
        for response_id, one in stored:
            letter = Bequest(heir, response_id, one.key_name, one.status, one.answer, one.input_items, one.messages)
            self._client.carry(letter)
