"""The encoding threads: batching, long prompts aside, cancelled ones left out."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec

from quire.services.tokenizer.chat_template import needs_helper
from quire.services.tokenizer.encoding_lanes import EncodingLanes
from quire.services.tokenizer.model import load_model
from quire.services.tokenizer.preparation import Job, Preparation, Prepared
from quire.services.tokenizer.token_ids import pack_ids
from quire.services.tokenizer.validation import Limits
from quire.shared.config import TokenizerConfig
from quire.shared.messages import (
    ChatPrompt,
    Generate,
    IdsPrompt,
    Prompt,
    Refused,
    RequestId,
    SamplingParams,
    TextParams,
    TextPrompt,
)

LIMITS = Limits(max_model_len=4096, vocab_size=2048)


def _job(request_id: int, prompt: Prompt | None = None, **sampling: Any) -> Job:
    prompt = prompt or TextPrompt("hello")
    generate = Generate(RequestId(request_id), prompt, 1, SamplingParams(**sampling), TextParams(), 0, 0.0)
    return Job(generate, LIMITS, received=float(request_id))


def _refusal(job: Job) -> Refused:
    return Refused(job.generate.request_id, 400, "", "")


class _Gate:
    """A preparation that waits for the test; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.opened = threading.Event()
        self.entered = threading.Event()

    def prepare(self, jobs: list[Job]) -> list[Prepared | Refused]:
        self.batches.append([job.generate.request_id for job in jobs])
        self.entered.set()
        self.opened.wait(10)
        return [_refusal(job) for job in jobs]


def test_what_waits_is_taken_at_once_and_the_cancelled_never() -> None:
    async def scenario() -> tuple[list[list[int]], list[int]]:
        gate, delivered = _Gate(), []
        loop = asyncio.get_running_loop()
        lanes = EncodingLanes(gate.prepare, lambda job, _: delivered.append(job.generate.request_id), loop)
        jobs = [_job(number) for number in range(6)]
        lanes.put(jobs[0])
        await asyncio.to_thread(gate.entered.wait, 10)
        for job in jobs[1:]:
            lanes.put(job)
        jobs[0].is_cancelled = jobs[3].is_cancelled = True
        gate.opened.set()
        while len(delivered) < 4:
            await asyncio.sleep(0.001)
        lanes.close()
        return gate.batches, delivered

    batches, delivered = asyncio.run(scenario())
    assert batches == [[0], [1, 2, 4, 5]]
    assert delivered == [1, 2, 4, 5]


def test_what_clients_program_holds_up_nobody_else_and_is_refused_when_too_much_of_it_waits() -> None:
    async def scenario() -> list[tuple[int, str]]:
        delivered: list[tuple[int, str]] = []
        blocked, entered = threading.Event(), threading.Event()

        def prepare(jobs: list[Job]) -> list[Prepared | Refused]:
            if jobs[0].generate.request_id == 0:
                entered.set()
                blocked.wait(10)
            return [_refusal(job) for job in jobs]

        def on_prepared(job: Job, outcome: Prepared | Refused) -> None:
            delivered.append((job.generate.request_id, outcome.code if isinstance(outcome, Refused) else ""))

        lanes = EncodingLanes(prepare, on_prepared, asyncio.get_running_loop(), lambda one: needs_helper(one.prompt))
        lanes.put(_job(0, ChatPrompt(b"[]", template_kwargs_json=b'{"n": 5}')))
        await asyncio.to_thread(entered.wait, 10)
        for number in range(1, 20):
            lanes.put(_job(number, ChatPrompt(b"[]", chat_template="x")))
        lanes.put(_job(50, ChatPrompt(b"[]", template_kwargs_json=b'{"enable_thinking": false}')))
        while len(delivered) < 4:
            await asyncio.sleep(0.001)
        early = sorted(delivered)
        blocked.set()
        while len(delivered) < 21:
            await asyncio.sleep(0.001)
        lanes.close()
        return early

    early = asyncio.run(scenario())
    assert [number for number, _ in early] == [17, 18, 19, 50]
    assert [code for _, code in early[:3]] == ["server_overloaded"] * 3


def test_a_long_prompt_holds_up_no_short_one() -> None:
    async def scenario() -> list[int]:
        delivered: list[int] = []
        blocked = threading.Event()

        def prepare(jobs: list[Job]) -> list[Prepared | Refused]:
            if jobs[0].generate.request_id == 0:
                blocked.wait(10)
            return [_refusal(job) for job in jobs]

        lanes = EncodingLanes(
            prepare, lambda job, _: delivered.append(job.generate.request_id), asyncio.get_running_loop()
        )
        lanes.put(_job(0, TextPrompt("x" * 100_000)))
        lanes.put(_job(1))
        while not delivered:
            await asyncio.sleep(0.001)
        blocked.set()
        while len(delivered) < 2:
            await asyncio.sleep(0.001)
        lanes.close()
        return delivered

    assert asyncio.run(scenario()) == [1, 0]


def test_a_batch_is_prepared_in_order_whatever_its_kinds() -> None:
    model = load_model(TokenizerConfig())
    preparation = Preparation(model.tokenizer, model.template)
    messages = msgspec.json.encode([{"role": "user", "content": "hello"}])
    prompts: list[Prompt] = [
        TextPrompt("hello"),
        IdsPrompt(pack_ids([5, 6])),
        ChatPrompt(messages),
        TextPrompt(""),
        ChatPrompt(b"{}"),
        TextPrompt("hello", add_special_tokens=False),
        IdsPrompt(pack_ids([9999])),
    ]
    outcomes = preparation.prepare([_job(number, prompt) for number, prompt in enumerate(prompts)])
    assert [isinstance(outcome, Prepared) for outcome in outcomes] == [True, True, True, False, False, True, False]
    for number, outcome in enumerate(outcomes):
        request_id = outcome.submit.request_id if isinstance(outcome, Prepared) else outcome.request_id
        assert request_id == number


def test_a_model_without_a_chat_template_says_so() -> None:
    model = load_model(TokenizerConfig())
    (outcome,) = Preparation(model.tokenizer, None).prepare([_job(1, ChatPrompt(b'[{"role":"user","content":"x"}]'))])
    assert isinstance(outcome, Refused) and outcome.status == 400 and "no chat template" in outcome.message


def test_the_loop_turns_while_a_long_prompt_is_encoded() -> None:
    """The library releases the interpreter: the loop's turns go on in the middle of an encode."""
    model = load_model(TokenizerConfig())
    preparation = Preparation(model.tokenizer, model.template)
    limits = Limits(max_model_len=1 << 22, vocab_size=2048)
    job = _job(1, TextPrompt("hello what is this 12345 " * 40_000))
    job.limits = limits

    async def scenario() -> int:
        turns, done = 0, asyncio.Event()
        lanes = EncodingLanes(preparation.prepare, lambda *_: done.set(), asyncio.get_running_loop())
        lanes.put(job)
        started = time.monotonic()
        while not done.is_set() and time.monotonic() - started < 60:
            await asyncio.sleep(0)
            turns += 1
        lanes.close()
        return turns

    assert asyncio.run(scenario()) > 100
