"""The offline API with the demo model."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import quire
from quire.services.launcher.async_llm import AsyncLLM
from quire.services.launcher.llm import LLM, BeamSearchParams, LLMError, SamplingParams
from quire.services.launcher.progress import Progress
from quire.shared import model_files

GREEDY = SamplingParams(temperature=0, max_tokens=60)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(max_num_seqs=8, threads=1) as loaded:
        yield loaded


def test_quire_exports_the_offline_api() -> None:
    assert quire.LLM is LLM
    assert quire.AsyncLLM is AsyncLLM
    assert quire.SamplingParams is SamplingParams
    assert all(getattr(quire, name) is not None for name in quire.__all__)


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


def test_what_can_never_be_sent_or_run_fails_alone(llm: LLM) -> None:
    alone = llm.generate("Hello", GREEDY)[0].text
    params = [GREEDY, SamplingParams(n=5000), GREEDY]
    unsendable, too_many, good = llm.generate(["\ud800", "Hello", "Hello"], params)
    assert "cannot be sent" in unsendable.error
    assert "--max-waiting allows" in too_many.error
    assert (good.text, good.error) == (alone, "")


def test_what_is_no_prompt_is_a_type_error(llm: LLM) -> None:
    for wrong in (5, None, b"Hello", {"role": "user"}, [None], [[1, "a"]], [[10**10]]):
        with pytest.raises(TypeError, match=r"prompt.* text"):
            llm.generate(wrong)  # type: ignore[arg-type]
    for wrong in ("Hello", {"role": "user", "content": "Hello"}, ["Hello"]):
        with pytest.raises(TypeError, match="a conversation is a list of messages"):
            llm.chat(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'tool'; there are tools, "):
        llm.chat([{"role": "user", "content": "Hello"}], tool=[])  # type: ignore[call-arg]


def test_a_message_is_continued_and_a_template_replaced(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Count from 1 to 20"}, {"role": "assistant", "content": "1, 2, 3"}]
    (continued,) = llm.chat(messages, GREEDY, continue_final_message=True)
    assert continued.text.startswith(", 4, 5")
    (plain,) = llm.chat(messages[:1], GREEDY, chat_template="{{ messages[0].content }}")
    assert plain.token_ids == llm.generate("Count from 1 to 20", GREEDY)[0].token_ids


def test_prompts_are_scored_cut_and_kept_apart(llm: LLM) -> None:
    text = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    (whole,) = llm.generate(text, SamplingParams(max_tokens=1, prompt_logprobs=2))
    assert whole.prompt_logprobs is not None
    first, *others = whole.prompt_logprobs
    assert first is None
    assert [entry.token_id for entry in others if entry] == whole.prompt_ids[1:]
    assert all(entry and len(entry.top) == 2 and entry.logprob <= entry.top[0][2] for entry in others)
    (cut,) = llm.generate(text, SamplingParams(max_tokens=1, truncate_prompt_tokens=4))
    assert cut.prompt_ids == whole.prompt_ids[-4:]
    (cut,) = llm.generate(text, SamplingParams(max_tokens=1, truncate_prompt_tokens=4, truncation_side="right"))
    assert cut.prompt_ids == whole.prompt_ids[:4]
    salted = SamplingParams(max_tokens=1, cache_salt="mine")
    cached = [llm.generate(text, params)[0].num_cached_tokens for params in (GREEDY, salted, salted)]
    assert cached[1] == 0 < cached[0] == cached[2]


def test_bad_words_are_not_written(llm: LLM) -> None:
    prompt = "Once upon a time there was a little"
    (plain,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=40))
    pair = " ".join(plain.text.split()[1:3])
    (without,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=40, bad_words=[pair]))
    assert pair in plain.text and pair not in without.text and without.text


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


def test_calls_from_several_threads_run_together_and_each_gets_its_own(llm: LLM) -> None:
    alone = {number: llm.generate(f"{number} and", GREEDY)[0].text for number in range(6)}
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda number: llm.generate([f"{number} and"] * 3, GREEDY), range(6)))
    assert [[output.text for output in outputs] for outputs in together] == [[alone[number]] * 3 for number in range(6)]


def test_a_stream_is_the_whole_in_pieces(llm: LLM) -> None:
    params = SamplingParams(n=2, temperature=0.9, seed=11, max_tokens=30, logprobs=1)
    (whole,) = llm.generate("Once upon a time", params)
    deltas = list(llm.stream("Once upon a time", params))
    for choice in whole.choices:
        own = [delta for delta in deltas if delta.index == choice.index]
        assert len(own) > 1 and "".join(delta.text for delta in own) == choice.text
        assert [token_id for delta in own for token_id in delta.token_ids] == choice.token_ids
        assert [entry for delta in own for entry in delta.logprobs or []] == choice.logprobs
        assert [delta.finish_reason for delta in own] == [""] * (len(own) - 1) + [choice.finish_reason]


def test_a_chat_streams_and_an_error_is_raised(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Spell quire"}]
    assert "".join(delta.text for delta in llm.stream_chat(messages, GREEDY)) == llm.chat(messages, GREEDY)[0].text
    with pytest.raises(LLMError, match="vocabulary"):
        list(llm.stream([10**6], GREEDY))


def test_a_stream_that_is_closed_leaves_room_for_others(llm: LLM) -> None:
    long = SamplingParams(max_tokens=None, ignore_eos=True)
    streams = [llm.stream("Hello", long) for _ in range(24)]
    for stream in streams[:8]:  # as many as run at once
        next(stream)
    with ThreadPoolExecutor(1) as pool:  # one more waits until there is room again
        waiting = pool.submit(lambda: next(streams[8]))
        for stream in streams[:8]:
            stream.close()
        waiting.result()
    for stream in streams:
        stream.close()
    assert llm.generate("Hello", GREEDY)[0].error == ""
    assert llm._chain.session._link.num_open == 0


def test_an_interrupted_call_takes_its_prompts_back(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["Hello"] * 50, SamplingParams(max_tokens=None, ignore_eos=True))
    monkeypatch.undo()
    assert llm.generate("Hello", GREEDY)[0].error == ""
    assert llm._chain.session._link.num_open == 0


def test_the_bar_counts_prompts_and_is_silent_without_a_terminal(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["Hello"] * 3, GREEDY)
    assert capsys.readouterr().err == ""
    llm.generate(["Hello"] * 3, GREEDY, progress=True)
    assert "3 of 3, " in capsys.readouterr().err


def test_on_a_terminal_several_prompts_have_a_bar(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    llm.generate("Hello", GREEDY)
    llm.generate(["Hello"] * 3, GREEDY, progress=False)
    assert screen.getvalue() == ""
    llm.generate(["Hello"] * 3, GREEDY)
    assert screen.getvalue().endswith(" tokens/s\n") and "100%  3 of 3, " in screen.getvalue()


def test_beam_search_is_that_of_transformers(llm: LLM) -> None:
    folder = Path(model_files.__file__).with_name("demo_model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = ["Once upon a time", "The capital of", "One, two,"]
    outputs = llm.beam_search(prompts, BeamSearchParams(beam_width=3, max_tokens=20, length_penalty=0.8))
    for output in outputs:
        with torch.inference_mode():
            wanted = model.generate(
                torch.tensor([output.prompt_ids]), num_beams=3, num_return_sequences=3, max_new_tokens=20,
                length_penalty=0.8, do_sample=False, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        theirs = wanted.sequences[:, len(output.prompt_ids) :].tolist()
        assert [choice.token_ids for choice in output.choices] == [
            ids[: len(choice.token_ids)] for ids, choice in zip(theirs, output.choices, strict=True)
        ]
        scores = [choice.score for choice in output.choices]
        assert scores == pytest.approx(wanted.sequences_scores.tolist(), abs=1e-4)
    (greedy,) = llm.generate(prompts[0], GREEDY)
    (one,) = llm.beam_search(prompts[0], BeamSearchParams(beam_width=1, max_tokens=60))
    assert (one.text, one.token_ids) == (greedy.text, greedy.token_ids)


def test_a_bad_prompt_of_a_beam_search_does_not_fail_the_others(llm: LLM) -> None:
    params = BeamSearchParams(beam_width=2, max_tokens=8, num_return=1)
    first, bad = llm.beam_search(["Hello", [10**6]], params)
    assert len(first.choices) == 1 and first.text and not first.error
    assert "vocabulary" in bad.error
    with pytest.raises(ValueError, match="at least 1"):
        llm.beam_search("Hello", BeamSearchParams(beam_width=0))


def test_closing_ends_what_is_under_way() -> None:
    loaded = LLM(threads=1)
    stream = loaded.stream("Hello", SamplingParams(max_tokens=None, ignore_eos=True))
    next(stream)
    loaded.close()
    with pytest.raises(LLMError):
        list(stream)
    with pytest.raises(LLMError):
        loaded.generate("Hello")
    loaded.close()


def test_an_event_loop_has_the_same_answers_side_by_side() -> None:
    async def ask() -> None:
        async with AsyncLLM(threads=1, max_num_seqs=8) as llm:
            messages = [{"role": "user", "content": "Spell quire"}]
            texts = await asyncio.gather(*(llm.chat(messages, GREEDY) for _ in range(12)))
            assert {output.text for output in texts} == {"q, u, i, r, e"}
            assert "".join([delta.text async for delta in llm.stream_chat(messages, GREEDY)]) == "q, u, i, r, e"
            with pytest.raises(LLMError, match="vocabulary"):
                await llm.generate([10**6])
            task = asyncio.create_task(llm.generate("Hello", SamplingParams(max_tokens=None, ignore_eos=True)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await llm.generate("Hello", GREEDY)).finish_reason in ("stop", "length")
            assert llm._chain is not None and llm._chain.session._link.num_open == 0
        with pytest.raises(LLMError):
            await llm.generate("Hello")

    asyncio.run(ask())


def test_params_of_another_number_than_prompts_are_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match="2 prompts have 1 sampling params"):
        llm.generate(["a", "b"], [GREEDY])


def test_an_unknown_folder_is_refused() -> None:
    with pytest.raises(LLMError, match="/no/such/model does not exist"):
        LLM("/no/such/model")


def test_a_lost_worker_ends_calls_with_its_name() -> None:
    with LLM(threads=1) as loaded:
        os.kill(loaded._chain._supervisor.children["worker-0-0"].pid, signal.SIGKILL)
        outputs = []
        with pytest.raises(LLMError, match="worker-0-0"):
            ends = time.monotonic() + 60.0
            while time.monotonic() < ends:  # calls come back with errors until the loss is known here
                outputs += loaded.generate("Hello", SamplingParams(max_tokens=400, ignore_eos=True))
                time.sleep(0.01)
        assert all(output.error or output.finish_reason == "length" for output in outputs)
    with pytest.raises(LLMError):
        loaded.generate("Hello")
