"""The offline API with the demo model."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

import quire
from quire.services.launcher.llm import LLM, LLMError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=60)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_num_seqs=8, threads=1) as loaded:
        yield loaded


def test_quire_exports_the_offline_api() -> None:
    assert quire.LLM is LLM
    assert quire.SamplingParams is SamplingParams


def test_chat_answers_by_the_template(llm: LLM) -> None:
    (output,) = llm.chat([{"role": "user", "content": "Count from 1 to 20"}], GREEDY)
    assert output.error == ""
    assert "1, 2, 3, 4, 5" in output.text.replace("\n", " ")
    assert output.finish_reason in ("stop", "length")


def test_many_prompts_come_back_in_order(llm: LLM) -> None:
    prompts = [f"{number} is a number, and" for number in range(40)]
    alone = [llm.generate(prompt, GREEDY)[0].token_ids for prompt in prompts[:3]]
    together = llm.generate(prompts, GREEDY)
    assert [output.token_ids for output in together[:3]] == alone
    assert all(output.error == "" and output.finish_reason for output in together)


def test_a_text_and_its_token_ids_are_the_same_prompt(llm: LLM) -> None:
    (by_text,) = llm.generate("One, two, three", GREEDY)
    (by_ids,) = llm.generate(by_text.prompt_ids, GREEDY)
    assert (by_ids.prompt_ids, by_ids.token_ids) == (by_text.prompt_ids, by_text.token_ids)


def test_a_bad_prompt_does_not_fail_the_others(llm: LLM) -> None:
    first, bad, last = llm.generate(["Hello", [10**6], "Hello"], GREEDY)
    assert bad.error and bad.finish_reason == "error"
    assert first.text == last.text != ""
    assert first.error == last.error == ""


def test_a_seed_repeats_and_choices_differ(llm: LLM) -> None:
    params = SamplingParams(n=4, temperature=1.5, seed=7, max_tokens=24, ignore_eos=True)
    once, again = llm.generate(["Once upon a time"] * 2, params)
    assert [choice.token_ids for choice in once.choices] == [choice.token_ids for choice in again.choices]
    assert len({tuple(choice.token_ids) for choice in once.choices}) > 1
    assert all(len(choice.token_ids) == 24 and choice.finish_reason == "length" for choice in once.choices)


def test_stop_strings_and_logprobs(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, stop="5", logprobs=2)
    (output,) = llm.chat([{"role": "user", "content": "Count from 1 to 20"}], params)
    assert (output.finish_reason, output.choices[0].stop_reason) == ("stop", "5")
    assert "5" not in output.text
    logprobs = output.choices[0].logprobs
    assert logprobs is not None
    assert all(entry.logprob <= 0 and len(entry.top) == 2 and entry.token_id == entry.top[0][0] for entry in logprobs)


def test_params_of_another_number_than_prompts_are_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match="2 prompts have 1 sampling params"):
        llm.generate(["a", "b"], [GREEDY])


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="no setting 'max_seqs'"):
        LLM(max_seqs=3)


def test_an_unknown_folder_is_refused() -> None:
    with pytest.raises(LLMError, match="/no/such/model does not exist"):
        LLM("/no/such/model")


def test_a_lost_worker_ends_calls_with_its_name() -> None:
    with LLM(threads=1) as loaded:
        os.kill(loaded._supervisor.children["worker-0-0"].pid, signal.SIGKILL)
        outputs = []
        with pytest.raises(LLMError, match="worker-0-0"):
            for _ in range(1000):
                outputs += loaded.generate("Hello", SamplingParams(max_tokens=400, ignore_eos=True))
        assert all(output.error or output.finish_reason == "length" for output in outputs)
    with pytest.raises(LLMError):
        loaded.generate("Hello")
