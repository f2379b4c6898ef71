"""What clients rely on, rule by rule, and the tests that hold each: a rule whose test is renamed or gone fails here.

The rules were read off the clients' own code and off running them; the clients themselves run in openai2/ and openai3/.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
HTTP, CHAT = "services/frontend/test_http.py", "end_to_end/test_chat.py"
TOOLS, LIFE = "services/frontend/test_chat_tools.py", "services/frontend/test_lifecycle.py"
PROTOCOL, OPENAPI = "services/frontend/test_protocol.py", "services/frontend/test_openapi.py"
FRAMEWORKS, SDK = "clients/openai2/client_frameworks.py", "clients/openai3/client_openai.py"
SHAPES, AGENTS = "clients/openai3/client_shapes.py", "clients/openai3/client_pydantic_ai.py"
STOPS = "services/tokenizer/test_stop_strings.py"

RULES = {
    "a refusal comes before the headers, also of a stream": [
        f"{HTTP}::test_bad_fields_are_400_before_headers_also_for_streams",
        f"{HTTP}::test_a_refusal_from_below_comes_before_the_headers",
        f"{CHAT}::test_a_bad_request_is_refused_before_any_header_of_a_stream",
        "end_to_end/test_structured_output.py::test_what_cannot_be_followed_is_a_400_before_any_header_of_a_stream",
    ],
    "one envelope for every error": [
        f"{HTTP}::test_what_is_not_there_is_told_in_the_envelope",
        f"{HTTP}::test_broken_http_gets_the_envelope",
        f"{HTTP}::test_other_content_types_are_415",
        f"{HTTP}::test_a_body_too_large_is_413_whether_its_length_is_told_or_not",
        f"{OPENAPI}::test_errors_have_the_shape_the_document_gives",
    ],
    "codes are strings that a program can test": [
        f"{HTTP}::test_the_openai_sdk_maps_every_error",
        f"{OPENAPI}::test_every_status_of_the_table_of_errors_is_described_where_a_body_is_taken",
    ],
    "a message names field, range and value": [
        f"{OPENAPI}::test_just_outside_of_a_bound_is_a_400_that_names_field_limit_and_value",
        f"{PROTOCOL}::test_messages_echo_at_most_200_printable_characters_of_input",
    ],
    "every client knows a context that is too long by its sentence": [
        f"{SDK}::test_errors_are_the_sdks_own_classes",
        f"{AGENTS}::test_a_refusal_has_its_status_and_body",
        f"{FRAMEWORKS}::test_langchain_knows_a_prompt_that_is_too_long",
        f"{FRAMEWORKS}::test_litellm_chats_streams_and_maps_errors",
    ],
    "null means default, unknown fields are taken, older names of constraints are followed": [
        f"{PROTOCOL}::test_null_means_default_for_every_field",
        f"{PROTOCOL}::test_chat_field_inside_its_bounds_is_taken",
        "services/frontend/test_constraints.py::test_every_way_of_asking_becomes_one_constraint",
    ],
    "types are strict": [
        f"{PROTOCOL}::test_chat_field_outside_its_bounds_is_refused_by_name",
        f"{PROTOCOL}::test_completion_field_outside_its_bounds_is_refused_by_name",
    ],
    "every answer has a request id, the client's if it sent one": [
        f"{HTTP}::test_request_id_is_echoed_when_sane",
        "end_to_end/test_benchmark_tools.py::test_a_request_id_is_on_answers_streams_and_errors",
    ],
    "streams have the headers that proxies and browsers need": [
        f"{HTTP}::test_streamed_chat_has_role_text_finish_and_done",
    ],
    "a stream of chat and completions is data and comments, no other field": [
        f"{CHAT}::test_curl_streams_frames_that_end_with_done",
        "end_to_end/test_benchmark_tools.py::test_a_stream_is_data_alone_and_its_body_ends_with_done",
    ],
    "a stream ends with [DONE] and then the body": [
        f"{LIFE}::test_several_requests_on_one_connection_do_not_disturb_each_other",
        "end_to_end/test_benchmark_tools.py::test_a_stream_is_data_alone_and_its_body_ends_with_done",
    ],
    "a quiet stream carries comments": [f"{LIFE}::test_a_quiet_stream_carries_comments"],
    "role, deltas, one finish reason a choice, usage, done": [
        f"{HTTP}::test_streamed_chat_has_role_text_finish_and_done",
        f"{HTTP}::test_roles_come_in_order_before_any_text",
        f"{SHAPES}::test_chats",
    ],
    "what accumulators concatenate is said once": [
        f"{TOOLS}::test_deltas_say_id_and_name_once_and_arguments_in_pieces",
        f"{TOOLS}::test_streamed_equals_plain_with_the_clients_own_accumulator",
        f"{FRAMEWORKS}::test_langchain_calls_tools_plain_and_streamed",
    ],
    "usage comes when it is asked for": [
        f"{HTTP}::test_usage_comes_last_and_only_when_asked_for",
        f"{HTTP}::test_continuous_usage_grows_on_every_chunk",
    ],
    "a failure in mid-stream is an error event, never a finish reason": [
        f"{HTTP}::test_a_failure_in_mid_stream_is_an_error_event_then_done",
    ],
    "no text holds half a character": [f"{CHAT}::test_output_cut_anywhere_never_holds_half_a_character"],
    "stop strings never leak": [
        f"{STOPS}::test_a_stop_string_split_over_deltas_never_leaks",
        f"{STOPS}::test_any_cut_gives_what_a_search_of_the_whole_gives",
    ],
    "streamed is plain": [
        f"{CHAT}::test_streamed_text_equals_plain_text",
        "services/frontend/test_answers.py::test_streamed_chat_equals_plain",
        f"{SDK}::test_a_chat_is_answered_plain_and_streamed_alike",
        f"{AGENTS}::test_a_run_and_its_stream_say_the_same",
    ],
    "greedy is the same in every batch": [
        "end_to_end/test_parity.py::test_32_mixed_lengths_at_once",
        f"{SDK}::test_the_async_client_does_the_same",
    ],
    "finish reasons are OpenAI's": [
        f"{TOOLS}::test_a_named_call_ends_with_stop_and_a_required_one_with_tool_calls",
        "services/frontend/test_output_parser.py::test_a_call_cut_by_max_tokens_ends_by_length_with_what_there_is",
        f"{SHAPES}::test_chats",
    ],
    "reasoning has both of its names, in answers and in history": [
        f"{TOOLS}::test_a_plain_answer_holds_reasoning_text_and_calls",
        f"{TOOLS}::test_deltas_say_id_and_name_once_and_arguments_in_pieces",
        "services/tokenizer/test_chat_template.py::test_reasoning_reaches_the_template_under_each_of_its_names",
    ],
    "usage says what was cached": [f"{HTTP}::test_plain_chat_has_the_documented_shape", f"{SHAPES}::test_chats"],
    "arguments are a JSON object, also where a call is forced": [
        "end_to_end/test_tools.py::test_a_call_is_made_where_it_must_be_and_only_as_its_schema_says",
        f"{TOOLS}::test_a_forced_call_travels_as_a_constraint_in_the_models_own_markers",
    ],
    "a client that is gone is not worked for": [
        f"{LIFE}::test_a_gone_client_is_aborted_wherever_its_request_is",
        "end_to_end/test_benchmark_tools.py::test_a_cancelled_request_frees_its_blocks",
    ],
    "overload says when to come back, and what must not be tried again says so": [
        f"{LIFE}::test_the_full_door_answers_429_until_someone_leaves",
        "services/frontend/test_overload.py::test_what_waits_too_long_is_503_before_its_first_byte",
        f"{HTTP}::test_a_failure_in_mid_stream_is_an_error_event_then_done",
    ],
    "probes are 200 only when requests can be served": [
        f"{HTTP}::test_probes_answer",
        f"{LIFE}::test_nothing_is_served_until_a_tokenizer_is_ready",
    ],
    "models are listed with their context, and found by names with slashes": [
        f"{HTTP}::test_models_are_listed_and_found_by_names_with_slashes",
        f"{SDK}::test_models_are_listed_and_found",
    ],
    "an unknown model is a 404 that names those that are served; none may be named": [
        f"{HTTP}::test_unknown_model_is_404_and_names_the_served_ones",
        f"{SDK}::test_errors_are_the_sdks_own_classes",
    ],
    "constrained JSON is compact": [
        "services/engine/test_grammars.py::"
        "test_compact_json_has_no_white_space_between_its_parts_and_flexible_json_may",
    ],
}


@functools.cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_its_tests(rule: str) -> None:
    assert [test for test in RULES[rule] if test.split("::")[1] not in names_in(test.split("::")[0])] == []


def test_there_are_thirty_of_them() -> None:
    assert len(RULES) == 30 and all(RULES.values())
