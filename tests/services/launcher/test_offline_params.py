"""Sampling parameters of the offline API: bounds, and what becomes of them in messages."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from quire.services.launcher.offline_params import SamplingParams, StructuredOutputs
from quire.shared import messages
from quire.shared.messages import GenerationDefaults


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"n": 0}, ValueError, "n is 0; it must be at least 1 and at most 2147483647"),
        ({"n": 1.5}, TypeError, "n is 1.5; it must be an integer"),
        ({"n": None}, TypeError, "n is None; it must be an integer"),
        ({"max_tokens": -1}, ValueError, "max_tokens is -1"),
        ({"max_tokens": True}, TypeError, "max_tokens is True; it must be an integer"),
        ({"min_tokens": 5, "max_tokens": 3}, ValueError, "min_tokens is 5; max_tokens is 3"),
        ({"temperature": "hot"}, TypeError, "temperature is 'hot'; it must be a number"),
        ({"temperature": -0.1}, ValueError, "temperature is -0.1; it must be at least 0"),
        ({"temperature": float("nan")}, ValueError, "temperature is nan"),
        ({"temperature": float("inf")}, ValueError, "temperature is inf"),
        ({"top_p": 0}, ValueError, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"min_p": 1.1}, ValueError, "min_p is 1.1"),
        ({"top_k": -2}, ValueError, "top_k is -2"),
        ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty is 0.0"),
        ({"presence_penalty": 3}, ValueError, "presence_penalty is 3.0"),
        ({"logprobs": -1}, ValueError, "logprobs is -1"),
        ({"priority": 2**31}, ValueError, "priority is 2147483648"),
        ({"seed": "x"}, TypeError, "seed is 'x'"),
        ({"stop": 3}, TypeError, "stop is 3; it must be a string, or several"),
        ({"stop": ["a", ""]}, ValueError, "stop has an empty string"),
        ({"stop_token_ids": 7}, TypeError, "stop_token_ids is 7; it must be a list of token ids"),
        ({"stop_token_ids": ["a"]}, TypeError, "an id in stop_token_ids is 'a'"),
        ({"allowed_token_ids": []}, ValueError, "allowed_token_ids is empty"),
        ({"logit_bias": [1]}, TypeError, "logit_bias is .* it must map token ids to numbers"),
        ({"logit_bias": {1: 101}}, ValueError, r"logit_bias\[1\] is 101.0"),
        ({"truncate_prompt_tokens": 0}, ValueError, "truncate_prompt_tokens is 0"),
        ({"truncation_side": "middle"}, ValueError, "truncation_side is 'middle'"),
        ({"cache_salt": 1}, TypeError, "cache_salt is 1"),
        ({"structured_outputs": {"json": {}}}, TypeError, "it must be StructuredOutputs"),
    ],
)
def test_what_is_out_of_bounds_is_refused_where_it_is_made(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        SamplingParams(**given)


def test_what_is_at_a_bound_is_taken() -> None:
    SamplingParams(n=1, max_tokens=0, temperature=0, top_p=1, top_k=-1, min_p=0, repetition_penalty=10, seed=-(2**80))
    SamplingParams(presence_penalty=-2, frequency_penalty=2, truncate_prompt_tokens=-1, stop="x", max_tokens=None)


def test_numbers_of_numpy_become_messages() -> None:
    params = SamplingParams(
        n=np.int64(2), temperature=np.float32(0.5), seed=np.int32(3), top_k=np.int64(-1), logprobs=np.int8(1),
        stop_token_ids=[np.int64(5)], logit_bias={np.int64(6): np.float32(1)}, max_tokens=np.int16(9),
    )  # fmt: skip
    sent = params.resolve(GenerationDefaults())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=messages.SamplingParams) == sent
    assert (sent.temperature, sent.seed, sent.top_k, sent.stop_token_ids, sent.logit_bias) == (0.5, 3, 0, [5], {6: 1.0})


def test_the_checkpoints_defaults_fill_what_is_not_given() -> None:
    defaults = GenerationDefaults(temperature=0.6, top_k=20)
    assert (SamplingParams().resolve(defaults).temperature, SamplingParams().resolve(defaults).top_k) == (0.6, 20)
    assert SamplingParams(temperature=0).resolve(defaults).temperature == 0.0
    assert SamplingParams().resolve(GenerationDefaults()).top_p == 1.0


def test_what_has_no_json_is_no_schema() -> None:
    with pytest.raises(TypeError):
        StructuredOutputs(json={"enum": [object()]})


def test_every_sampling_field_of_the_api_is_there() -> None:
    api = {field.name for field in msgspec.structs.fields(messages.SamplingParams)} - {"bad_token_ids"}
    api |= {field.name for field in msgspec.structs.fields(messages.TextParams)}
    api -= {"return_prompt_ids", "return_prompt_text", "shown_specials", "only_tokenizes", "return_token_strings"}
    api -= {"keeps_start"}
    api |= {"truncation_side", "n", "priority", "cache_salt", "structured_outputs"}
    own = {field.name for field in msgspec.structs.fields(SamplingParams)}
    assert api <= own
