"""Every field of both endpoints: just inside its bounds, and just outside."""

from __future__ import annotations

import json
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.frontend.bounds import Items, Json, Number, Text, bounds_of
from quire.services.frontend.chat_protocol import ChatRequest, parse_chat
from quire.services.frontend.completion_protocol import CompletionRequest, parse_completion
from quire.services.frontend.field_limits import most
from quire.services.frontend.protocol import check_depth
from quire.services.frontend.sampling import sampling_params, text_params
from quire.shared.errors import ApiError
from quire.shared.messages import GenerationDefaults, IdsPrompt, ModelCard, TextPrompt

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CARD = ModelCard(["demo"], "/m", 0, 1000, 2048, 16, 65536, True, GenerationDefaults())

SHARED_INSIDE: list[tuple[str, Any]] = [
    ("temperature", 0), ("temperature", 2), ("temperature", 0.5), ("top_p", 1), ("top_p", 1e-9), ("top_k", -1),
    ("top_k", 0), ("top_k", 10**6), ("min_p", 0), ("min_p", 1), ("presence_penalty", -2), ("presence_penalty", 2),
    ("frequency_penalty", -2), ("frequency_penalty", 2.0), ("repetition_penalty", 0.01), ("repetition_penalty", 10),
    ("seed", -(2**63)), ("seed", 2**63 - 1), ("n", 1), ("n", 128), ("max_tokens", 1), ("max_tokens", 2**31 - 1),
    ("stop", "a"), ("stop", ["a"] * 16), ("stop", []), ("stop", "a" * 256), ("stop_token_ids", [0, 2**31 - 1]),
    ("logit_bias", {}), ("logit_bias", {"0": -100, "5": 100}), ("allowed_token_ids", [1]), ("prompt_logprobs", 0),
    ("prompt_logprobs", 20), ("ignore_eos", True), ("skip_special_tokens", False), ("priority", -(2**31)),
    ("priority", 2**31 - 1), ("cache_salt", "s" * 64), ("truncate_prompt_tokens", -1), ("truncate_prompt_tokens", 1),
    ("truncation_side", "left"), ("truncation_side", "right"), ("stream_interval", 1), ("request_id", "a/b:1"),
    ("user", "u"), ("metadata", {"k": "v"}), ("store", True), ("service_tier", "auto"),
    ("best_of", 1), ("best_of", 128), ("use_beam_search", False),
    ("response_format", {"type": "text"}), ("guided_json", None),
    ("bad_words", []), ("bad_words", ["x"] * 128),
    ("structured_outputs", None), ("some_unknown_field", {"x": [1]}), ("model", "demo"),
    ("return_token_ids", True), ("return_tokens_as_token_ids", True), ("min_tokens", 0),
]  # fmt: skip
SHARED_OUTSIDE: list[tuple[str, Any]] = [
    ("temperature", -0.01), ("temperature", 2.01), ("temperature", "1"), ("temperature", True), ("top_p", 0),
    ("top_p", 1.01), ("top_p", -0.1), ("top_k", -2), ("top_k", 1.0), ("top_k", 2**31), ("min_p", -0.1), ("min_p", 1.1),
    ("presence_penalty", -2.1), ("presence_penalty", 2.1), ("frequency_penalty", -2.1), ("frequency_penalty", 2.1),
    ("repetition_penalty", 0), ("repetition_penalty", -1), ("repetition_penalty", 10.1), ("seed", 2**63),
    ("seed", -(2**63) - 1), ("seed", 2**70), ("seed", "1"), ("n", 0), ("n", -1), ("n", 129), ("n", "two"),
    ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", 2**31), ("max_tokens", 0), ("min_tokens", -1),
    ("stop", ""), ("stop", [""]), ("stop", 5), ("stop", [1]), ("stop", ["a"] * 17), ("stop", "a" * 257),
    ("stop", "é" * 129), ("stop_token_ids", [-1]), ("stop_token_ids", [2**31]), ("stop_token_ids", ["a"]),
    ("logit_bias", {"x": 1}), ("logit_bias", {"1": "high"}), ("logit_bias", {"1": 100.1}), ("logit_bias", {"-1": 1}),
    ("logit_bias", {"²": 1}), ("logit_bias", {str(i): 0 for i in range(1025)}), ("logit_bias", {"9999999999": 1}),
    ("allowed_token_ids", []), ("allowed_token_ids", [-1]), ("prompt_logprobs", -1), ("prompt_logprobs", 21),
    ("ignore_eos", "yes"), ("stream", "yes"), ("stream", 1), ("priority", 2**31), ("cache_salt", ""),
    ("cache_salt", "s" * 65), ("cache_salt", "a@b"), ("cache_salt", "a/b"), ("cache_salt", "a\\b"),
    ("cache_salt", "a\0b"), ("truncate_prompt_tokens", -2), ("truncate_prompt_tokens", 0), ("truncation_side", "up"),
    ("metadata", {"k": 1}), ("metadata", {str(i): "" for i in range(17)}),
    ("user", "u" * 513), ("best_of", 0), ("best_of", 129), ("use_beam_search", 1), ("response_format", {}),
    ("guided_whitespace_pattern", " "), ("guided_regex", ""), ("guided_choice", []), ("guided_grammar", ""),
    ("structured_outputs", {"regex": ""}), ("logits_processors", ["x"]), ("model", 5),
    ("stream_interval", 0), ("request_id", ""), ("request_id", "a b"), ("request_id", "a" * 129), ("regex", "a"),
    ("kv_transfer_params", {"x": 1}), ("safety_identifier", "s" * 129), ("thinking_token_budget", 5), ("echo", 1),
    ("bad_words", [""]), ("bad_words", ["x"] * 129), ("bad_words", "x"),
    ("stream_options", {"include_usage": True}), ("stream_options", 5),
]  # fmt: skip
CHAT_INSIDE: list[tuple[str, Any]] = [
    ("max_completion_tokens", 1), ("logprobs", True), ("logprobs", False), ("top_logprobs", 0), ("tools", [TOOL]),
    ("tools", [TOOL] * 128), ("parallel_tool_calls", False), ("reasoning_effort", "none"),
    ("reasoning_effort", "xhigh"), ("chat_template_kwargs", {"enable_thinking": False}), ("documents", [{"t": "x"}]),
    ("continue_final_message", True), ("add_generation_prompt", False), ("include_reasoning", False),
    ("modalities", ["text"]), ("function_call", "none"), ("echo", True),
    ("prediction", {"type": "content", "content": "x"}), ("verbosity", "low"),
]  # fmt: skip
CHAT_OUTSIDE: list[tuple[str, Any]] = [
    ("messages", []), ("messages", "hi"), ("messages", [{"role": "user"}]), ("messages", [{"content": "x"}]),
    ("messages", [{"role": "king", "content": "x"}]), ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}]), ("messages", MESSAGES * 2049),
    ("messages", [{"role": "assistant", "tool_calls": [{"id": "x"}]}]), ("max_completion_tokens", 0),
    ("logprobs", 3), ("logprobs", "true"), ("top_logprobs", 1), ("top_logprobs", 21), ("top_logprobs", -1),
    ("tools", []), ("tools", [{"type": "custom"}]), ("tools", [TOOL] * 129),
    ("tools", [{"type": "function", "function": {"name": "a b"}}]), ("tools", [{"type": "function"}]),
    ("tool_choice", "required"), ("tool_choice", "auto!"), ("reasoning_effort", "huge"),
    ("chat_template_kwargs", {"messages": []}), ("chat_template_kwargs", [1]), ("chat_template", 7),
    ("documents", ["x"]), ("functions", [{"name": "f"}]), ("function_call", {"name": "f"}), ("modalities", ["audio"]),
    ("audio", {"voice": "x"}),
]  # fmt: skip
COMPLETION_INSIDE: list[tuple[str, Any]] = [
    ("logprobs", 0), ("logprobs", 20), ("suffix", ""), ("prompt", "x"), ("prompt", ["x", "y"]), ("prompt", [1, 2]),
    ("prompt", [[1], [2, 3]]), ("prompt", [0, 2**31 - 1]), ("prompt", ["x"] * 128), ("echo", True),
]  # fmt: skip
COMPLETION_OUTSIDE: list[tuple[str, Any]] = [
    ("logprobs", True), ("logprobs", 21), ("logprobs", -1), ("suffix", "x"), ("prompt", ""), ("prompt", []),
    ("prompt", [""]), ("prompt", [[]]), ("prompt", ["x", 1]), ("prompt", [1, "x"]), ("prompt", [[1], 2]),
    ("prompt", [-1]), ("prompt", [2**31]), ("prompt", [10**30]), ("prompt", [1.5]), ("prompt", 5), ("prompt", {}),
    ("prompt", ["x"] * 129), ("prompt_embeds", "AAAA"), ("prompt", [True]),
]  # fmt: skip


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": MESSAGES, **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"prompt": "hi", **fields}).encode()


def refusal_of(parse: typing.Callable[[bytes], object], body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body)
    return caught.value


@pytest.mark.parametrize(("name", "value"), SHARED_INSIDE + CHAT_INSIDE)
def test_chat_field_inside_its_bounds_is_taken(name: str, value: Any) -> None:
    parse_chat(chat(**{name: value}))


@pytest.mark.parametrize(("name", "value"), SHARED_INSIDE + COMPLETION_INSIDE)
def test_completion_field_inside_its_bounds_is_taken(name: str, value: Any) -> None:
    parse_completion(completion(**{name: value}))


@pytest.mark.parametrize(("name", "value"), SHARED_OUTSIDE + CHAT_OUTSIDE)
def test_chat_field_outside_its_bounds_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal_of(parse_chat, chat(**{name: value}))
    assert error.status == 400
    assert error.type == "invalid_request_error"
    assert error.param is not None and error.param.startswith(name)
    assert name in error.message


@pytest.mark.parametrize(("name", "value"), SHARED_OUTSIDE + COMPLETION_OUTSIDE)
def test_completion_field_outside_its_bounds_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal_of(parse_completion, completion(**{name: value}))
    assert error.status == 400
    assert error.param is not None and error.param.startswith(name)
    assert name in error.message


@pytest.mark.parametrize("cls", [ChatRequest, CompletionRequest])
def test_null_means_default_for_every_field(cls: type[msgspec.Struct]) -> None:
    body = dict.fromkeys(cls.__struct_fields__)
    if cls is ChatRequest:
        parse_chat(json.dumps({**body, "messages": MESSAGES}).encode())
    else:
        parse_completion(json.dumps({**body, "prompt": "x"}).encode())


@pytest.mark.parametrize("cls", [ChatRequest, CompletionRequest])
def test_every_field_that_can_be_large_has_a_bound(cls: type[msgspec.Struct]) -> None:
    bounds = bounds_of(cls)
    wanted = {int: Number, float: Number, str: Text, list: Items, dict: Items, msgspec.Raw: Json}
    for name, hint in typing.get_type_hints(cls).items():
        for part in typing.get_args(hint) or (hint,):
            kind = typing.get_origin(part) or part
            if kind in wanted:
                assert bounds.get(name), f"{cls.__name__}.{name} has no bound"


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"nul", b"{", b"[]", b"5", b'"x"', b"\xff", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":NaN}',
     b'{"temperature":NaN}', b'{"temperature":Infinity}', b'{"temperature":1e999}', b'{"seed":1' + b"0" * 5000 + b"}",
     b"[" * 100_000, b'{"x":' * 70 + b"1" + b"}" * 70, b'{"x":[' + b"[]," * 200_000 + b"[]]}"],
)  # fmt: skip
def test_what_is_not_json_as_expected_is_refused(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        assert refusal_of(parse, body).status == 400


def test_depth_counts_brackets_outside_strings_only() -> None:
    check_depth(json.dumps({"x": '[{"' * 500, "y": ["\\", "]" * 90]}).encode() * 1)
    nested: Any = 1
    for _ in range(most("max_json_depth")):
        nested = [nested]
    check_depth(json.dumps([[]] * 100).encode())
    check_depth(json.dumps(nested).encode())
    with pytest.raises(ApiError):
        check_depth(json.dumps([nested]).encode())


@pytest.mark.parametrize("escapes", ["", "\n" * 20_000])
def test_depth_is_the_same_however_it_is_measured(escapes: str) -> None:
    def body(depth: int) -> bytes:
        nested: Any = []
        for number in range(depth - 3):
            nested = [nested] if number % 2 else {"x": nested}
        return json.dumps({"text": escapes, "many": [[]] * 100, "nested": [nested]}).encode()

    check_depth(body(most("max_json_depth")))
    with pytest.raises(ApiError):
        check_depth(body(most("max_json_depth") + 1))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_otherwise_than_by_refusal(body: bytes) -> None:
    for parse in (parse_chat, parse_completion):
        try:
            parse(body)
        except ApiError as error:
            assert error.status == 400


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*ChatRequest.__struct_fields__]), _json_values)
def test_no_value_of_a_field_makes_the_parser_fail_otherwise_than_by_refusal(name: str, value: Any) -> None:
    for parse, base in ((parse_chat, {"messages": MESSAGES}), (parse_completion, {"prompt": "x"})):
        try:
            request = parse(json.dumps({**base, name: value}).encode())[0]
            sampling_params(request, CARD)
        except ApiError as error:
            assert error.status == 400
            assert len(error.message) < 1000


def test_prompts_times_n_is_bounded() -> None:
    parse_completion(completion(prompt=["x"] * 64, n=2))
    assert refusal_of(parse_completion, completion(prompt=["x"] * 64, n=3)).param == "n"


def test_scoring_needs_echo() -> None:
    parse_completion(completion(max_tokens=0, echo=True))
    assert refusal_of(parse_completion, completion(max_tokens=0)).param == "max_tokens"


def test_prompts_keep_their_order_and_kind() -> None:
    _, prompts = parse_completion(completion(prompt=["a", "b"], add_special_tokens=False))
    assert prompts == [TextPrompt("a", False), TextPrompt("b", False)]
    _, prompts = parse_completion(completion(prompt=[[1], [2, 256]]))
    assert prompts == [IdsPrompt(b"\1\0\0\0"), IdsPrompt(b"\2\0\0\0\0\1\0\0")]


def test_messages_and_tools_travel_as_the_client_sent_them() -> None:
    body = b'{"messages": [ {"role":"user","content":"x","extra":1.50} ], "tools":[%b]}' % json.dumps(TOOL).encode()
    _, prompt, _ = parse_chat(body)
    assert prompt.messages_json == b'[ {"role":"user","content":"x","extra":1.50} ]'
    assert json.loads(prompt.tools_json) == [TOOL]


def test_tools_are_left_out_when_the_choice_is_none() -> None:
    _, prompt, _ = parse_chat(chat(tools=[TOOL], tool_choice="none"))
    assert prompt.tools_json == b""
    assert parse_chat(chat(tools=[TOOL], tool_choice="auto"))[1].tools_json != b""


def test_reasoning_effort_reaches_the_template() -> None:
    _, prompt, _ = parse_chat(chat(reasoning_effort="high"))
    assert json.loads(prompt.template_kwargs_json) == {"reasoning_effort": "high"}
    _, prompt, _ = parse_chat(chat(reasoning_effort="none"))
    assert json.loads(prompt.template_kwargs_json) == {"enable_thinking": False}


def test_continuing_the_final_message_adds_no_generation_prompt() -> None:
    _, prompt, _ = parse_chat(chat(continue_final_message=True))
    assert prompt.continue_final_message and not prompt.add_generation_prompt
    both = chat(continue_final_message=True, add_generation_prompt=True)
    assert refusal_of(parse_chat, both).param == "continue_final_message"


def test_greedy_ignores_what_only_sampling_uses() -> None:
    request, _, _ = parse_chat(chat(temperature=0, top_p=0.5, top_k=5, min_p=0.1, repetition_penalty=1.5))
    sampling = sampling_params(request, CARD)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0, 1.0, 0, 0.0)
    assert sampling.repetition_penalty == 1.5


def test_fields_win_over_the_checkpoints_defaults_and_those_over_ours() -> None:
    defaults = GenerationDefaults(
        temperature=0.6, top_p=0.9, top_k=20, min_p=0.05, repetition_penalty=1.1, max_tokens=99
    )
    card = msgspec.structs.replace(CARD, defaults=defaults)
    plain = sampling_params(parse_chat(chat())[0], card)
    assert (plain.temperature, plain.top_p, plain.top_k, plain.min_p) == (0.6, 0.9, 20, 0.05)
    assert (plain.repetition_penalty, plain.max_tokens) == (1.1, 99)
    asked = sampling_params(parse_chat(chat(temperature=1.5, top_p=1, top_k=-1, max_tokens=5))[0], card)
    assert (asked.temperature, asked.top_p, asked.top_k, asked.max_tokens) == (1.5, 1.0, 0, 5)
    ours = sampling_params(parse_chat(chat())[0], CARD)
    assert (ours.temperature, ours.top_p, ours.top_k, ours.max_tokens) == (1.0, 1.0, 0, None)


def test_max_completion_tokens_wins() -> None:
    assert sampling_params(parse_chat(chat(max_tokens=5, max_completion_tokens=7))[0], CARD).max_tokens == 7
    assert sampling_params(parse_completion(completion())[0], CARD).max_tokens == 16


def test_seed_is_resolved_to_64_bits() -> None:
    assert sampling_params(parse_chat(chat(seed=-1))[0], CARD).seed == 2**64 - 1
    drawn = {sampling_params(parse_chat(chat())[0], CARD).seed for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 <= seed < 2**64 for seed in drawn)


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        sampling_params(parse_chat(chat(min_tokens=6, max_tokens=5))[0], CARD)
    assert caught.value.param == "min_tokens"


def test_echo_with_logprobs_asks_for_the_prompts() -> None:
    sampling = sampling_params(parse_completion(completion(echo=True, logprobs=3, max_tokens=0))[0], CARD)
    assert (sampling.logprobs, sampling.prompt_logprobs, sampling.max_tokens) == (3, 3, 1)
    assert text_params(parse_completion(completion(echo=True))[0], []).return_prompt_text


def test_messages_echo_at_most_200_printable_characters_of_input() -> None:
    error = refusal_of(parse_chat, chat(messages=[{"role": "\n" + "x" * 5000, "content": "y"}]))
    assert len(error.message) < 400
    assert error.message.isprintable()
