"""A prompt under way: what was asked, what its choices have produced so far, where the answers go.

Held by the frontend because it holds the client's connection: everything below can be replaced, and
submitting the record again goes on where it was. Knows neither links nor HTTP.
"""

from __future__ import annotations

import msgspec

from quire.shared.messages import Generate, History, RequestId

from .mailbox import Mailbox


class ChoiceRecord(msgspec.Struct):
    """One choice as far as its deltas have come."""

    ids: bytearray
    """int32 output ids."""
    num_chars: int = 0
    """Of its text, given to the mailbox."""
    is_started: bool = False
    is_finished: bool = False


class Record(msgspec.Struct):
    """One Generate until its last choice has ended."""

    generate: Generate
    """As the client asked for it."""
    mailbox: Mailbox
    position: int
    """Of the prompt in its HTTP request."""
    request_id: RequestId
    """Of the present attempt; the first one's is the Generate's own."""
    choices: list[ChoiceRecord]
    num_open: int
    """Choices without an end."""
    tokenizer: str = ""
    """Who has it; empty while it waits to be submitted again."""
    is_accepted: bool = False
    """The present attempt."""
    is_suspect: bool = False
    num_crashes: int = 0
    """Of engines or workers that had it."""
    num_unprepared: int = 0
    """Tokenizers that were lost before they had prepared it."""
    parked_since: float = 0.0
    """Monotonic seconds; since when no attempt was accepted. 0: not parked."""

    @property
    def first_index(self) -> int:
        return self.position * self.generate.n

    def end_choice(self, index: int) -> None:
        self.choices[index].is_finished = True
        self.num_open -= 1

    def attempt(self) -> Generate:
        """The Generate that goes on where the choices are."""
        generate, choices = self.generate, self.choices
        if not any(choice.ids or choice.is_finished for choice in choices):
            return msgspec.structs.replace(generate, request_id=self.request_id, is_suspect=self.is_suspect)
        sampling = generate.sampling
        if sampling.prompt_logprobs is not None and choices[0].is_started:
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)  # the client has them
        history = [History(bytes(choice.ids), choice.num_chars, choice.is_finished) for choice in choices]
        return msgspec.structs.replace(
            generate,
            request_id=self.request_id,
            sampling=sampling,
            history=history,
            is_suspect=self.is_suspect,
            max_queue_seconds=0.0,  # it has begun: now it is waited for
        )


def new_record(generate: Generate, mailbox: Mailbox, position: int) -> Record:
    choices = [ChoiceRecord(bytearray()) for _ in range(generate.n)]
    return Record(generate, mailbox, position, generate.request_id, choices, generate.n)
