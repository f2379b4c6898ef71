"""The prefix cache: from the hash of a block's tokens, and of all before it, to the block that holds their KV.

Hashes are chained and keyed: (parent hash, the block's token ids as bytes), rooted in the request's
salt, under a key drawn at start, so that a client can neither guess nor collide its way into another's blocks.
Knows no reference counts: the block manager tells it when a block is taken for something new.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b

_DIGEST_BYTES = 16


class PrefixCache:
    """Maps chained block hashes to blocks. A disabled one never holds anything."""

    def __init__(self, block_size: int, is_enabled: bool = True, key: bytes | None = None) -> None:
        self._block_bytes = 4 * block_size
        self._is_enabled = is_enabled
        self._key = key or secrets.token_bytes(16)
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0

    def __len__(self) -> int:
        return len(self._block_of)

    def root(self, salt: str) -> bytes:
        """The parent of a first block."""
        return blake2b(salt.encode(), digest_size=_DIGEST_BYTES, key=self._key).digest()

    def extend(self, hashes: list[bytes], token_ids: bytes | bytearray, num_full_blocks: int) -> None:
        """Grow a chain (root first, then one hash a block) to cover `num_full_blocks` of `token_ids` (int32)."""
        size, key = self._block_bytes, self._key
        for index in range(len(hashes) - 1, num_full_blocks):
            hasher = blake2b(hashes[-1], digest_size=_DIGEST_BYTES, key=key)
            hasher.update(token_ids[index * size : (index + 1) * size])
            hashes.append(hasher.digest())

    def find(self, hashes: list[bytes], max_blocks: int) -> list[int]:
        """The blocks of the longest cached prefix of a chain, at most `max_blocks` of them."""
        if not self._is_enabled:
            return []
        block_of = self._block_of
        found: list[int] = []
        for digest in hashes[1 : max_blocks + 1]:
            block = block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def insert(self, digest: bytes, block: int) -> None:
        """Offer a full block. Kept unless another already holds the same tokens."""
        if self._is_enabled and digest not in self._block_of and block not in self._hash_of:
            self._block_of[digest] = block
            self._hash_of[block] = digest

    def forget(self, block: int) -> None:
        """The block's contents are, or are about to be, something else."""
        digest = self._hash_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]

    def forget_chain(self, hashes: list[bytes]) -> None:
        """No block of these hashes is found any more, whoever holds it."""
        for digest in hashes:
            block = self._block_of.get(digest)
            if block is not None:
                self.forget(block)

    def holds(self, block: int) -> bool:
        return block in self._hash_of

    def check(self, num_blocks: int) -> None:
        """The two maps mirror each other. Raises RuntimeError."""
        if len(self._block_of) != len(self._hash_of):
            raise RuntimeError(f"prefix cache: {len(self._block_of)} hashes, {len(self._hash_of)} blocks")
        for digest, block in self._block_of.items():
            if self._hash_of.get(block) != digest or not 0 <= block < num_blocks:
                raise RuntimeError(f"prefix cache: block {block} does not know its hash")
