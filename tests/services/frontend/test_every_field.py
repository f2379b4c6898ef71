"""Every field that chat and text completions take acts in a test, is refused, or is known to be unused.

A new field fails here until it is one of these; its bounds are test_openapi.py's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest
from test_fields import UNUSED

from quire.services.frontend.bounds import Json, bounds_of
from quire.services.frontend.chat_protocol import ChatRequest
from quire.services.frontend.completion_protocol import CompletionRequest

TESTS = Path(__file__).parents[2]
HERE = "end_to_end/test_fields.py::"
CALLS = "services/frontend/test_chat_tools.py::"
CUTS = HERE + "test_each_way_of_cutting_all_but_the_likeliest_gives_the_greedy_answer"
PENALTIES = HERE + "test_penalties_make_tokens_come_again_less_often"
LENGTHS = HERE + "test_lengths_are_as_asked"
STOPS = HERE + "test_stop_strings_and_stop_tokens_end_and_are_named"
LOGPROBS = HERE + "test_logprobs_say_what_was_asked"
SCORED = HERE + "test_prompts_are_scored_echoed_and_told_as_ids"
STREAMS = HERE + "test_streams_tell_usage_as_asked_and_hold_as_many_tokens_as_asked"
CHATS = HERE + "test_a_chats_prompt_is_made_as_asked"
SIDES = HERE + "test_a_prompt_is_cut_on_the_side_that_is_asked_for"
REFUSED = HERE + "test_what_would_not_act_is_refused_and_says_what_would"
GUIDED = "end_to_end/test_structured_output.py::test_every_kind_is_followed_in_text_completions_too"
ASKED = "services/frontend/test_constraints.py::test_every_way_of_asking_becomes_one_constraint"
BEAMS = "end_to_end/test_beam_search.py::test_the_beams_are_those_of_transformers"
TOOLS = "end_to_end/test_tools.py::test_a_call_is_made_where_it_must_be_and_only_as_its_schema_says"
EFFECTS = {
    "model": "services/frontend/test_http.py::test_unknown_model_is_404_and_names_the_served_ones",
    "messages": CHATS, "prompt": SCORED, "stream": STREAMS, "stream_options": STREAMS,
    "stream_interval": STREAMS, "request_id": HERE + "test_a_request_may_name_itself_and_the_header_wins",
    "n": "end_to_end/test_chat.py::test_choices_are_as_many_as_asked_and_greedy_ones_are_the_same",
    "best_of": HERE + "test_best_of_gives_the_likeliest_answers_and_counts_all",
    **dict.fromkeys(("temperature", "top_p", "top_k", "min_p"), CUTS),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty"), PENALTIES),
    "seed": HERE + "test_a_seed_gives_the_same_answer_again_and_another_another",
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos"), LENGTHS),
    **dict.fromkeys(("stop", "stop_token_ids", "include_stop_str_in_output"), STOPS),
    **dict.fromkeys(("logit_bias", "allowed_token_ids"), HERE + "test_biases_and_allowed_tokens_rule_what_is_drawn"),
    "bad_words": HERE + "test_bad_words_are_not_written_streamed_or_plain",
    **dict.fromkeys(("logprobs", "top_logprobs", "return_tokens_as_token_ids"), LOGPROBS),
    **dict.fromkeys(("prompt_logprobs", "return_token_ids", "echo"), SCORED),
    "skip_special_tokens": HERE + "test_special_tokens_are_shown_when_asked_for",
    "spaces_between_special_tokens":
        "services/tokenizer/test_detokenizer.py::test_unspaced_added_tokens_follow_each_other_without_a_space",
    **dict.fromkeys(("add_special_tokens", "add_generation_prompt", "continue_final_message"), CHATS),
    "reasoning_effort": CHATS,
    **dict.fromkeys(("truncate_prompt_tokens", "truncation_side"), SIDES),
    **dict.fromkeys(("response_format", "structured_outputs"), GUIDED),
    **dict.fromkeys(("guided_regex", "guided_choice"), GUIDED),
    **dict.fromkeys(("guided_json", "guided_grammar"), ASKED),
    **dict.fromkeys(("use_beam_search", "beam_width", "length_penalty", "early_stopping"), BEAMS),
    "priority": "services/engine/test_scheduler.py::test_the_priority_policy_serves_the_lower_number_first",
    "cache_salt": "end_to_end/test_surface.py::test_callers_with_one_key_share_prefixes_but_for_their_salts",
    **dict.fromkeys(("tools", "tool_choice"), TOOLS),
    "parallel_tool_calls": CALLS + "test_only_the_first_call_counts_without_parallel_tool_calls",
    "include_reasoning": CALLS + "test_reasoning_can_be_left_out_and_its_tokens_are_counted_all_the_same",
    "chat_template": "end_to_end/test_hostile.py::test_a_clients_own_template_and_values_are_used",
    "chat_template_kwargs": "end_to_end/test_hostile.py::test_a_clients_own_template_and_values_are_used",
    "documents": "services/tokenizer/test_chat_template.py::test_documents_reach_the_template",
    "modalities": REFUSED,
}  # fmt: skip
"""Field -> the test that sees it act."""


def refused_fields(cls: type) -> set[str]:
    return {
        name for name, bounds in bounds_of(cls).items() for one in bounds if isinstance(one, Json) and one.is_refused
    }


@pytest.mark.parametrize("cls", [ChatRequest, CompletionRequest])
def test_every_field_acts_in_a_test_or_is_refused_or_is_known_to_be_unused(cls: type) -> None:
    fields = set(get_type_hints(cls))
    left = fields - set(EFFECTS) - refused_fields(cls) - set(UNUSED)
    assert not left, "each needs a test of what it does, named in EFFECTS"
    assert not refused_fields(cls) & (set(EFFECTS) | set(UNUSED))


def test_the_named_tests_are_there() -> None:
    every = set(get_type_hints(ChatRequest)) | set(get_type_hints(CompletionRequest))
    assert set(EFFECTS) | set(UNUSED) <= every
    for field, named in EFFECTS.items():
        path, _, test = named.rpartition("::")
        assert re.search(rf"^def {test}\b", (TESTS / path).read_text(), re.MULTILINE), (field, named)
