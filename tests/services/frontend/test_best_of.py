"""best_of: what may be asked, and which of the drawn answers are given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.services.frontend.best_of import best
from quire.services.frontend.completion_protocol import CompletionRequest, parse_completion
from quire.services.frontend.mailbox import Delta
from quire.shared.errors import ApiError
from quire.shared.messages import LogprobEntry


def parsed(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"prompt": "hi", **fields}).encode())[0]


def choice(index: int, *logprobs: float, **fields: Any) -> Delta:
    tokens = [LogprobEntry(1, b"a", logprob) for logprob in logprobs]
    return Delta(index, f"answer {index}", len(logprobs), tokens=tokens, finish_reason="stop", **fields)


def texts(choices: list[Delta]) -> list[str]:
    assert [one.index for one in choices] == list(range(len(choices)))
    return [one.text for one in choices]


def test_the_best_are_the_likeliest_by_token_not_by_sum() -> None:
    drawn = [choice(0, -1.0), choice(1, -0.5, -0.5, -0.5, -0.5), choice(2, -0.9, -0.3), choice(3, -3.0)]
    assert texts(best(drawn, 4, 1)) == ["answer 1"]
    assert texts(best(drawn, 4, 3)) == ["answer 1", "answer 2", "answer 0"]


def test_equally_good_ones_stay_in_order_and_empty_ones_come_last() -> None:
    drawn = [choice(0), choice(1, -0.5), choice(2, -0.25, -0.75)]
    assert texts(best(drawn, 3, 3)) == ["answer 1", "answer 2", "answer 0"]


def test_each_prompt_has_its_own_best_and_its_own_logprobs() -> None:
    of_prompts = [[LogprobEntry(1, b"x", -1.0)], [LogprobEntry(2, b"y", -1.0)]]
    drawn = [
        choice(0, -2.0, prompt_tokens=of_prompts[0]), choice(1, -1.0), choice(2, -3.0),
        choice(3, -1.0, prompt_tokens=of_prompts[1]), choice(4, -2.0), choice(5, -0.5),
    ]  # fmt: skip
    given = best(drawn, 3, 2)
    assert texts(given) == ["answer 1", "answer 0", "answer 5", "answer 3"]
    assert [one.prompt_tokens for one in given] == [of_prompts[0], None, of_prompts[1], None]


def test_what_is_drawn_counts_at_the_door_and_what_is_given_is_n() -> None:
    request = parsed(n=2, best_of=5)
    assert (request.num_choices, request.num_drawn, request.width) == (2, 5, 5)
    assert parsed(n=2, best_of=None).num_drawn == parsed(n=2, best_of=2, stream=True).num_drawn == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n": 3, "best_of": 2}, "at least n (3)"),
        ({"best_of": 2, "stream": True}, "stream"),
        ({"best_of": 65, "prompt": ["a", "b"]}, "best_of of 65"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(**fields)
    assert caught.value.status == 400 and caught.value.param == "best_of"
    assert said in caught.value.message
