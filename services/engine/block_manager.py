"""The block manager: which KV blocks are free, who holds the others, and how often.

Blocks are numbers; their contents live on the workers. A free block keeps its contents, and its
place in the prefix cache, until it is taken again, least recently used first.
Knows no requests: callers keep their block tables.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from .prefix_cache import PrefixCache


class BlockManager:
    """`num_blocks` blocks with reference counts and a free list in LRU order."""

    def __init__(self, num_blocks: int, cache: PrefixCache) -> None:
        self.num_blocks = num_blocks
        self.cache = cache
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks that nobody holds, or None and nothing is changed when there are fewer."""
        if count > len(self._free):
            return None
        free, references, forget = self._free, self._references, self.cache.forget
        taken = []
        for _ in range(count):
            block, _ = free.popitem(last=False)
            references[block] = 1
            forget(block)
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Hold blocks once more; a free one (a prefix hit) leaves the free list."""
        references, free = self._references, self._free
        for block in blocks:
            if references[block] == 0:
                del free[block]
            references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Hold blocks once less. The last of a table becomes the first to be taken again."""
        references, free = self._references, self._free
        for block in reversed(blocks):
            references[block] -= 1
            if references[block] == 0:
                free[block] = None

    def num_unheld(self, blocks: Iterable[int]) -> int:
        """How many of these are on the free list: sharing them would use them up."""
        references = self._references
        return sum(references[block] == 0 for block in blocks)

    def must_copy(self, block: int) -> bool:
        """Whether writing to a held block would change what another holder, or a later hit, reads."""
        return self._references[block] > 1 or self.cache.holds(block)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Derive every invariant anew from the holders' block tables. Raises RuntimeError naming the broken one."""
        held = Counter[int]()
        for table in tables:
            if len(set(table)) != len(table):
                raise RuntimeError(f"a block table names a block twice: {list(table)}")
            held.update(table)
        for block in range(self.num_blocks):
            if self._references[block] != held[block]:
                raise RuntimeError(f"block {block}: counted {self._references[block]} holders, found {held[block]}")
            if (block in self._free) != (held[block] == 0):
                raise RuntimeError(f"block {block} has {held[block]} holders and is_free is {block in self._free}")
        self.cache.check(self.num_blocks)
