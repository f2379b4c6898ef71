"""The keys of the prefix cache: nobody outside of one engine's life can say what they are."""

from __future__ import annotations

from engine_under_test import ids_bytes

from quire.services.engine.prefix_cache import PrefixCache


def chain(cache: PrefixCache, salt: str = "") -> list[bytes]:
    """Of two full blocks."""
    hashes = [cache.root(salt)]
    cache.extend(hashes, ids_bytes(range(8)), 2)
    return hashes


def test_each_start_has_a_key_of_its_own() -> None:
    one, other = chain(PrefixCache(4)), chain(PrefixCache(4))
    assert not set(one) & set(other)


def test_under_one_key_the_same_tokens_and_salt_and_only_those_have_the_same_hashes() -> None:
    one, other = (PrefixCache(4, key=b"k" * 16) for _ in range(2))
    assert chain(one) == chain(other)
    assert not set(chain(one, "a")) & set(chain(one, "b"))
    longer = chain(one)
    one.extend(longer, ids_bytes([*range(8), 1, 2, 3, 4]), 3)
    assert longer[:3] == chain(one)


def test_a_forgotten_chain_is_found_by_nobody() -> None:
    cache = PrefixCache(4)
    hashes = chain(cache)
    cache.insert(hashes[1], 5)
    cache.insert(hashes[2], 6)
    assert cache.find(hashes, 2) == [5, 6]
    cache.forget_chain([*hashes, b"unknown"])
    assert cache.find(hashes, 2) == [] and not len(cache) and not cache.holds(5)
    cache.check(8)
