"""Tests of blocks and prefix cache on their own."""

from __future__ import annotations

import pytest
from engine_under_test import ids_bytes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quire.services.engine.block_manager import BlockManager
from quire.services.engine.prefix_cache import PrefixCache


def make(num_blocks: int = 4, is_enabled: bool = True) -> BlockManager:
    return BlockManager(num_blocks, PrefixCache(2, is_enabled))


def chain(cache: PrefixCache, ids, salt: str = "") -> list[bytes]:
    hashes = [cache.root(salt)]
    cache.extend(hashes, ids_bytes(ids), len(ids) // 2)
    return hashes


def test_taking_more_than_is_free_takes_nothing():
    blocks = make(4)
    assert blocks.take(5) is None
    assert blocks.num_free == 4


def test_the_tail_of_a_released_table_is_taken_first():
    blocks = make(4)
    table = blocks.take(4)
    assert table is not None
    blocks.release(table)
    assert blocks.take(2) == [table[3], table[2]]


def test_a_taken_block_is_forgotten_by_the_cache():
    blocks = make(2)
    (first,) = blocks.take(1) or []
    hashes = chain(blocks.cache, [5, 6])
    blocks.cache.insert(hashes[1], first)
    blocks.release([first])
    assert blocks.cache.find(hashes, 1) == [first]
    blocks.take(2)
    assert blocks.cache.find(hashes, 1) == []


def test_a_hit_block_leaves_the_free_list_and_must_be_copied_before_a_write():
    blocks = make(2)
    (first,) = blocks.take(1) or []
    blocks.cache.insert(chain(blocks.cache, [5, 6])[1], first)
    blocks.release([first])
    assert blocks.num_unheld([first]) == 1
    blocks.share([first])
    assert blocks.num_free == 1 and blocks.must_copy(first)
    blocks.check([[first]])


def test_a_prefix_is_found_only_as_far_as_it_is_whole():
    blocks = make(4)
    table = blocks.take(3) or []
    hashes = chain(blocks.cache, [1, 2, 3, 4, 5, 6])
    for digest, block in zip(hashes[1:], table, strict=True):
        blocks.cache.insert(digest, block)
    assert blocks.cache.find(hashes, 3) == table
    assert blocks.cache.find(hashes, 2) == table[:2]
    assert blocks.cache.find(chain(blocks.cache, [1, 2, 9, 9, 5, 6]), 3) == table[:1]
    blocks.cache.forget(table[0])
    assert blocks.cache.find(hashes, 3) == []


def test_equal_tokens_after_different_ones_have_different_hashes():
    cache = PrefixCache(2)
    assert chain(cache, [1, 2, 3, 4])[2] != chain(cache, [9, 9, 3, 4])[2]
    assert chain(cache, [1, 2])[1] != chain(cache, [1, 2], salt="other")[1]
    assert chain(PrefixCache(2), [1, 2])[1] != chain(PrefixCache(2), [1, 2])[1], "the key is drawn at start"


def test_check_names_what_is_broken():
    blocks = make(2)
    table = blocks.take(1) or []
    with pytest.raises(RuntimeError, match="counted 1 holders, found 0"):
        blocks.check([])
    with pytest.raises(RuntimeError, match="twice"):
        blocks.check([table + table])


class Tables(RuleBasedStateMachine):
    """Random takes, shares and releases against `check`, which derives everything anew."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = make(12)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, 6))
    def take(self, count: int) -> None:
        free = self.blocks.num_free
        taken = self.blocks.take(count)
        assert (taken is None) == (count > free)
        if taken is not None:
            self.tables.append(taken)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.blocks.share(table)
        self.tables.append(list(table))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.blocks.release(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), token=st.integers(0, 3))
    def cache(self, data: st.DataObject, token: int) -> None:
        table = data.draw(st.sampled_from(self.tables))
        for digest, block in zip(chain(self.blocks.cache, [token] * 2 * len(table))[1:], table, strict=True):
            self.blocks.cache.insert(digest, block)

    @invariant()
    def everything_holds(self) -> None:
        self.blocks.check(self.tables)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
