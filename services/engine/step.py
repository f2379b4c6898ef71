"""A step: the rows that the scheduler has chosen for one forward pass, and what goes with them.

Made by scheduler.py, turned into a Plan by step_builder.py, and looked at again by commit.py.
"""

from __future__ import annotations

import msgspec

from .request import Choice


class Row(msgspec.Struct, gc=False):
    """One scheduled choice of a step."""

    choice: Choice
    num_scheduled: int
    num_computed: int
    """Before the step."""
    samples: bool
    """Whether it reaches the choice's last token and draws the next."""


class Step(msgspec.Struct):
    """One step's work, rows of one token first."""

    rows: list[Row]
    copies: list[tuple[int, int]]
    released: list[int]
    num_tokens: int = 0
    """Of all rows."""
