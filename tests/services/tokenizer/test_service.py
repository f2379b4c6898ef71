"""The tokenizer process between a played engine and a played frontend."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tokenizer_under_test import FakeEngine, FakeFrontend, TokenizerProcess

from quire.services.tokenizer.token_ids import pack_ids, unpack_ids
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.shared.messages import (
    Abort,
    Accepted,
    Bequest,
    ChatPrompt,
    Finding,
    Finished,
    History,
    IdsPrompt,
    Inquiry,
    Refused,
    Report,
    SamplingParams,
    Started,
    Submit,
    TextBatch,
    TextParams,
    TextPrompt,
    TokenBatch,
    TokenLogprobs,
)


class Chain:
    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.engine = FakeEngine(run_dir)
        self.process = TokenizerProcess(run_dir, "--served-model-name", "demo", "--served-model-name", "second")
        deadline = time.monotonic() + 60
        while self.engine.service.directory.entry("tokenizer-0") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self.frontend = FakeFrontend(run_dir)
        self.engine.next(object)  # its Hello, which is answered
        self.frontend.until_ready()

    def close(self) -> None:
        self.process.close()
        self.frontend.close()
        self.engine.close()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    run_dir = tmp_path / "run"
    chain = Chain(run_dir)
    yield chain
    chain.close()


def _messages(*contents: str) -> bytes:
    return msgspec.json.encode([{"role": "user", "content": content} for content in contents])


def _ids(demo: TextTokenizer, text: str) -> list[int]:
    return demo.encode_texts([text], add_special_tokens=False)[0]


def test_a_chat_goes_down_as_ids_and_comes_back_as_text(chain: Chain, demo: TextTokenizer) -> None:
    request_id = chain.frontend.generate(ChatPrompt(_messages("Hi <|im_end|> there")))
    submit = chain.engine.accept()
    prompt = unpack_ids(submit.prompt_ids)
    assert demo.decode(prompt) == "<|im_start|>user\nHi <|im_end|> there<|im_end|>\n<|im_start|>assistant\n"
    assert [token_id for token_id in prompt if token_id in demo.special_ids] == [1, 2, 1]
    accepted = chain.frontend.next(Accepted)
    assert accepted.num_prompt_tokens == len(prompt)
    ids = _ids(demo, "Hello 😀")
    for token_id in ids:
        chain.engine.tokens(request_id, [token_id])
    chain.engine.tokens(request_id, [2], "stop")
    assert chain.frontend.text_of(request_id) == ("Hello 😀", Finished(0, "stop"))


def test_the_report_has_the_card_and_everyone_it_knows(chain: Chain) -> None:
    chain.frontend.client.send(Report("frontend-0", 1, 1, "ready", "", 1.0, 0, samples={"x": 1.0}))
    report = chain.frontend.next(Report, lambda report: any(known.name == "frontend-0" for known in report.known))
    assert report.card is not None
    assert report.card.names == ["demo", "second"]
    assert report.card.max_model_len == 512 and report.card.has_chat_template
    assert report.card.defaults.top_k == 20
    assert report.card.limits == {
        "helper_timeout": 1.0,
        "helper_memory": 256 << 20,
        "max_schema_size": 64 << 10,
        "max_regex_size": 4 << 10,
        "max_rendered_size": 16 << 20,
    }
    assert {known.name for known in report.known} == {"engine-0", "worker-0-0", "frontend-0"}
    assert all(known.card is None and not known.known for known in report.known)
    assert "quire_tokenizer_requests" in report.samples


def test_a_stop_string_ends_the_choice_and_aborts_it_in_the_engine(chain: Chain, demo: TextTokenizer) -> None:
    request_id = chain.frontend.generate(TextPrompt("Say"), text=TextParams(stop=["STOP", "never"]))
    chain.engine.accept()
    for token_id in _ids(demo, "one STOP two"):
        chain.engine.tokens(request_id, [token_id])
    text, end = chain.frontend.text_of(request_id)
    assert (text, end.reason, end.stop_reason) == ("one ", "stop", "STOP")
    assert chain.engine.next(Abort) == Abort(request_id, 0, "stop_string")
    follower = chain.frontend.generate(TextPrompt("Again"))
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.engine.tokens(follower, [], "length")
    assert chain.frontend.next(TextBatch).request_ids == [follower]


def test_a_stop_string_is_shown_when_asked_for_and_not_before_min_tokens(chain: Chain, demo: TextTokenizer) -> None:
    ids = _ids(demo, "a!b!c!")
    request_id = chain.frontend.generate(
        TextPrompt("x"),
        SamplingParams(max_tokens=len(ids), min_tokens=len(_ids(demo, "a!"))),
        TextParams(stop=["!"], include_stop_str_in_output=True),
    )
    chain.engine.accept()
    for token_id in ids:
        chain.engine.tokens(request_id, [token_id])
    assert chain.frontend.text_of(request_id)[0] == "a!b!"


def test_the_text_of_a_stop_token_is_left_out_unless_asked_for(chain: Chain, demo: TextTokenizer) -> None:
    (hello, *_) = _ids(demo, "Hello")
    stop = _ids(demo, ".")[-1]
    for shows in (False, True):
        request_id = chain.frontend.generate(TextPrompt("x"), text=TextParams(include_stop_str_in_output=shows))
        chain.engine.accept()
        chain.engine.say(
            TokenBatch([request_id], [0], [2], pack_ids([hello, stop]), finished=[Finished(0, "stop", stop)])
        )
        text, end = chain.frontend.text_of(request_id)
        assert text == demo.decode([hello, stop] if shows else [hello])
        assert end.stop_reason == stop


def test_rows_of_two_frontends_go_to_their_own(chain: Chain, demo: TextTokenizer) -> None:
    other = FakeFrontend(chain.run_dir, name="frontend-1")
    try:
        first = chain.frontend.generate(TextPrompt("a"), n=2)
        chain.engine.accept()
        second = other.generate(TextPrompt("b"))
        chain.engine.accept()
        (x, y, z) = (_ids(demo, text)[0] for text in "xyz")
        chain.engine.say(
            TokenBatch(
                [first, second, first],
                [0, 0, 1],
                [1, 1, 1],
                pack_ids([x, y, z]),
                started=[Started(1, 3, 0.5), Started(2, 4, 0.25)],
                finished=[Finished(2, "length")],
            )
        )
        batch = chain.frontend.next(TextBatch)
        assert (batch.request_ids, batch.choices, batch.texts, batch.counts) == (
            [first] * 2,
            [0, 1],
            ["x", "z"],
            [1, 1],
        )
        assert unpack_ids(batch.token_ids) == [x, z]
        assert batch.started == [Started(1, 4, 0.25)] and batch.finished == [Finished(1, "length")]
        batch = other.next(TextBatch)
        assert (batch.request_ids, batch.texts, batch.started) == ([second], ["y"], [Started(0, 3, 0.5)])
    finally:
        other.close()


def test_what_frontends_say_to_each_other_is_carried_and_who_is_not_there_is_told(chain: Chain) -> None:
    other = FakeFrontend(chain.run_dir, name="frontend-1")
    try:
        other.until_ready()
        inquiry = Inquiry("frontend-1", "frontend-0", 7, "answer", "resp_1", "key")
        chain.frontend.client.send(inquiry)
        assert other.next(Inquiry) == inquiry
        finding = Finding("frontend-0", "frontend-1", 7, "found", b"{}")
        other.client.send(finding)
        assert chain.frontend.next(Finding) == finding
        bequest = Bequest("frontend-0", "resp_1", "key", "completed", b"{}", b"[]", b"[]")
        other.client.send(bequest)
        assert chain.frontend.next(Bequest) == bequest
        chain.frontend.client.send(msgspec.structs.replace(inquiry, to="frontend-2"))
        assert chain.frontend.next(Finding) == Finding("frontend-0", "frontend-2", 7, "unreachable")
    finally:
        other.close()


def test_logprobs_carry_the_bytes_of_tokens(chain: Chain, demo: TextTokenizer) -> None:
    prompt = [5, 6, 7]
    request_id = chain.frontend.generate(
        IdsPrompt(pack_ids(prompt)),
        SamplingParams(max_tokens=4, logprobs=2, prompt_logprobs=0),
        TextParams(return_prompt_ids=True, return_prompt_text=True),
    )
    chain.engine.accept()
    accepted = chain.frontend.next(Accepted)
    assert unpack_ids(accepted.prompt_ids) == prompt
    assert accepted.prompt_text == demo.decode(prompt)

    def floats(*values: float) -> bytes:
        from array import array

        return array("f", values).tobytes()

    half = _ids(demo, "😀")[0]
    row = TokenLogprobs(0, floats(-0.5), pack_ids([2]), pack_ids([9, half]), floats(-0.25, -0.5))
    of_prompt = TokenLogprobs(0, floats(-1.0, -2.0), pack_ids([1, 3]), b"", b"")
    chain.engine.tokens(request_id, [half], logprobs=[row], prompt_logprobs=[of_prompt])
    batch = chain.frontend.next(TextBatch)
    (logprobs,) = batch.logprobs
    token_bytes = demo.texts.token_bytes
    assert [(e.token_id, e.token, e.logprob, e.rank) for e in logprobs.tokens] == [(half, token_bytes[half], -0.5, 2)]
    assert [[(e.token_id, e.rank) for e in top] for top in logprobs.top] == [[(9, 1), (half, 2)]]
    (of_prompt_text,) = batch.prompt_logprobs
    assert [(e.token_id, e.token) for e in of_prompt_text.tokens] == [(6, token_bytes[6]), (7, token_bytes[7])]
    assert of_prompt_text.top == [[], []]


def test_wrong_requests_are_refused_by_name_value_and_limit(chain: Chain) -> None:
    frontend = chain.frontend
    frontend.generate(IdsPrompt(pack_ids([5, 2048])))
    assert frontend.next(Refused).message == "prompt contains token id 2048, but the vocabulary's ids are 0 to 2047"
    frontend.generate(TextPrompt("a"), SamplingParams(logit_bias={99999: 1.0}))
    refused = frontend.next(Refused)
    assert (refused.status, refused.param) == (400, "logit_bias") and "99999" in refused.message
    frontend.generate(IdsPrompt(pack_ids([5] * 512)))
    refused = frontend.next(Refused)
    assert refused.code == "context_length_exceeded"
    assert refused.message == (
        "This model's maximum context length is 512 tokens, but your prompt is too long: it has 512 tokens."
        " Please reduce the length of the messages."
    )
    frontend.generate(ChatPrompt(b"[" * 5000))
    assert frontend.next(Refused).param == "messages"


def test_an_engines_refusal_is_passed_on(chain: Chain) -> None:
    request_id = chain.frontend.generate(TextPrompt("a"))
    submit = chain.engine.next(Submit)
    chain.engine.say(Refused(submit.request_id, 503, "server_overloaded", "full", None, 2.0))
    assert chain.frontend.next(Refused) == Refused(request_id, 503, "server_overloaded", "full", None, 2.0)


def test_an_abort_reaches_the_engine_and_later_rows_are_ignored(chain: Chain, demo: TextTokenizer) -> None:
    request_id = chain.frontend.generate(TextPrompt("a"), n=2)
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.frontend.abort(request_id, 1)
    assert chain.engine.next(Abort) == Abort(request_id, 1, "client_gone")
    chain.engine.say(TokenBatch([request_id] * 2, [0, 1], [1, 1], pack_ids([50, 51])))
    assert chain.frontend.next(TextBatch).choices == [0]
    chain.frontend.abort(request_id)
    assert chain.engine.next(Abort) == Abort(request_id, None, "client_gone")
    chain.frontend.next(Report, lambda report: report.samples["quire_tokenizer_requests"] == 0)


def test_a_frontend_that_vanishes_has_its_requests_aborted(chain: Chain) -> None:
    other = FakeFrontend(chain.run_dir, name="frontend-1")
    other.until_ready()
    request_id = other.generate(TextPrompt("a"))
    chain.engine.accept()
    other.next(Accepted)
    other.next(Report)  # by then the tokenizer has looked into the run directory
    other.close()
    assert chain.engine.next(Abort) == Abort(request_id, None, "peer_gone")


def test_an_engine_that_vanishes_ends_everything_it_had(chain: Chain) -> None:
    unanswered = chain.frontend.generate(TextPrompt("a"))
    chain.engine.next(Submit)
    accepted = chain.frontend.generate(TextPrompt("b"), n=2)
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.engine.close()
    first = chain.frontend.next(Refused)
    assert (first.request_id, first.status, first.code) == (unanswered, 503, "service_unavailable")
    batch = chain.frontend.next(TextBatch)
    assert (batch.request_ids, batch.choices, batch.counts) == ([accepted] * 2, [0, 1], [0, 0])
    assert [(end.row, end.reason) for end in batch.finished] == [(0, "lost"), (1, "lost")]
    chain.frontend.next(Report, lambda report: report.state == "starting")
    chain.frontend.generate(TextPrompt("c"))
    assert chain.frontend.next(Refused).code == "service_unavailable"
    chain.engine = FakeEngine(chain.run_dir)
    chain.engine.next(object)
    chain.frontend.until_ready()
    chain.frontend.generate(TextPrompt("d"))
    chain.engine.accept()
    chain.frontend.next(Accepted)


def test_an_engine_that_reports_failure_ends_everything_it_had(chain: Chain) -> None:
    request_id = chain.frontend.generate(TextPrompt("b"))
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.engine.say(chain.engine.service.report("failed", detail="worker-0-0 is gone"))
    assert chain.frontend.text_of(request_id)[1].reason == "lost"
    report = chain.frontend.next(Report, lambda report: report.state != "ready")
    assert "worker-0-0 is gone" in report.detail


def test_a_step_that_cannot_be_turned_to_text_ends_its_requests_and_no_other(chain: Chain, demo: TextTokenizer) -> None:
    broken = chain.frontend.generate(TextPrompt("a"))
    chain.engine.accept()
    healthy = chain.frontend.generate(TextPrompt("b"))
    chain.engine.accept()
    chain.engine.tokens(broken, [10_000_000])
    assert chain.frontend.text_of(broken)[1].reason == "error"
    assert chain.engine.next(Abort).request_id == broken
    chain.engine.tokens(healthy, _ids(demo, "fine"), "length")
    assert chain.frontend.text_of(healthy) == ("fine", Finished(0, "length"))


def test_a_resumed_request_goes_on_where_its_client_is(chain: Chain, demo: TextTokenizer) -> None:
    text = "one two 😀 three"
    ids = _ids(demo, text)
    half = len(ids) // 2
    sent = len("one t")
    request_id = chain.frontend.generate(
        TextPrompt("x"),
        n=2,
        history=[History(pack_ids(ids[:half]), sent), History(pack_ids(ids), len(text), is_finished=True)],
    )
    submit = chain.engine.accept()
    assert [unpack_ids(entry.output_ids) for entry in submit.history] == [ids[:half], ids]
    chain.frontend.next(Accepted)
    for token_id in ids[half:]:
        chain.engine.tokens(request_id, [token_id])
    chain.engine.tokens(request_id, [], "length")
    assert text[:sent] + chain.frontend.text_of(request_id)[0] == text


def test_a_history_that_holds_its_stop_string_ends_at_once(chain: Chain, demo: TextTokenizer) -> None:
    ids = _ids(demo, "one STOP")
    request_id = chain.frontend.generate(
        TextPrompt("x"), text=TextParams(stop=["STOP"]), history=[History(pack_ids(ids), 2)]
    )
    chain.engine.accept()
    text, end = chain.frontend.text_of(request_id)
    assert (text, end.stop_reason) == ("e ", "STOP")
    assert chain.engine.next(Abort) == Abort(request_id, 0, "stop_string")


def test_sigterm_lets_what_runs_finish_and_admits_nothing_more(chain: Chain, demo: TextTokenizer) -> None:
    request_id = chain.frontend.generate(TextPrompt("x"))
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.process.process.send_signal(signal.SIGTERM)
    chain.frontend.next(Report, lambda report: report.state == "draining")
    chain.frontend.generate(TextPrompt("y"))
    assert chain.frontend.next(Refused).status == 503
    chain.engine.tokens(request_id, _ids(demo, "done"), "length")
    assert chain.frontend.text_of(request_id) == ("done", Finished(0, "length"))
    assert chain.process.wait()[0] == 0
    assert chain.engine.service.directory.entry("tokenizer-0") is None


def test_a_second_sigterm_ends_what_still_runs(chain: Chain) -> None:
    chain.frontend.generate(TextPrompt("x"))
    chain.engine.accept()
    chain.frontend.next(Accepted)
    chain.process.process.send_signal(signal.SIGTERM)
    chain.frontend.next(Report, lambda report: report.state == "draining")
    assert chain.process.end()[0] == 0
    batch = chain.frontend.next(TextBatch)
    assert batch.finished[0].reason == "moved"


def test_neither_torch_nor_transformers_nor_numpy_is_in_the_process(chain: Chain) -> None:
    maps = Path(f"/proc/{chain.process.process.pid}/maps").read_text()
    assert "tokenizers" in maps
    for library in ("torch", "numpy"):
        assert f"/{library}/" not in maps


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--model", "/nowhere/at/all"), "does not exist"),
        (("--chat-template", "/nowhere/template.jinja"), "cannot be read"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_an_exit_code(
    tmp_path: Path, flags: tuple[str, str], sentence: str
) -> None:
    process = TokenizerProcess(tmp_path / "run", *flags)
    try:
        code, said = process.wait()
    finally:
        process.close()
    assert code == 1
    assert sentence in said.strip().splitlines()[-1]
    assert "Traceback" not in said


def test_descriptors_do_not_grow_with_engines_that_come_and_go(chain: Chain) -> None:
    folder = f"/proc/{chain.process.process.pid}/fd"

    def restart() -> int:
        chain.engine.close()
        chain.frontend.next(Report, lambda report: report.state == "starting")
        chain.engine = FakeEngine(chain.run_dir)
        chain.engine.next(object)
        chain.frontend.until_ready()
        return len(os.listdir(folder))

    counts = [restart() for _ in range(4)]
    assert counts[-1] <= counts[0] + 1


def test_markers_that_are_special_tokens_stay_in_the_text_and_the_others_do_not(
    chain: Chain, demo: TextTokenizer
) -> None:
    start, end = 1, 2
    assert demo.special_tokens(["<|im_start|>", "</think>"]) == {start: "<|im_start|>"}
    a, b = _ids(demo, "a")[0], _ids(demo, "b")[0]
    wanted = [a, start, b, end, b]
    request_id = chain.frontend.generate(
        TextPrompt("x"), SamplingParams(logprobs=0), TextParams(shown_specials=["<|im_start|>", "</think>"])
    )
    chain.engine.accept()
    zeros = bytes(4 * len(wanted))
    logprobs = [TokenLogprobs(0, zeros, zeros, b"", b"")]
    chain.engine.say(
        TokenBatch([request_id], [0], [5], pack_ids(wanted), finished=[Finished(0, "length")], logprobs=logprobs)
    )
    batch = chain.frontend.next(TextBatch)
    assert batch.texts == ["a<|im_start|>bb"]
    assert b"".join(entry.token for entry in batch.logprobs[0].tokens) == b"a<|im_start|>bb"


def test_a_prompt_that_ends_within_reasoning_says_so(tmp_path: Path) -> None:
    template = tmp_path / "think.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }}\n{% endfor %}"
        "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n{% endif %}"
    )
    engine = FakeEngine(tmp_path / "run")
    process = TokenizerProcess(tmp_path / "run", "--chat-template", str(template))
    frontend = None
    try:
        deadline = time.monotonic() + 60
        while engine.service.directory.entry("tokenizer-0") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        frontend = FakeFrontend(tmp_path / "run")
        engine.next(object)
        frontend.until_ready()
        assert frontend.report.card is not None
        assert (frontend.report.card.tool_format, frontend.report.card.reasoning_format) == ("", "think")
        for kwargs, starts_inside in ((b"", True), (b'{"enable_thinking":false}', False)):
            frontend.generate(ChatPrompt(_messages("hi"), template_kwargs_json=kwargs))
            engine.accept()
            assert frontend.next(Accepted).starts_in_reasoning is starts_inside
    finally:
        process.close()
        if frontend is not None:
            frontend.close()
        engine.close()
