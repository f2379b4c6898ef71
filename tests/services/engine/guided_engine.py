"""An engine under test whose requests have grammars: fake rows draw any token that the masks allow."""

from __future__ import annotations

import functools

import msgspec
from engine_under_test import PEER
from masked_engine import MaskedEngine

from quire.services.engine.grammars import Facts, Grammars, Guides, Table
from quire.services.tokenizer.constraints import Constraints
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.services.tokenizer.untrusted import Untrusted
from quire.services.worker import fake_rows
from quire.shared.messages import Constraint, Submit
from quire.shared.model_files import DEMO_MODEL

VOCAB_SIZE = 2048
EOS = 2


@functools.cache
def tokenizer() -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(DEMO_MODEL))


@functools.cache
def table() -> Table:
    return Table(tokenizer().to_json(), Facts(VOCAB_SIZE, (EOS,)))


@functools.cache
def constraints() -> Constraints:
    return Constraints(tokenizer().special_token_ids, Untrusted())


def constrained(submit: Submit, constraint: Constraint) -> Submit:
    return msgspec.structs.replace(submit, grammar=constraints().grammar(constraint))


def guides_of(request: Submit) -> Guides | None:
    grammar = request.grammar
    return None if grammar is None else Guides(table().compiled(grammar), grammar, table(), request)


class GuidedEngine(MaskedEngine):
    """Over fake rows of the demo model's vocabulary."""

    def __init__(self, **settings) -> None:
        settings = {"num_blocks": 512, "max_model_len": 1024, "max_num_seqs": 16, "budget": 512, **settings}
        super().__init__(VOCAB_SIZE, eos_token_ids=(EOS,), **settings)
        limits = self.scheduler.limits
        rows = fake_rows.FakeRows(
            fake_rows.Limits(limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len,
                             limits.block_size, limits.num_blocks),
            fake_rows.Tokens(pool=tuple(range(3, VOCAB_SIZE)), eos_token_ids=(EOS,)),
        )  # fmt: skip
        self.compute = rows.apply
        self.grammars = Grammars()

    def add(self, request: Submit):
        added = self.scheduler.add(PEER, request, self.now, guides_of(request))
        self.committer.end_exhausted(added, self.now)
        return added
