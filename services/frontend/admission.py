"""The one door of the frontend: how much may be under way, decided before any work is done.

Counted in choices and in bytes of request bodies. A Permit comes back by itself when its request
ends, however it ends; behind the door nothing blocks and nothing is dropped.
Knows nothing of prompts or prices.
"""

from __future__ import annotations

import math
import time
from types import TracebackType

from quire.shared.errors import RATE_LIMIT_EXCEEDED, SERVICE_UNAVAILABLE, ApiError
from quire.shared.messages import ModelCard
from quire.shared.metrics import Metrics

_LEAST_LIMIT = 64
_MAX_RETRY_SECONDS = 60
_RATE_SECONDS = 10.0
"""Over which the drain rate is remembered."""


class Permit:
    """A place behind the door. Use as a context manager."""

    __slots__ = ("_admission", "num_choices", "size_bytes")

    def __init__(self, admission: Admission, num_choices: int, size_bytes: int) -> None:
        self._admission: Admission | None = admission
        self.num_choices = num_choices
        self.size_bytes = size_bytes

    def change(self, card: ModelCard, num_choices: int, size_bytes: int) -> None:
        """Now that the body is read: what it really is. Raises ApiError, with the permit as it was."""
        if self._admission is not None:
            self._admission.change(self, card, num_choices, size_bytes)

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._admission is not None:
            self._admission.leave(self)
            self._admission = None


class Admission:
    """The door. `max_in_flight` None: 4 x max_num_seqs of the served model, at least 64."""

    def __init__(self, max_in_flight: int | None, max_size_bytes: int, metrics: Metrics) -> None:
        self._max_in_flight = max_in_flight
        self._max_size_bytes = max_size_bytes
        self._metrics = metrics
        self._rate = 0.0
        """Choices that leave in a second, of late."""
        self._left = time.monotonic()
        self.num_in_flight = 0
        self.size_bytes = 0
        self.is_draining = False

    def limit(self, card: ModelCard) -> int:
        return self._max_in_flight or max(_LEAST_LIMIT, 4 * card.max_num_seqs)

    def look(self, card: ModelCard | None, waiting_for: str) -> ModelCard:
        """Refuse, before a body is read, what could not enter anyway."""
        if self.is_draining:
            self._count(SERVICE_UNAVAILABLE.code)
            raise ApiError(SERVICE_UNAVAILABLE, "The server is shutting down.", retry_after_seconds=5)
        if card is None:
            self._count(SERVICE_UNAVAILABLE.code)
            message = f"The server is not ready: {waiting_for}."
            raise ApiError(SERVICE_UNAVAILABLE, message, retry_after_seconds=2)
        if self.num_in_flight >= self.limit(card):
            raise self._full(card)
        return card

    def enter(self, card: ModelCard, num_choices: int, size_bytes: int) -> Permit:
        """Take a place. A request larger than a limit may enter only when nobody else is there."""
        permit = Permit(self, 0, 0)
        self.change(permit, card, num_choices, size_bytes)
        return permit

    def change(self, permit: Permit, card: ModelCard, num_choices: int, size_bytes: int) -> None:
        """Make a permit larger or smaller. Raises ApiError, with nothing changed."""
        other_choices = self.num_in_flight - permit.num_choices
        other_bytes = self.size_bytes - permit.size_bytes
        if other_choices and num_choices and other_choices + num_choices > self.limit(card):
            raise self._full(card)
        if other_bytes and other_bytes + size_bytes > self._max_size_bytes:
            raise self._full(card)
        self.num_in_flight = other_choices + num_choices
        self.size_bytes = other_bytes + size_bytes
        permit.num_choices, permit.size_bytes = num_choices, size_bytes

    def leave(self, permit: Permit) -> None:
        self.num_in_flight -= permit.num_choices
        self.size_bytes -= permit.size_bytes
        now = time.monotonic()
        fading = math.exp((self._left - now) / _RATE_SECONDS)
        self._rate = self._rate * fading + permit.num_choices / _RATE_SECONDS
        self._left = now

    @property
    def retry_seconds(self) -> int:
        """When a place should be free: a quarter of those in flight have left, at the rate of late."""
        if self._rate <= 0:
            return 1
        return max(1, min(_MAX_RETRY_SECONDS, math.ceil(self.num_in_flight / 4 / self._rate)))

    def _full(self, card: ModelCard) -> ApiError:
        self._count(RATE_LIMIT_EXCEEDED.code)
        limit = self.limit(card)
        message = f"The server has {self.num_in_flight} answers under way and takes {limit}; please retry later."
        return ApiError(RATE_LIMIT_EXCEEDED, message, retry_after_seconds=self.retry_seconds)

    def _count(self, code: str) -> None:
        self._metrics.counter("quire_admission_rejected_total", code=code).add()
