"""The one door of the frontend: how much may be under way, decided before any work is done.

Counted in choices, in prompt tokens that wait to run, and in bytes of request bodies, over all callers and
by API key. A Permit comes back by itself when its request ends, however it ends; behind the door nothing
blocks and nothing is dropped. Tokens are an estimate until the tokenizer knows them. Knows no prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import msgspec

from quire.shared.config import FrontendConfig
from quire.shared.errors import (
    RATE_LIMIT_EXCEEDED,
    SERVER_OVERLOADED,
    SERVICE_UNAVAILABLE,
    ApiError,
    ErrorKind,
)
from quire.shared.messages import ModelCard
from quire.shared.metrics import Counter, Metrics

from .drain_rate import DrainRate

_LEAST_LIMIT = 64
_KV_FACTOR = 8
"""Prompt tokens that may wait, in KV caches full."""
_BYTES_OF_TOKEN = 4
"""Of JSON, for each token of a prompt: English text, or a token id with its comma."""
_QUARTER = 0.25
"""Of what is held: those who are refused together shall not all come back for the first free place."""


class Held(msgspec.Struct, frozen=True):
    """What a request holds, or wants to."""

    num_choices: int = 0
    num_tokens: int = 0
    """Prompt tokens that have not begun to run."""
    size_bytes: int = 0


class _Sum:
    """What is held, by everyone or by one key."""

    __slots__ = ("num_choices", "num_tokens")

    def __init__(self) -> None:
        self.num_choices = 0
        self.num_tokens = 0

    def change(self, before: Held, after: Held) -> None:
        self.num_choices += after.num_choices - before.num_choices
        self.num_tokens += after.num_tokens - before.num_tokens


class Permit:
    """A place behind the door. Use as a context manager."""

    __slots__ = ("_admission", "held", "key")

    def __init__(self, admission: Admission, key: str) -> None:
        self._admission: Admission | None = admission
        self.key = key
        self.held = Held()

    def change(self, card: ModelCard, held: Held) -> None:
        """Now that the body is read: what it really is. Raises ApiError, with the permit as it was."""
        if self._admission is not None:
            self._admission.change(self, card, held)

    def count_tokens(self, num_tokens: int) -> None:
        """The tokenizer knows: so many wait. Nothing is refused any more."""
        if self._admission is not None:
            self._admission.settle(self, msgspec.structs.replace(self.held, num_tokens=num_tokens))

    def begin(self, num_tokens: int) -> None:
        """So many of the tokens have begun to run."""
        left = max(0, self.held.num_tokens - num_tokens)
        if self._admission is not None:
            self._admission.begin(num_tokens)
            self._admission.settle(self, msgspec.structs.replace(self.held, num_tokens=left))

    def __enter__(self) -> Permit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Before an answer's last bytes go out: who has them may come again at once."""
        if self._admission is not None:
            self._admission.leave(self)
            self._admission = None


class Admission:
    """The door. What the config leaves open follows from the served model."""

    def __init__(self, config: FrontendConfig, metrics: Metrics) -> None:
        self._config = config
        self._choices_rate = DrainRate()
        self._tokens_rate = DrainRate()
        self._sum = _Sum()
        self._by_key: dict[str, _Sum] = {}
        kinds = (RATE_LIMIT_EXCEEDED, SERVER_OVERLOADED, SERVICE_UNAVAILABLE)
        self._counters = {kind.code: _counters(metrics, kind) for kind in kinds}
        self.size_bytes = 0
        self.is_draining = False

    @property
    def num_in_flight(self) -> int:
        """Choices."""
        return self._sum.num_choices

    @property
    def num_waiting_tokens(self) -> int:
        return self._sum.num_tokens

    @property
    def num_keys(self) -> int:
        """Keys that hold something."""
        return len(self._by_key)

    def limit(self, card: ModelCard) -> int:
        """Choices at once."""
        return self._config.max_in_flight or max(_LEAST_LIMIT, 4 * card.max_num_seqs)

    def token_limit(self, card: ModelCard) -> int:
        """Prompt tokens that may wait."""
        return self._config.max_waiting_tokens or _KV_FACTOR * card.num_kv_tokens

    def look(self, card: ModelCard | None, waiting_for: Callable[[], str]) -> ModelCard:
        """Refuse, before a body is read, what could not enter anyway. `waiting_for`: what the server waits for."""
        if self.is_draining:
            raise self._refusal(SERVICE_UNAVAILABLE, "The server is shutting down.", 5)
        if card is None:
            raise self._refusal(SERVICE_UNAVAILABLE, f"The server is not ready: {waiting_for()}.", 2)
        return card

    def enter(self, card: ModelCard, key: str, held: Held) -> Permit:
        """Take a place. A request larger than a limit may enter only when nobody else is there."""
        permit = Permit(self, key)
        self.change(permit, card, held)
        return permit

    def check(self, card: ModelCard, key: str, held: Held) -> None:
        """Raise what `enter` would raise now; no place is taken."""
        permit = Permit(self, key)
        self._check_server(permit.held, held, card)
        self._check_key(permit, held)

    def unread(self, card: ModelCard, declared_size: int | None) -> Held:
        """What a request holds whose body is not read yet."""
        size = declared_size or self._config.max_body_size
        return Held(1, tokens_in(declared_size or 0, 1, card), size)

    def change(self, permit: Permit, card: ModelCard, held: Held) -> None:
        """Make a permit larger or smaller. Raises ApiError, with nothing changed."""
        self._check_server(permit.held, held, card)
        self._check_key(permit, held)
        self.settle(permit, held)

    def _check_server(self, before: Held, held: Held, card: ModelCard) -> None:
        others, limit = self._sum.num_choices - before.num_choices, self.limit(card)
        if others and held.num_choices and others + held.num_choices > limit:
            what = f"The server has {others} answers under way and takes {limit} (--max-in-flight)"
            raise self._full(RATE_LIMIT_EXCEEDED, what, self.retry_seconds(others + held.num_choices - limit))
        others, limit = self._sum.num_tokens - before.num_tokens, self.token_limit(card)
        if others and held.num_tokens and others + held.num_tokens > limit:
            what = f"{others} prompt tokens wait and {limit} may (--max-waiting-tokens)"
            seconds = self._tokens_rate.retry_seconds(others + held.num_tokens - limit, time.monotonic())
            raise self._full(SERVER_OVERLOADED, what, seconds)
        others, limit = self.size_bytes - before.size_bytes, self._config.max_in_flight_size
        if others and others + held.size_bytes > limit:
            what = f"The server holds {others} bytes of requests and takes {limit} (--max-in-flight-size)"
            raise self._full(SERVER_OVERLOADED, what, self.retry_seconds())

    def _check_key(self, permit: Permit, held: Held) -> None:
        of_key, before = self._by_key.get(permit.key), permit.held
        if of_key is None:
            return
        others, limit = of_key.num_choices - before.num_choices, self._config.max_in_flight_per_key
        if limit and others and others + held.num_choices > limit:
            what = f"This API key has {others} answers under way and may have {limit} (--max-in-flight-per-key)"
            raise self._full(RATE_LIMIT_EXCEEDED, what, self.retry_seconds(others + held.num_choices - limit))
        others, limit = of_key.num_tokens - before.num_tokens, self._config.max_waiting_tokens_per_key
        if limit and others and others + held.num_tokens > limit:
            what = f"{others} prompt tokens of this API key wait and {limit} may (--max-waiting-tokens-per-key)"
            seconds = self._tokens_rate.retry_seconds(others + held.num_tokens - limit, time.monotonic())
            raise self._full(RATE_LIMIT_EXCEEDED, what, seconds)

    def settle(self, permit: Permit, held: Held) -> None:
        """Note what a permit holds from now on."""
        before, permit.held = permit.held, held
        now = time.monotonic()
        if held.num_choices and not self._sum.num_choices:
            self._choices_rate.start(now)
        if held.num_tokens and not self._sum.num_tokens:
            self._tokens_rate.start(now)
        self._sum.change(before, held)
        self.size_bytes += held.size_bytes - before.size_bytes
        of_key = self._by_key.setdefault(permit.key, _Sum())
        of_key.change(before, held)
        if not of_key.num_choices and not of_key.num_tokens:
            del self._by_key[permit.key]

    def begin(self, num_tokens: int) -> None:
        self._tokens_rate.leave(num_tokens, time.monotonic())

    def leave(self, permit: Permit) -> None:
        self._choices_rate.leave(permit.held.num_choices, time.monotonic())
        self.settle(permit, Held())

    def retry_seconds(self, num_places: int = 1) -> int:
        """When places should be free, at the rate at which answers end of late."""
        wanted = max(num_places, self._sum.num_choices * _QUARTER)
        return self._choices_rate.retry_seconds(wanted, time.monotonic())

    def _full(self, kind: ErrorKind, what: str, seconds: int) -> ApiError:
        return self._refusal(kind, f"{what}; please retry in {seconds} s.", seconds)

    def _refusal(self, kind: ErrorKind, message: str, seconds: int) -> ApiError:
        for counter in self._counters[kind.code]:
            counter.add()
        return ApiError(kind, message, retry_after_seconds=seconds)


def _counters(metrics: Metrics, kind: ErrorKind) -> tuple[Counter, Counter]:
    """Ours, and the one that dashboards made for vLLM look for."""
    return (
        metrics.counter("quire_admission_rejected_total", code=kind.code),
        metrics.counter("vllm:admission_rejections_total", reason=kind.code),
    )


def tokens_in(size_bytes: int, num_prompts: int, card: ModelCard) -> int:
    """About how many prompt tokens a body of that size has; what is too long for the model is refused later."""
    return min(size_bytes // _BYTES_OF_TOKEN, num_prompts * card.max_model_len)
