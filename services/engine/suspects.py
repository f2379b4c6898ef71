"""Suspects: requests that were in the batch of crashes, each of which runs with nothing beside it.

So that the next crash shows which of them it was. Asked by the scheduler for whom it may admit,
and only while there are any. Knows nothing of blocks or budgets.
"""

from __future__ import annotations

from collections.abc import Iterable

from .request import Choice


def admissible(waiting: Iterable[Choice], running: Iterable[Choice]) -> list[Choice]:
    """Of the waiting choices, in order of precedence, those that may join the running ones.

    A suspect's own choices may run together. Who comes before a suspect goes first; who comes after it waits.
    """
    companions = list(running)
    alone = next((choice.request for choice in companions if choice.request.submit.is_suspect), None)
    found: list[Choice] = []
    for choice in waiting:
        request = choice.request
        if alone is not None:
            if request is alone:
                found.append(choice)
        elif not request.submit.is_suspect:
            found.append(choice)
        elif companions or found:
            break
        else:
            alone = request
            found.append(choice)
    return found
