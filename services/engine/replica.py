"""The replica: what an engine has while its workers are ready, from the scheduler to the plans in flight.

Made anew whenever the group of workers is; thrown away with its KV cache when one of them is gone.
"""

from __future__ import annotations

from collections import deque

from quire.shared.config import EngineConfig
from quire.shared.messages import GenerationDefaults, ModelCard, Plan, WorkerReady

from .commit import Committer
from .limits import Limits
from .masks import MaskBuilder
from .outbox import Outbox
from .scheduler import Scheduler
from .stats import Stats
from .step import Step


class Replica:
    """The scheduler, its committer, the plans in flight, what the workers said."""

    def __init__(self, facts: WorkerReady, config: EngineConfig, outbox: Outbox, stats: Stats) -> None:
        self.facts = facts
        self.scheduler = Scheduler(
            Limits(
                num_blocks=facts.num_blocks,
                block_size=config.block_size,
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                max_model_len=facts.max_model_len,
                schedule_policy=config.schedule_policy,
                prefix_caching=config.prefix_caching,
            )
        )
        self.committer = Committer(self.scheduler, outbox, stats, frozenset(facts.eos_token_ids))
        self.masks = MaskBuilder(facts.vocab_size)
        self.in_flight: deque[tuple[Plan, Step]] = deque()

    @property
    def card(self) -> ModelCard:
        """What tokenizers need of the model; names, template and defaults are theirs to add."""
        limits = self.scheduler.limits
        return ModelCard(
            names=[],
            root="",
            created=0,
            vocab_size=self.facts.vocab_size,
            max_model_len=limits.max_model_len,
            max_num_seqs=limits.max_num_seqs,
            num_kv_tokens=limits.num_blocks * limits.block_size,
            has_chat_template=False,
            defaults=GenerationDefaults(),
            eos_token_ids=self.facts.eos_token_ids,
        )
