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
    slots, num_scheduled, num_computed = array("i"), array("i"), array("i")
    added_slots, added_ids = array("i"), array("i")
    new_rows: list[NewRow] = []
    for row in step.rows:
        choice = row.choice
        slots.append(choice.slot)
        num_scheduled.append(row.num_scheduled)
        num_computed.append(row.num_computed)
        num_announced = choice.num_announced_blocks
        if num_announced == len(choice.blocks):
            continue
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
        slots=slots.tobytes(),
        num_scheduled=num_scheduled.tobytes(),
        num_computed=num_computed.tobytes(),
        awaits_masks=any(row.samples and _may_be_masked(row.choice) for row in step.rows),
    )


def _may_be_masked(choice: Choice) -> bool:
    return choice.guide is not None or choice.request.bad_words is not None


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
