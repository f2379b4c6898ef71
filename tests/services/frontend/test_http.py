"""A real frontend over HTTP: shapes, headers, errors, and what is sent down for them."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "hi there"}]


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def events(response: httpx.Response) -> list[Any]:
    """The data of a whole stream, which must be nothing but data lines and end as it should."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The envelope, checked for its form."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and isinstance(body["error"]["code"], str)
    return body["error"]


def test_plain_chat_has_the_documented_shape(frontend: Any) -> None:
    response = frontend.client.post("/v1/chat/completions", json=say("hi there"))
    assert response.status_code == 200
    body = response.json()
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{16}", body.pop("id"))
    assert isinstance(body.pop("created"), int)
    assert body.pop("system_fingerprint").startswith("fp_")
    assert body == {
        "object": "chat.completion",
        "model": "demo",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant", "content": "Hello world 0", "refusal": None, "reasoning": None,
                    "reasoning_content": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
        "usage": {
            "prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }  # fmt: skip


def test_streamed_chat_has_role_text_finish_and_done(frontend: Any) -> None:
    response = frontend.client.post("/v1/chat/completions", json=say("hi there", stream=True, model="org/demo:latest"))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]
    chunks = events(response)
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], "org/demo:latest", "chat.completion.chunk")
    }
    assert not any("usage" in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [c["delta"] for c in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"}, {"content": " wor"}, {"content": "ld"}, {"content": " 0"}, {},
    ]  # fmt: skip
    assert [c["finish_reason"] for c in choices] == [None] * 5 + ["stop"]


def test_roles_come_in_order_before_any_text(frontend: Any) -> None:
    chunks = events(frontend.client.post("/v1/chat/completions", json=say("x", stream=True, n=3)))
    first = [chunk["choices"][0] for chunk in chunks[:3]]
    assert [c["index"] for c in first] == [0, 1, 2]
    assert all(c["delta"]["role"] == "assistant" for c in first)
    finishes = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(finishes) == [0, 1, 2]


def test_usage_comes_last_and_only_when_asked_for(frontend: Any) -> None:
    asked = say("hi there", stream=True, stream_options={"include_usage": True})
    chunks = events(frontend.client.post("/v1/chat/completions", json=asked))
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip


def test_continuous_usage_grows_on_every_chunk(frontend: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, body in (("/v1/chat/completions", say("a b")), ("/v1/completions", {"prompt": "a b"})):
        chunks = events(frontend.client.post(path, json={**body, "stream": True, "stream_options": options}))
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)
        assert counts[-1] == 5
        assert all(chunk["usage"]["prompt_tokens"] == 2 for chunk in chunks)


@pytest.mark.parametrize(("prompt", "reason"), [("!stop-string", "END"), ("!stop", 7), ("plain", None)])
def test_stop_reason_is_what_ended_it(frontend: Any, prompt: str, reason: Any) -> None:
    plain = frontend.client.post("/v1/chat/completions", json=say(prompt)).json()["choices"][0]
    assert (plain["finish_reason"], plain["stop_reason"]) == ("stop", reason)
    last = events(frontend.client.post("/v1/chat/completions", json=say(prompt, stream=True)))[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", reason)


def test_unicode_survives(frontend: Any) -> None:
    text = 'é\u2028\0"\\😀\n'
    assert frontend.client.post("/v1/completions", json={"prompt": "!unicode"}).json()["choices"][0]["text"] == text
    chunks = events(frontend.client.post("/v1/completions", json={"prompt": "!unicode", "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text


def test_prompts_and_choices_are_numbered_prompt_times_n(frontend: Any, tokenizer: Any) -> None:
    before = len(tokenizer.generates)
    body = {"prompt": ["a", "b", "c"], "n": 2, "seed": 5}
    choices = frontend.client.post("/v1/completions", json=body).json()["choices"]
    assert [c["index"] for c in choices] == list(range(6))
    assert [c["text"][-1] for c in choices] == ["0", "1"] * 3
    sent = tokenizer.generates[before:]
    assert [one.prompt.text for one in sent] == ["a", "b", "c"]
    assert len({one.request_id for one in sent}) == 3
    assert [one.sampling.seed for one in sent] == [5] * 3


def test_token_id_prompts_travel_as_ids(frontend: Any, tokenizer: Any) -> None:
    body = {"prompt": [[1, 2], [300]], "echo": True}
    answer = frontend.client.post("/v1/completions", json=body).json()
    assert [c["text"] for c in answer["choices"]] == ["<1> <2>Hello world 0", "<300>Hello world 0"]
    assert tokenizer.generates[-1].prompt.token_ids == b"\x2c\x01\x00\x00"


def test_echo_scores_the_prompt_without_a_new_token(frontend: Any) -> None:
    body = {"prompt": "the big cat", "echo": True, "max_tokens": 0, "logprobs": 2}
    answer = frontend.client.post("/v1/completions", json=body).json()
    assert answer["usage"]["completion_tokens"] == 0
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("the big cat", "length")
    assert choice["logprobs"]["tokens"] == ["the", " big", " cat"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -1.0]
    assert choice["logprobs"]["text_offset"] == [0, 3, 7]
    assert choice["logprobs"]["top_logprobs"][0] is None
    assert set(choice["logprobs"]["top_logprobs"][1]) == {"top1", "top2", " big"}


def test_chat_logprobs_have_bytes_and_as_many_tops_as_asked(frontend: Any) -> None:
    answer = frontend.client.post("/v1/chat/completions", json=say("x", logprobs=True, top_logprobs=2)).json()
    content = answer["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == "Hello world 0"
    assert all(len(token["top_logprobs"]) == 2 for token in content)


def test_prompt_logprobs_begin_with_null(frontend: Any) -> None:
    answer = frontend.client.post("/v1/chat/completions", json=say("a b c", prompt_logprobs=1)).json()
    assert answer["prompt_logprobs"][0] is None
    assert answer["prompt_logprobs"][1]["501"] == {"logprob": -0.1, "rank": 1, "decoded_token": "top1"}
    assert len(answer["prompt_logprobs"]) == 3


def test_token_ids_come_back_when_asked_for(frontend: Any) -> None:
    answer = frontend.client.post("/v1/chat/completions", json=say("a b", return_token_ids=True)).json()
    assert answer["prompt_token_ids"] == [0, 1]
    assert answer["choices"][0]["token_ids"] == [100, 101, 102, 103, 104]
    chunks = events(frontend.client.post("/v1/chat/completions", json=say("a b", return_token_ids=True, stream=True)))
    assert chunks[0]["prompt_token_ids"] == [0, 1]
    assert [i for c in chunks for i in c["choices"][0].get("token_ids", [])] == [100, 101, 102, 103, 104]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_from_below_comes_before_the_headers(frontend: Any, stream: bool) -> None:
    response = frontend.client.post("/v1/chat/completions", json=say("!refuse-long", stream=stream))
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"
    response = frontend.client.post("/v1/chat/completions", json=say("!refuse", stream=stream))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert error_of(response)["type"] == "server_error"


def test_one_refused_prompt_aborts_the_others(frontend: Any, tokenizer: Any) -> None:
    response = frontend.client.post("/v1/completions", json={"prompt": ["!hang", "!refuse-long"]})
    assert response.status_code == 400
    hanging = tokenizer.generates[-2].request_id
    while hanging not in {abort.request_id for abort in list(tokenizer.aborts)}:
        pass


def test_a_failure_in_mid_stream_is_an_error_event_then_done(frontend: Any) -> None:
    chunks = events(frontend.client.post("/v1/chat/completions", json=say("!error", stream=True)))
    assert chunks[-1]["error"]["message"] == "The worker stumbled."
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks[:-1]) == "partial"
    assert not any(c["choices"][0]["finish_reason"] for c in chunks[:-1])
    response = frontend.client.post("/v1/chat/completions", json=say("!error"))
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_unknown_model_is_404_and_names_the_served_ones(frontend: Any, path: str, stream: bool) -> None:
    body = {"messages": MESSAGES, "prompt": "x", "model": "gpt-9", "stream": stream}
    response = frontend.client.post(path, json=body)
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "gpt-9" in error["message"] and "demo" in error["message"] and "org/demo:latest" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/nobody/here", 404, "model_not_found"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_told_in_the_envelope(
    frontend: Any, method: str, path: str, status: int, code: str
) -> None:
    response = frontend.client.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_content_types_are_415(frontend: Any, kind: str) -> None:
    response = frontend.client.post("/v1/completions", content=b'{"prompt":"x"}', headers={"content-type": kind})
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json; charset=utf-8"}])
def test_json_is_taken_with_charset_and_without_a_type(frontend: Any, headers: dict[str, str]) -> None:
    assert frontend.client.post("/v1/completions", content=b'{"prompt":"x"}', headers=headers).status_code == 200


def test_a_body_too_large_is_413_whether_its_length_is_told_or_not(frontend: Any) -> None:
    big = b'{"prompt":"' + b"x" * (9 << 20) + b'"}'
    chunked = (big[i : i + (1 << 20)] for i in range(0, len(big), 1 << 20))
    for content in (big, chunked):
        try:
            response = httpx.post(f"{frontend.url}/v1/completions", content=content, timeout=30)
        except httpx.WriteError:
            continue  # the server closed before all was sent, as it may
        assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")


def test_a_large_body_within_the_limit_is_taken(frontend: Any) -> None:
    assert frontend.client.post("/v1/completions", json={"prompt": "x" * (7 << 20)}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields", [{"temperature": 3}, {"n": "two"}, {"stop": [""]}, {"guided_regex": ""}, {"seed": 2**70}]
)
def test_bad_fields_are_400_before_headers_also_for_streams(
    frontend: Any, stream: bool, fields: dict[str, Any]
) -> None:
    response = frontend.client.post("/v1/chat/completions", json=say("x", stream=stream, **fields))
    assert response.status_code == 400
    assert (error_of(response)["param"] or "").startswith(next(iter(fields)))


def test_request_id_is_echoed_when_sane(frontend: Any) -> None:
    for path in ("/health", "/nope", "/v1/models"):
        assert frontend.client.get(path, headers={"x-request-id": "my-id.1:2"}).headers["x-request-id"] == "my-id.1:2"
    for bad in ("x" * 129, "a b", "<script>"):
        own = frontend.client.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert own.startswith("req-")


def test_models_are_listed_and_found_by_names_with_slashes(frontend: Any) -> None:
    listed = frontend.client.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == ["demo", "org/demo:latest"]
    one = frontend.client.get("/v1/models/org/demo:latest").json()
    assert one == listed["data"][1]
    assert one["max_model_len"] == 2048 and one["object"] == "model" and one["owned_by"]
    assert isinstance(one["created"], int) and one["root"] == "/models/demo" and one["parent"] is None
    missing = frontend.client.get("/v1/models/org/other")
    error = missing.json()["error"]
    assert (missing.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert all(name in error["message"] for name in ("org/other", "demo", "org/demo:latest"))


def test_probes_answer(frontend: Any) -> None:
    for path in ("/health", "/health/live", "/ready", "/ping"):
        assert frontend.client.get(path).status_code == 200
        assert frontend.client.head(path).status_code == 200
    assert frontend.client.post("/ping").status_code == 200
    assert frontend.client.get("/version").json()["version"]


def test_options_tells_what_is_allowed(frontend: Any) -> None:
    response = frontend.client.options("/v1/chat/completions")
    assert response.status_code == 204
    assert "POST" in response.headers["allow"]
    assert "access-control-allow-origin" not in response.headers


def test_status_shows_services_and_limits(frontend: Any) -> None:
    body = frontend.client.get("/status").json()
    assert {"tokenizer-0", "frontend-0"} <= {service["name"] for service in body["services"]}
    limits = body["limits"]
    assert (limits["max_in_flight"], limits["helper_timeout"], limits["helper_memory"]) == (64, 1.5, 256 << 20)
    assert isinstance(limits["helper_memory"], int)
    assert {service["name"]: service["pid"] for service in body["services"]}["frontend-0"] == frontend.process.pid


def raw(frontend: Any, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", frontend.port), timeout=60) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
            if b"\r\n\r\n" in received and b"}" in received:
                break
        return received


@pytest.mark.parametrize("host", [b"a/b", b"a?b", b"a#b", b"a@b", b"a\\b", b"a b"])
def test_a_bad_host_is_refused(frontend: Any, host: bytes) -> None:
    answer = raw(frontend, b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"error"' in answer


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_offer_of_http2_is_ignored_and_the_body_read(frontend: Any, is_chunked: bool, cut: int) -> None:
    """Java's HttpClient and curl --http2 send one with every request, also on a connection used again."""
    body = b'{"prompt": "a b c", "echo": true}'
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n" + length + b"\r\n" + offer + b"\r\n"
    with socket.create_connection(("127.0.0.1", frontend.port), timeout=60) as connection:
        for _ in range(3):
            whole = head + sent
            connection.sendall(whole[: len(whole) - cut])
            if cut:
                connection.sendall(whole[-cut:])
            received = b""
            while b'"system_fingerprint"' not in received:
                part = connection.recv(65536)
                assert part
                received += part
            assert received.startswith(b"HTTP/1.1 200 ") and b"a b cHello world 0" in received
        connection.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_broken_http_gets_the_envelope(frontend: Any) -> None:
    answer = raw(frontend, b"NONSENSE\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"error"' in answer


@pytest.mark.parametrize("headers", [b"x: y\r\n" * 80, b"x: " + b"y" * 40000 + b"\r\n"])
def test_too_many_headers_are_refused(frontend: Any, headers: bytes) -> None:
    answer = raw(frontend, b"GET /health HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ") and b"headers_too_large" in answer


def test_metrics_merge_all_services(frontend: Any, tokenizer: Any) -> None:
    tokenizer.samples = {"vllm:num_requests_running": 3.0, 'vllm:request_success_total{finished_reason="stop"}': 2.0}
    frontend.client.post("/v1/completions", json={"prompt": "x"})
    while "vllm:num_requests_running" not in (text := frontend.client.get("/metrics").text):
        pass
    assert 'vllm:num_requests_running{model_name="demo"} 3' in text
    assert 'vllm:request_success_total{model_name="demo",finished_reason="stop"} 2' in text
    assert "# TYPE vllm:time_to_first_token_seconds histogram" in text
    assert re.search(r'vllm:e2e_request_latency_seconds_count\{model_name="demo"\} [1-9]', text)
    assert 'quire_process_up{name="tokenizer-0"} 1' in text
    tokenizer.samples = {}


def test_the_openai_sdk_takes_every_answer(frontend: Any) -> None:
    with openai.OpenAI(base_url=f"{frontend.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, n=2, logprobs=True, top_logprobs=2)  # type: ignore[arg-type]
        assert [choice.message.content for choice in answer.choices] == ["Hello world 0", "Hello world 1"]
        assert answer.usage is not None and answer.usage.total_tokens == 12
        with client.chat.completions.stream(
            model="demo", messages=MESSAGES, stream_options={"include_usage": True}
        ) as stream:  # type: ignore[arg-type]
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "Hello world 0"
        assert final.choices[0].message.role == "assistant"
        assert final.usage is not None and final.usage.completion_tokens == 5
        text = client.completions.create(model="demo", prompt="a b", echo=True, logprobs=1)
        assert text.choices[0].text == "a bHello world 0"
        pieces = client.completions.create(model="demo", prompt="a b", stream=True)
        assert "".join(piece.choices[0].text for piece in pieces) == "Hello world 0"
        assert [model.id for model in client.models.list()] == ["demo", "org/demo:latest"]
        assert client.models.retrieve("demo").id == "demo"


def test_the_openai_sdk_maps_every_error(frontend: Any) -> None:
    with openai.OpenAI(base_url=f"{frontend.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-9", messages=MESSAGES)  # type: ignore[arg-type]
        assert missing.value.code == "model_not_found" and missing.value.request_id
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="demo", messages=MESSAGES, temperature=9, stream=True)  # type: ignore[arg-type]
        assert bad.value.param == "temperature"
        with pytest.raises(openai.APIError) as broken:
            list(client.completions.create(model="demo", prompt="!error", stream=True))
        assert "The worker stumbled." in broken.value.message
