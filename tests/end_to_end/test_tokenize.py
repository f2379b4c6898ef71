"""/tokenize and /detokenize with the demo model."""

from __future__ import annotations

from typing import Any

import httpx
from running_server import RunningServer
from tokenizers import Tokenizer

import quire.shared


def post(demo: RunningServer, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(demo.url + path, json=body, timeout=60)


def test_a_text_is_its_tokens_and_they_are_the_text(demo: RunningServer) -> None:
    text = "Spell quïre 😀 <|im_end|>"
    found = post(demo, "/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) and found["max_model_len"] > 0
    assert post(demo, "/detokenize", {"tokens": found["tokens"]}).json() == {"prompt": text}
    assert 2 not in found["tokens"], "a client's text never becomes a special token"
    tokenizer = Tokenizer.from_file(quire.shared.__path__[0] + "/demo_model/tokenizer.json")
    assert found["token_strs"] == [tokenizer.id_to_token(one) for one in found["tokens"]]
    assert post(demo, "/tokenize", {"prompt": text}).json()["token_strs"] is None
    assert post(demo, "/detokenize", {"tokens": [1, 2]}).json() == {"prompt": "<|im_start|><|im_end|>"}


def test_a_chat_is_what_its_prompt_would_be(demo: RunningServer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    ids = post(demo, "/tokenize", {"messages": messages}).json()["tokens"]
    chat = {"messages": messages, "max_tokens": 1, "return_token_ids": True}
    assert ids == post(demo, "/v1/chat/completions", chat).json()["prompt_token_ids"]
    assert len(ids) < len(post(demo, "/tokenize", {"messages": messages, "tools": [TOOL]}).json()["tokens"])


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def test_more_than_the_model_takes_is_counted_too(demo: RunningServer) -> None:
    found = post(demo, "/tokenize", {"prompt": "word " * 5000}).json()
    assert found["count"] > found["max_model_len"]
    counted = post(demo, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "word " * 5000}]})
    assert counted.json()["input_tokens"] > found["count"]


def test_what_cannot_be_tokenized_is_refused(demo: RunningServer) -> None:
    for path, body, param in [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("/detokenize", {"tokens": [999999]}, "prompt"),
        ("/detokenize", {}, "tokens"),
    ]:
        response = post(demo, path, body)
        assert response.status_code == 400 and response.json()["error"]["param"] == param
    assert post(demo, "/tokenize", {"prompt": "x", "model": "nobody"}).status_code == 404
    demo.until_idle()
