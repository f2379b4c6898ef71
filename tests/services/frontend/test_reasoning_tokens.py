"""Reasoning counted in tokens: once where it has one end, by stretches where a format has channels."""

from __future__ import annotations

from array import array

import pytest

from quire.services.frontend.choice_output import ChoiceOutput, Parsing
from quire.services.frontend.mailbox import Delta
from quire.services.frontend.reasoning_tokens import num_reasoning_tokens
from quire.shared.messages import ReasoningIds

THINK = ReasoningIds(ends=[9])
CHANNEL, ANALYSIS, FINAL, MESSAGE, END, START, CALL = 1, 2, 3, 4, 5, 6, 7
HARMONY = ReasoningIds([CHANNEL, ANALYSIS], [END, START, CALL])
THOUGHT = [CHANNEL, ANALYSIS, MESSAGE, 50, 51, 52, END]
ANSWER = [START, 60, CHANNEL, FINAL, MESSAGE, 50, END]


@pytest.mark.parametrize(
    ("marks", "ids", "count"),
    [
        (THINK, [50, 51, 9, 52, 9], 3),
        (THINK, [50, 51], 2),
        (THINK, [], 0),
        (ReasoningIds(), [50, 51, 9], 0),
        (HARMONY, THOUGHT + ANSWER, 7),
        (HARMONY, THOUGHT + [START, 60] + THOUGHT + ANSWER, 14),
        (HARMONY, ANSWER, 0),
        (HARMONY, [CHANNEL, CHANNEL, ANALYSIS, MESSAGE, 50], 4),
        (HARMONY, [50, CHANNEL], 0),
        (HARMONY, [], 0),
    ],
)
def test_tokens_between_the_marks_are_counted_with_them(marks: ReasoningIds, ids: list[int], count: int) -> None:
    assert num_reasoning_tokens(array("i", ids).tobytes(), marks) == count


def test_a_harmony_answer_has_the_reasoning_of_all_its_channels() -> None:
    parsing = Parsing("harmony", "harmony", HARMONY, {})
    output = ChoiceOutput(parsing, False)
    text = "<|channel|>analysis<|message|>a b c<|end|><|start|>assistant<|channel|>final<|message|>a"
    ids = array("i", THOUGHT + ANSWER).tobytes()
    output.events(Delta(0, text[:20]))
    output.events(Delta(0, text[20:], finish_reason="stop", output_ids=ids))
    assert output.reasoning_tokens == 7
