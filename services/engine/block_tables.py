"""The block tables of choices: which blocks each holds, shares with forks, and finds in the prefix cache.

Asked by the scheduler, which decides who gets blocks and when. Knows no queues, slots or budgets.
"""

from __future__ import annotations

from .block_manager import BlockManager
from .limits import Limits
from .policy import MAX_PREEMPTIONS
from .prefix_cache import PrefixCache
from .request import Choice


class BlockTables:
    """Changes `choice.blocks`, and what is known of them: computed, hashed and announced."""

    def __init__(self, limits: Limits, blocks: BlockManager, cache: PrefixCache) -> None:
        self._limits = limits
        self._blocks = blocks
        self._cache = cache

    def fill(self, choice: Choice, num_running: int) -> bool:
        """Blocks for all known tokens of a waiting choice, cached ones first; False when they do not fit."""
        block_size = self._limits.block_size
        hits = self._find_hits(choice)
        last = choice.limit if choice.num_preemptions >= MAX_PREEMPTIONS else choice.num_tokens
        num_wanted = -(-last // block_size) - len(hits)
        spare = min(num_running, self._limits.num_blocks // 64)  # lest the next steps preempt it again
        if num_wanted + spare > self._blocks.num_free - self._blocks.num_unheld(hits):
            return False
        self._blocks.share(hits)
        taken = self._blocks.take(num_wanted)
        if taken is None:
            raise RuntimeError("the block manager counted free blocks that it does not have")
        choice.blocks = hits + taken
        choice.num_hashed = len(hits)
        choice.has_hits = bool(hits)
        choice.num_computed = len(hits) * block_size
        if not choice.started:
            choice.num_cached_tokens = choice.num_computed
            self._cache.num_queried_tokens += choice.num_tokens
            self._cache.num_hit_tokens += choice.num_computed
        return True

    def grow(self, choice: Choice) -> bool:
        """One block more; False when none is free."""
        taken = self._blocks.take(1)
        if taken is None:
            return False
        choice.blocks += taken
        return True

    def release(self, choice: Choice) -> None:
        """It holds nothing any more, and nothing of it counts as computed."""
        self._blocks.release(choice.blocks)
        choice.blocks = []
        choice.num_announced_blocks = choice.num_hashed = choice.num_computed = 0

    # --- what others have computed --------------------------------------------------------------------

    def _find_hits(self, choice: Choice) -> list[int]:
        """Cached blocks of the choice's tokens, all but the last of which may come from the cache."""
        if not self._limits.prefix_caching or not choice.trusts_cache:
            return []
        if choice.request.submit.sampling.prompt_logprobs is not None:
            return []  # they need the logits of every position
        max_blocks = (choice.num_tokens - 1) // self._limits.block_size
        self._cache.extend(choice.hashes, choice.ids, max_blocks)
        return self._cache.find(choice.hashes, max_blocks)

    def adopt(self, choice: Choice) -> int:
        """Take over what others have computed of a running choice's prompt since it was admitted; returns its tokens.

        Of requests with one long prefix that come together the first is computed in chunks, and the next may
        be ahead of it. After it the workers are to be told of the row anew.
        """
        block_size = self._limits.block_size
        first = choice.num_computed // block_size
        hits = self._find_hits(choice) if choice.num_computed % block_size == 0 else []
        if len(hits) <= first:
            return 0
        self._blocks.share(hits[first:])
        self._blocks.release(choice.blocks[first : len(hits)])
        choice.blocks[first : len(hits)] = hits[first:]
        choice.num_hashed = len(hits)
        choice.has_hits = True
        num_adopted = (len(hits) - first) * block_size
        choice.num_computed += num_adopted
        self._cache.num_hit_tokens += num_adopted
        if not choice.started:
            choice.num_cached_tokens += num_adopted
        choice.num_announced_blocks = 0
        return num_adopted

    def offer(self, choice: Choice) -> None:
        """Offer the choice's full blocks to the prefix cache: their tokens known, their KV planned.

        Planned is enough: workers run plans in order, and within a step write all KV of a layer before
        any row reads it.
        """
        num_full = min(choice.num_computed, choice.num_known) // self._limits.block_size
        if num_full <= choice.num_hashed or not self._limits.prefix_caching:
            return
        self._cache.extend(choice.hashes, choice.ids, num_full)
        for index in range(choice.num_hashed, num_full):
            self._cache.insert(choice.hashes[index + 1], choice.blocks[index])
        choice.num_hashed = num_full

    def distrust(self, choice: Choice) -> None:
        """What a choice computed is not to be relied on: no block of its tokens stays in the prefix cache.

        By their hashes: it may hold none of them any more (preempted, with its last step under way).
        """
        self._cache.forget_chain(choice.hashes)

    # --- forks ----------------------------------------------------------------------------------------

    def share_prompt(self, first: Choice, fork: Choice) -> None:
        """A fork of a choice whose prompt is computed starts with its blocks, and recomputes the last prompt token."""
        num_prompt = first.request.num_prompt_tokens
        fork.blocks = first.blocks[: -(-num_prompt // self._limits.block_size)]
        self._blocks.share(fork.blocks)
        fork.num_computed = num_prompt - 1
        fork.num_hashed = fork.num_computed // self._limits.block_size
        fork.hashes = first.hashes[: fork.num_hashed + 1]
        fork.num_cached_tokens = first.num_cached_tokens
        fork.has_hits = first.has_hits

    def own_tail(self, choice: Choice, copies: list[tuple[int, int]]) -> bool:
        """Copy on write: the block that a fork's next token goes to becomes its own; False when none is free."""
        tail = choice.num_computed // self._limits.block_size
        shared = choice.blocks[tail]
        if not self._blocks.must_copy(shared):
            return True
        taken = self._blocks.take(1)
        if taken is None:
            return False
        choice.blocks[tail] = taken[0]
        copies.append((shared, taken[0]))
        self._blocks.release([shared])
        return True
