"""Tests of the served demo model with the clients people use: the openai SDK and plain curl."""

from __future__ import annotations

import json
import subprocess

import openai
import pytest
from running_server import RunningServer


@pytest.fixture
def client(demo: RunningServer):
    with openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, question: str, **fields) -> str:
    answer = client.chat.completions.create(
        model="", messages=[{"role": "user", "content": question}], **{"temperature": 0, **fields}
    )
    return answer.choices[0].message.content or ""


def test_the_demo_model_counts_spells_adds_lists_and_writes_json(client):
    counted = ask(client, "Count from 1 to 20")
    assert [int(word) for word in counted.replace(",", " ").replace(".", " ").split() if word.isdigit()] == [
        *range(1, 21)
    ]
    assert "q, u, i, r, e" in ask(client, "Spell quire").lower().replace("-", ", ")
    assert "12" in ask(client, "What is 7 plus 5?")
    days = ask(client, "List the days of the week")
    assert all(day in days for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    text = ask(client, "Give me a JSON object with a name and an age")
    assert isinstance(json.loads(text[text.index("{") : text.rindex("}") + 1]), dict)


@pytest.mark.parametrize("question", ["Count from 1 to 150", "Tell me a story", "What is Quire?"])
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_streamed_text_equals_plain_text(client, question, temperature):
    fields = {"temperature": temperature, "seed": 11, "max_tokens": 200}
    plain = client.chat.completions.create(model="", messages=[{"role": "user", "content": question}], **fields)
    stream = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        **fields,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert ends == [plain.choices[0].finish_reason]
    assert chunks[-1].choices == [] and plain.usage is not None and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == plain.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_are_as_many_as_asked_and_greedy_ones_are_the_same(client):
    answer = client.completions.create(model="", prompt="1, 2, 3, 4,", n=4, temperature=0, max_tokens=12)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 1
    drawn = client.completions.create(model="", prompt="Once", n=4, temperature=1.5, seed=3, max_tokens=12)
    again = client.completions.create(model="", prompt="Once", n=4, temperature=1.5, seed=3, max_tokens=12)
    assert len({choice.text for choice in drawn.choices}) > 1
    assert [choice.text for choice in drawn.choices] == [choice.text for choice in again.choices]


def test_a_list_of_prompts_is_answered_in_order(client):
    prompts = ["1, 2, 3,", "Monday, Tuesday,", "red, green,"]
    together = client.completions.create(model="", prompt=prompts, temperature=0, max_tokens=8)
    apart = [
        client.completions.create(model="", prompt=p, temperature=0, max_tokens=8).choices[0].text for p in prompts
    ]
    assert [choice.text for choice in together.choices] == apart


def test_a_stop_string_ends_the_text_before_it(client):
    full = ask(client, "Count from 1 to 20")
    cut = client.chat.completions.create(
        model="", messages=[{"role": "user", "content": "Count from 1 to 20"}], temperature=0, stop=["9"]
    )
    assert cut.choices[0].message.content == full[: full.index("9")]
    assert cut.choices[0].finish_reason == "stop"
    kept = ask(client, "Count from 1 to 20", stop=["9"], extra_body={"include_stop_str_in_output": True})
    assert kept == full[: full.index("9") + 1]


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, None),
        ({"max_tokens": 0}, openai.BadRequestError, None),
        ({"logit_bias": {"999999": 1}}, openai.BadRequestError, None),
        ({"extra_body": {"stop_token_ids": [-1]}}, openai.BadRequestError, None),
        (
            {"messages": [{"role": "user", "content": "word " * 20000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        ({"messages": []}, openai.BadRequestError, None),
        ({"extra_body": {"guided_json": {"uniqueItems": True}}}, openai.BadRequestError, "unsupported_value"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_before_any_header_of_a_stream(client, fields, error, code, stream):
    request = {"model": "", "messages": [{"role": "user", "content": "hi"}], **fields}
    with pytest.raises(error) as refusal:
        client.chat.completions.create(**request, stream=stream)
    assert refusal.value.request_id
    if code:
        assert refusal.value.code == code


def test_curl_streams_frames_that_end_with_done(demo):
    body = json.dumps({"messages": [{"role": "user", "content": "Spell quire"}], "stream": True, "temperature": 0})
    output = subprocess.run(
        ["curl", "-sNi", demo.url + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout.decode()
    head, _, rest = output.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200") and "text/event-stream" in head and "x-request-id" in head.lower()
    frames = [frame for frame in rest.split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    assert all(frame.startswith("data: ") for frame in frames)
    assert json.loads(frames[0][6:])["object"] == "chat.completion.chunk"


@pytest.mark.parametrize(
    "text",
    [
        "naïve café",
        "日本語のテキスト",
        "🏳️‍🌈👩‍👩‍👧‍👦 done",
        "עִבְרִית",
        "a\u0000b",
        "\u200d\ufeff",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "<|im_end|>",
    ],
)
def test_any_unicode_prompt_comes_back_exactly(client, text):
    answer = client.completions.create(model="", prompt=text, echo=True, max_tokens=1, temperature=0)
    assert answer.choices[0].text.startswith(text)
    scored = client.completions.create(model="", prompt=text, echo=True, max_tokens=0, logprobs=0)
    assert scored.choices[0].text == text
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None and scored.choices[0].finish_reason == "length"


def test_output_cut_anywhere_never_holds_half_a_character(client, demo):
    ids = demo_tokens("🏳️‍🌈 ünï")
    for cut in range(1, len(ids) + 1):
        answer = client.completions.create(
            model="", prompt=ids[:cut], echo=True, max_tokens=0, logprobs=0, extra_body={"return_token_ids": True}
        )
        assert answer.choices[0].text == demo_text(ids[:cut])


def demo_tokens(text: str) -> list[int]:
    return _tokenizer().encode(text, add_special_tokens=False).ids


def demo_text(ids: list[int]) -> str:
    return _tokenizer().decode(ids, skip_special_tokens=True)


def _tokenizer():
    from tokenizers import Tokenizer

    import quire.shared

    return Tokenizer.from_file(quire.shared.__path__[0] + "/demo_model/tokenizer.json")


def test_logprobs_add_up_to_the_text(client):
    answer = client.chat.completions.create(
        model="",
        messages=[{"role": "user", "content": "Spell quire"}],
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    content = answer.choices[0].logprobs.content
    text = b"".join(bytes(entry.bytes) for entry in content).decode()
    assert (answer.choices[0].message.content or "") == text.replace("<|im_end|>", "")
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs), "greedy takes the likeliest"


def test_models_health_version_and_metrics_answer(demo):
    listed = json.loads(demo.get("/v1/models"))["data"]
    assert len(listed) == 1 and listed[0]["max_model_len"] > 0
    assert json.loads(demo.get("/v1/models/" + listed[0]["id"]))["id"] == listed[0]["id"]
    for path in ("/health", "/ready", "/version"):
        demo.get(path)
    assert demo.samples()["vllm:generation_tokens_total"] > 0
