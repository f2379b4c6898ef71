"""Grammars: the token table, the compiled grammars, and the thread that makes both.

The table is made of the tokenizer.json that a tokenizer sends, in the first idle second or when a grammar
first needs it; compiled grammars are kept, the least recently used go first. Nothing of it blocks the loop.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from quire.shared.messages import Grammar, Submit

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from .guide import Guide

logger = logging.getLogger("quire.engine")

MAX_CACHED_BYTES = 64 << 20
_BYTES_OF_A_GRAMMAR = 256 << 10
"""What a small one takes, its lexer's states included; a large one some hundred times its text."""
_BYTES_PER_CHARACTER = 200
_NO_TABLE = "structured outputs are not available with this model's tokenizer"


class GrammarError(ValueError):
    """A grammar that cannot be followed, with a sentence for the client."""

    field: str | None = None
    """Of the request."""


class Facts(Struct, frozen=True):
    """What the workers say of the model."""

    vocab_size: int
    eos_token_ids: tuple[int, ...]


class Table:
    """The tokens as grammars see them, and the grammars compiled for them, the least recently used go first.

    Raises GrammarError. Slow to make for a large vocabulary, and then holds the GIL.
    """

    def __init__(self, tokenizer_json: bytes, facts: Facts) -> None:
        # Imported here: it is needed when the first grammar comes, not when the server starts.
        from llguidance import LLTokenizer

        self.facts = facts
        try:
            self._tokens: LLTokenizer = LLTokenizer(
                tokenizer_json.decode(), n_vocab=facts.vocab_size, eos_token=list(facts.eos_token_ids) or None
            )
        except BaseException as error:  # Rust panics are no Exceptions
            logger.error("no grammar can be followed with this tokenizer: %s", str(error).partition("\n")[0])
            raise GrammarError(_NO_TABLE) from None
        self._bytes: dict[int, bytes] = {}
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()
        self._cached_bytes = 0

    def text_of(self, token: int) -> bytes:
        """The bytes of one token."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._tokens.decode_bytes([token])
        return found

    def compiled(self, grammar: Grammar) -> LLMatcher:
        """Fresh, to be copied. From the cache, or anew with its first mask, which is the costly one."""
        compiled = self._cache.get(grammar.text)
        if compiled is not None:
            self._cache.move_to_end(grammar.text)
            return compiled
        from llguidance import LLMatcher

        compiled = LLMatcher(self._tokens, grammar.text, log_level=0)
        if not compiled.is_error():
            compiled.compute_bitmask()
        if compiled.is_error():
            logger.info("a grammar was refused: %s", compiled.get_error().partition("\n")[0][:200])
            raise GrammarError(f"{grammar.field} cannot be followed with this model's tokens, or is too complex")
        self._cache[grammar.text] = compiled
        self._cached_bytes += _size(grammar.text)
        while self._cached_bytes > MAX_CACHED_BYTES and len(self._cache) > 1:
            oldest, _ = self._cache.popitem(last=False)
            self._cached_bytes -= _size(oldest)
        return compiled


class Guides:
    """The guides of one request's choices: those of its history as far as it goes, all others from the start."""

    def __init__(self, compiled: LLMatcher, grammar: Grammar, table: Table, submit: Submit) -> None:
        self._compiled = compiled
        self._grammar = grammar
        self._table = table
        self.allowed = _bits(submit.sampling.allowed_token_ids)
        """Of the request's own allowed_token_ids: bit i is token i; -1 for all."""
        self._resumed = {
            index: self._replay(history.output_ids)
            for index, history in enumerate(submit.history)
            if not history.is_finished
        }

    def of(self, index: int) -> Guide:
        return self._resumed.pop(index, None) or self._new()

    def _new(self) -> Guide:
        from .guide import Guide

        marker = self._grammar.after.encode()
        return Guide(self._compiled.deep_copy(), self._grammar.field, marker, self._table.text_of)

    def _replay(self, output_ids: bytes) -> Guide:
        guide = self._new()
        for token in memoryview(output_ids).cast("i"):
            guide.advance(token)
        return guide


def _bits(token_ids: list[int] | None) -> int:
    if token_ids is None:
        return -1
    packed = bytearray(max(token_ids) // 8 + 1)
    for token in token_ids:
        packed[token // 8] |= 1 << token % 8
    return int.from_bytes(packed, "little")


class Grammars:
    """`prepare` calls back from its thread, in the order of calls."""

    def __init__(self) -> None:
        self._vocabulary = b""
        self._facts: Facts | None = None
        self._table: Table | None = None
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_building = False

    def learn(self, tokenizer_json: bytes) -> None:
        """The first one counts: all tokenizers of a deployment serve one checkpoint."""
        if not self._vocabulary:
            self._vocabulary = tokenizer_json

    def configure(self, vocab_size: int, eos_token_ids: list[int]) -> None:
        """The workers are ready."""
        self._facts = Facts(vocab_size, tuple(eos_token_ids))

    def build_ahead(self) -> None:
        """Make the table, off the loop, if that is possible and was not done yet."""
        if self._vocabulary and self._facts is not None and self._table is None and not self._is_building:
            self._is_building = True
            self._run(self._build_quietly)

    def prepare(self, submit: Submit, on_done: Callable[[Guides | GrammarError], None]) -> None:
        """The guides of a request that has a grammar; `on_done` is called from another thread."""

        def work() -> None:
            try:
                on_done(self._prepared(submit))
            except GrammarError as error:
                error.field = submit.grammar.field if submit.grammar is not None else None
                on_done(error)
            except BaseException:  # Rust panics are no Exceptions
                logger.exception("a grammar could not be prepared")
                on_done(GrammarError("the grammar could not be prepared; the server's log says why"))

        self._run(work)

    # --- on the thread --------------------------------------------------------------------------------

    def _run(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="grammars", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _build_quietly(self) -> None:
        try:
            self._build()
        except GrammarError:
            self._vocabulary = b""  # the next request with a grammar is told
        finally:
            self._is_building = False

    def _build(self) -> Table:
        table, facts = self._table, self._facts
        if table is None or table.facts != facts:
            if facts is None or not self._vocabulary:
                raise GrammarError(_NO_TABLE)
            table = self._table = Table(self._vocabulary, facts)
        return table

    def _prepared(self, submit: Submit) -> Guides:
        grammar = submit.grammar
        if grammar is None:
            raise GrammarError("the request has no grammar")
        table = self._build()
        return Guides(table.compiled(grammar), grammar, table, submit)


def _size(text: str) -> int:
    """Bytes that a compiled grammar is taken to have."""
    return _BYTES_OF_A_GRAMMAR + _BYTES_PER_CHARACTER * len(text)
