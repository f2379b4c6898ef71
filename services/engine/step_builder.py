"""The step builder: a scheduled Step as the Plan that workers understand.

New rows are named in full, old ones by what changed (added blocks); everything else is columns.
"""

from __future__ import annotations

from array import array

from quire.shared.messages import NewRow, Plan, Slot

from .request import Choice
from .step import Step


def build_plan(number: int, step: Step) -> Plan:
    """The Plan of a step; from here on the workers know of all blocks of its rows."""
    rows = step.rows
    choices = [row.choice for row in rows]
    added_slots, added_ids = array("i"), array("i")
    new_rows: list[NewRow] = []
    # Comprehensions, here and below: a loop over all rows with all that is asked of each takes half as long again.
    masked = [row for row in rows if row.choice.is_masked]
    for row in [row for row in rows if row.choice.num_announced_blocks != len(row.choice.blocks)]:
        choice = row.choice
        num_announced = choice.num_announced_blocks
        if num_announced == 0:
            new_rows.append(_new_row(choice, row.num_computed))
        else:
            for block in choice.blocks[num_announced:]:
                added_slots.append(choice.slot)
                added_ids.append(block)
        choice.num_announced_blocks = len(choice.blocks)
    return Plan(
        step=number,
        released=step.released,
        new_rows=new_rows,
        added_block_slots=added_slots.tobytes(),
        added_block_ids=added_ids.tobytes(),
        copies=array("i", [block for pair in step.copies for block in pair]).tobytes(),
        slots=_column([choice.slot for choice in choices]),
        num_scheduled=_column([row.num_scheduled for row in rows]),
        num_computed=_column([row.num_computed for row in rows]),
        awaits_masks=any(row.samples for row in masked),
    )


def _column(numbers: list[int]) -> bytes:
    return array("i", numbers).tobytes()


def _new_row(choice: Choice, num_computed: int) -> NewRow:
    request = choice.request
    return NewRow(
        slot=Slot(choice.slot),
        token_ids=bytes(choice.ids),
        num_prompt_tokens=request.num_prompt_tokens,
        num_computed_tokens=num_computed,
        block_ids=array("i", choice.blocks).tobytes(),
        sampling=request.submit.sampling,
        seed=choice.seed,
    )
