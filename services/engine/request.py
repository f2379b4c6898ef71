"""A request and its choices, as the engine sees them: token ids and counters.

A choice is what is scheduled: it has a number of tokens and a number computed, and steps let the
second catch up with the first. There are no phases.
Knows no text and no device.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from quire.shared.messages import Submit, TokenLogprobs

from .bad_words import BadWords

if TYPE_CHECKING:
    from .grammars import Guides


class Status(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """What one Submit asked for. `choices` grows to n when the prompt of the first is computed."""

    __slots__ = (
        "arrival_monotonic",
        "bad_words",
        "choices",
        "guides",
        "id",
        "is_accepted",
        "num_open",
        "num_prompt_tokens",
        "peer",
        "prompt_logprobs",
        "submit",
    )

    def __init__(self, peer: str, submit: Submit, now: float, guides: Guides | None = None) -> None:
        self.peer = peer
        self.submit = submit
        self.id = submit.request_id
        self.guides = guides
        """Of its grammar, if it has one."""
        self.bad_words = BadWords.of(submit)
        self.num_prompt_tokens = len(submit.prompt_ids) // 4
        self.choices: list[Choice] = []
        self.is_accepted = False
        self.num_open = submit.n
        """Choices that have not finished, forked or not."""
        self.arrival_monotonic = now
        self.prompt_logprobs: dict[int, TokenLogprobs] = {}
        """Of each computed chunk of the prompt, by its first position, until choice 0 has its first token."""


class Choice:
    """One of the n answers of a request, and the unit of scheduling."""

    __slots__ = (
        "blocks",
        "first_token_at",
        "guide",
        "has_hits",
        "hashes",
        "ids",
        "index",
        "is_masked",
        "key",
        "limit",
        "num_announced_blocks",
        "num_cached_tokens",
        "num_computed",
        "num_hashed",
        "num_in_vain",
        "num_known",
        "num_preemptions",
        "num_skips",
        "num_tokens",
        "request",
        "scheduled_at",
        "seed",
        "slot",
        "started",
        "status",
        "stop_ids",
        "token_at",
        "trusts_cache",
        "will_fork",
    )

    def __init__(
        self, request: Request, index: int, key: tuple[float, ...], root: bytes, output_ids: bytes = b""
    ) -> None:
        submit = request.submit
        self.request = request
        self.index = index
        self.guide = request.guides.of(index) if request.guides is not None else None
        """How far it has come in its grammar; survives a preemption, since the outputs do."""
        self.is_masked = self.guide is not None or request.bad_words is not None
        """Whether its plans may await masks."""
        self.will_fork = index == 0 and submit.n > 1 and not submit.history
        """Whether the other choices of its request are made once its prompt is computed."""
        self.stop_ids: frozenset[int] = frozenset()
        """Tokens that end it; see stopping.py. Known from its first token on."""
        self.key = key
        """Order of precedence; smaller goes first."""
        self.seed = (submit.sampling.seed + index) & (2**64 - 1)
        self.ids = bytearray(submit.prompt_ids + output_ids)
        """int32: prompt and known outputs."""
        self.num_known = len(self.ids) // 4
        """Tokens whose ids are known here: prompt and committed outputs."""
        self.num_tokens = self.num_known
        """Prompt, known outputs, and tokens that plans in flight will sample."""
        self.limit = request.num_prompt_tokens + max(1, submit.sampling.max_tokens or 0)
        """The number of tokens at which there is nothing more to sample."""
        self.num_computed = 0
        """Tokens whose KV is in the cache once the plans sent so far have run."""
        self.blocks: list[int] = []
        self.num_announced_blocks = 0
        """How many of `blocks` the workers have been told of."""
        self.hashes = [root]
        """Chain of block hashes over `ids`, as far as it was needed (see PrefixCache.extend)."""
        self.num_hashed = 0
        """Full blocks already offered to the prefix cache."""
        self.slot = -1
        self.status = Status.WAITING
        self.num_preemptions = 0
        self.num_skips = 0
        """How often a younger choice was admitted before this one because this one did not fit."""
        self.num_cached_tokens = 0
        self.has_hits = False
        """Whether it reads blocks that other requests computed."""
        self.trusts_cache = True
        """False once such blocks may have been what spoilt it: it computes all of its own from then on."""
        self.num_in_vain = 0
        """Of the tokens in flight, those that are to be passed over when they come."""
        self.scheduled_at = 0.0
        self.first_token_at = 0.0
        self.token_at = 0.0
        """Monotonic time of the last token; 0 before the first."""
        self.started = False
        """Whether the tokenizer has been told of the first tokens."""

    @property
    def num_outputs(self) -> int:
        return self.num_known - self.request.num_prompt_tokens

    @property
    def num_in_flight(self) -> int:
        """Tokens that plans in flight will sample."""
        return self.num_tokens - self.num_known
