"""A request as this service holds it between its Accepted and its last Finished.

Made by the service when a Generate arrives, filled in when it is prepared, dropped when its last
choice has ended. Knows no links: only the names of the two neighbours it goes between.
"""

from __future__ import annotations

from quire.shared.messages import Abort, Generate

from .choice_text import ChoiceText
from .outbox import Outbox
from .preparation import Job, Prepared


class Request:
    """`choices[i]` is None once choice i has ended."""

    __slots__ = (
        "choices",
        "early_aborts",
        "engine",
        "is_accepted",
        "is_submitted",
        "job",
        "num_open",
        "outbox",
        "prompt_ids",
        "prompt_text",
        "request_id",
        "resumed_texts",
        "returns_prompt_ids",
        "shown_ids",
        "shows_stop",
        "skips_special",
        "starts_in_reasoning",
    )

    def __init__(self, job: Job, engine: str, outbox: Outbox) -> None:
        generate: Generate = job.generate
        self.request_id = generate.request_id
        self.job: Job | None = job
        """Until it is prepared."""
        self.engine = engine
        self.outbox = outbox
        self.shows_stop = generate.text.include_stop_str_in_output
        self.skips_special = generate.text.skip_special_tokens
        self.returns_prompt_ids = generate.text.return_prompt_ids
        self.is_submitted = False
        self.is_accepted = False
        self.num_open = generate.n
        self.early_aborts: list[Abort] = []
        """Of single choices, that came before the engine knew of the request."""
        self.choices: list[ChoiceText | None] = []
        self.resumed_texts: list[str] = []
        self.starts_in_reasoning = False
        self.shown_ids: frozenset[int] = frozenset()
        self.prompt_text = ""
        self.prompt_ids = b""
        """Kept while something still asks for it: the answer's prompt ids, or prompt logprobs."""

    def submitted(self, prepared: Prepared) -> None:
        self.job = None
        self.is_submitted = True
        self.choices = prepared.choices
        self.resumed_texts = prepared.resumed_texts
        self.num_open = sum(choice is not None for choice in prepared.choices)
        self.prompt_text = prepared.prompt_text
        self.starts_in_reasoning = prepared.starts_in_reasoning
        self.shown_ids = prepared.shown_ids
        if self.returns_prompt_ids or prepared.submit.sampling.prompt_logprobs is not None:
            self.prompt_ids = prepared.submit.prompt_ids

    def end_choice(self, index: int) -> None:
        if self.choices[index] is not None:
            self.choices[index] = None
            self.num_open -= 1

    def open_choices(self) -> list[int]:
        if not self.is_submitted:
            return list(range(self.num_open))
        return [index for index, choice in enumerate(self.choices) if choice is not None]
