"""OpenAI's Responses over HTTP: answers, numbered events, and what is stored of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from test_chat_tools import CALL, THOUGHT
from test_http import error_of

from quire.services.frontend.response_shapes import Response, ResponseEvent
from quire.services.frontend.response_store import ResponseStore, StoredResponse


def eventually(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def say(text: str, how: str = "", **fields: Any) -> dict[str, Any]:
    return {"input": f"{how} !say {text}", **fields}


def plain(parsing: Any, body: dict[str, Any]) -> dict[str, Any]:
    response = parsing.client.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    msgspec.json.decode(response.content, type=Response)
    return response.json()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Of a whole stream, whose numbers must be in order and whose lines must agree."""
    assert response.status_code == 200, response.text
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    found = []
    for number, block in enumerate(blocks):
        event, data = block.split("\n")
        one = json.loads(data.removeprefix("data: "))
        msgspec.json.decode(data.removeprefix("data: "), type=ResponseEvent)
        assert event == f"event: {one['type']}" and one["sequence_number"] == number
        found.append(one)
    return found


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    response = json.loads(json.dumps(response))
    for name in ("id", "created_at", "completed_at"):
        response.pop(name)
    for item in response["output"]:
        item.pop("id")
        item.pop("call_id", None)
    return response


def fold(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that the pieces of a stream amount to; each must be what its `done` says."""
    items: list[dict[str, Any]] = []
    for event in stream:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(items)
            items.append({"text": "", **event["item"]})
        elif kind.endswith(".delta"):
            assert event["item_id"] == items[event["output_index"]]["id"]
            items[event["output_index"]]["text"] += event["delta"]
        elif kind in ("response.output_text.done", "response.reasoning_text.done"):
            assert items[-1]["text"] == event["text"]
        elif kind == "response.function_call_arguments.done":
            assert items[-1]["text"] == event["arguments"]
        elif kind == "response.output_item.done":
            assert items[-1]["id"] == event["item"]["id"]
    return items


def test_an_answer_has_items_for_reasoning_text_and_calls(parsing: Any) -> None:
    body = plain(parsing, say(THOUGHT + "Well. " + CALL, tools=[TOOL], metadata={"a": "b"}, instructions="be brief"))
    assert body["id"].startswith("resp_") and body["status"] == "completed" and body["metadata"] == {"a": "b"}
    thought, message, call = body["output"]
    assert thought["type"] == "reasoning" and thought["content"] == [{"type": "reasoning_text", "text": "hm, so"}]
    assert message["content"] == [{"type": "output_text", "text": "Well.", "annotations": [], "logprobs": []}]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "f", {"a": 1})
    assert call["call_id"].startswith("call_")
    sent = parsing.fake.generates[-1].prompt
    assert json.loads(sent.messages_json)[0] == {"role": "system", "content": "be brief"}
    assert json.loads(sent.tools_json)[0]["function"]["name"] == "f"


@pytest.mark.parametrize("text", ["Hello.\n", THOUGHT + "Well. " + CALL + CALL, CALL, "", "<tool_call>no"])
@pytest.mark.parametrize("how", ["", "!bits", "!bits !inside"])
def test_streamed_equals_whole(parsing: Any, text: str, how: str) -> None:
    body = say(text, how, tools=[TOOL])
    whole = plain(parsing, body)
    stream = events(parsing.client.post("/v1/responses", json={**body, "stream": True}))
    assert [event["type"] for event in stream[:2]] == ["response.created", "response.in_progress"]
    assert stream[-1]["type"] == "response.completed"
    assert without_ids(stream[-1]["response"]) == without_ids(whole)
    shown = [
        item.get("arguments") or "".join(part["text"] for part in item.get("content", [])) for item in whole["output"]
    ]
    assert [item["text"] for item in fold(stream)] == shown
    stored = parsing.client.get("/v1/responses/" + stream[-1]["response"]["id"]).json()
    assert stored == stream[-1]["response"]


def test_what_max_output_tokens_cuts_is_incomplete(parsing: Any) -> None:
    body = plain(parsing, {"input": "!long", "max_output_tokens": 16})
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    stream = events(parsing.client.post("/v1/responses", json={"input": "!long", "stream": True}))
    assert stream[-1]["type"] == "response.incomplete"


def test_a_stored_response_is_looked_up_listed_continued_and_deleted(parsing: Any) -> None:
    first = plain(parsing, say(THOUGHT + CALL, tools=[TOOL]))
    path = "/v1/responses/" + first["id"]
    assert parsing.client.get(path).json() == first
    listed = parsing.client.get(path + "/input_items").json()
    assert listed["data"][0]["content"] == [{"type": "input_text", "text": f" !say {THOUGHT}{CALL}"}]
    assert listed["first_id"] == listed["data"][0]["id"] == "item_" + first["id"].removeprefix("resp_") + "0" * 8
    call_id = first["output"][-1]["call_id"]
    result = [{"type": "function_call_output", "call_id": call_id, "output": "!say 4"}]
    second = plain(parsing, {"input": result, "previous_response_id": first["id"], "tools": [TOOL]})
    assert second["output"][0]["content"][0]["text"] == "4"
    call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert json.loads(parsing.fake.generates[-1].prompt.messages_json) == [
        {"role": "user", "content": f" !say {THOUGHT}{CALL}"},
        {"role": "assistant", "content": "", "reasoning_content": "hm, so", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": "!say 4"},
    ]
    assert parsing.client.delete(path).json() == {"id": first["id"], "object": "response", "deleted": True}
    for response in (
        parsing.client.get(path),
        parsing.client.delete(path),
        parsing.client.post(path + "/cancel"),
        parsing.client.get(path + "/input_items"),
        parsing.client.post("/v1/responses", json={"input": "x", "previous_response_id": first["id"]}),
    ):
        assert response.status_code == 404 and error_of(response)["code"] == "response_not_found"


def test_a_format_travels_as_a_constraint_and_is_shown(parsing: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    shown = plain(parsing, {**say("{}"), "text": {"format": asked}})["text"]["format"]
    assert shown == {**asked, "description": None}
    constraint = parsing.fake.generates[-1].constraint
    assert constraint.kind == "json" and json.loads(constraint.body) == schema
    plain(parsing, {**say("{}"), "text": {"format": {"type": "json_object"}}})
    assert json.loads(parsing.fake.generates[-1].constraint.body) == {"type": "object"}


def test_what_is_not_to_be_stored_is_not(parsing: Any) -> None:
    body = plain(parsing, say("x", store=False))
    assert body["store"] is False
    assert parsing.client.get("/v1/responses/" + body["id"]).status_code == 404


def test_items_become_the_messages_that_templates_know(parsing: Any) -> None:
    items = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "4"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "user", "content": "!say ok"},
    ]
    plain(parsing, {"input": items})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert json.loads(parsing.fake.generates[-1].prompt.messages_json) == [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "!say ok"},
    ]


def test_input_items_are_listed_in_pages(parsing: Any) -> None:
    items = [{"role": "user", "content": f"{number} !say x"} for number in range(5)]
    path = f"/v1/responses/{plain(parsing, {'input': items})['id']}/input_items"

    def listed(**query: Any) -> tuple[list[str], Any]:
        page = parsing.client.get(path, params=query).json()
        assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
        return [item["content"][0] for item in page["data"]], page

    assert listed()[0] == list("43210")
    contents, page = listed(order="asc", limit=2)
    assert contents == ["0", "1"] and page["has_more"] is True
    contents, page = listed(order="asc", limit=3, after=page["last_id"])
    assert contents == ["2", "3", "4"] and page["has_more"] is False
    for name, value in (("limit", "0"), ("limit", "x"), ("order", "up"), ("after", "item_9")):
        response = parsing.client.get(path, params={name: value})
        assert response.status_code == 400 and error_of(response)["param"] == name
    assert parsing.client.get(path.removesuffix("/input_items"), params={"stream": "true"}).status_code == 400


def test_items_that_are_stored_are_referred_to_by_their_ids(parsing: Any) -> None:
    first = plain(parsing, say(THOUGHT + CALL, tools=[TOOL]))
    asked = parsing.client.get(f"/v1/responses/{first['id']}/input_items").json()["data"][0]
    thought, call = first["output"]
    items = [
        {"type": "item_reference", "id": asked["id"]},
        {"id": thought["id"]},
        {"type": "item_reference", "id": call["id"]},
        {"type": "function_call_output", "call_id": call["call_id"], "output": "!say 4"},
    ]
    second = plain(parsing, {"input": items, "tools": [TOOL]})
    call = {"id": call["call_id"], "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert json.loads(parsing.fake.generates[-1].prompt.messages_json) == [
        {"role": "user", "content": f" !say {THOUGHT}{CALL}"},
        {"role": "assistant", "content": "", "reasoning_content": "hm, so", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "!say 4"},
    ]
    listed = parsing.client.get(f"/v1/responses/{second['id']}/input_items?order=asc").json()["data"]
    assert [item["type"] for item in listed] == ["message", "reasoning", "function_call", "function_call_output"]


@pytest.mark.parametrize("stream", [False, True])
def test_one_under_way_is_cancelled_by_its_id(parsing: Any, stream: bool) -> None:
    answers: list[httpx.Response] = []
    before = len(parsing.fake.generates)

    def ask() -> None:
        with httpx.Client(base_url=parsing.url, timeout=30) as client:
            answers.append(client.post("/v1/responses", json={"input": "!stuck", "stream": stream}))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: len(parsing.fake.generates) > before)
    asked_id = f"resp_{parsing.fake.generates[-1].request_id:016x}"
    path = "/v1/responses/" + asked_id
    eventually(lambda: parsing.client.get(path).status_code == 200)
    assert parsing.client.get(path).json()["status"] == "in_progress"
    assert parsing.client.delete(path).status_code == 400
    assert parsing.client.post(path + "/cancel").json()["status"] == "cancelled"
    asking.join(20)
    (answer,) = answers
    shown = events(answer)[-1]["response"] if stream else answer.json()
    assert shown["status"] == "cancelled" and shown["id"] == asked_id
    eventually(lambda: any(abort.cause == "cancelled" for abort in parsing.fake.aborts))
    assert parsing.client.get(path).json()["status"] == "cancelled"
    done = plain(parsing, say("x"))["id"]
    assert parsing.client.post(f"/v1/responses/{done}/cancel").status_code == 400


def test_a_stream_that_fails_says_so_and_is_stored_as_failed(parsing: Any) -> None:
    stream = events(parsing.client.post("/v1/responses", json={"input": "!error", "stream": True}))
    assert [event["type"] for event in stream[-2:]] == ["error", "response.failed"]
    assert stream[-1]["response"]["error"]["code"] == "server_error"
    assert parsing.client.get("/v1/responses/" + stream[-1]["response"]["id"]).json()["status"] == "failed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
        ({"input": [{"id": "msg_0000000000000000" + "00000000"}]}, "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"conversation": "c"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(parsing: Any, fields: dict[str, Any], param: str) -> None:
    response = parsing.client.post("/v1/responses", json={"input": "x", **fields})
    assert response.status_code in (400, 404) and error_of(response)["param"] == param


def test_a_response_is_its_keys_own(start: Any, fake: Any) -> None:
    process = start("--api-key", "one", "--api-key", "two").wait_ready()
    one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    asked_id = process.client.post("/v1/responses", json={"input": "x"}, headers=one).json()["id"]
    assert process.client.get("/v1/responses/" + asked_id, headers=one).status_code == 200
    assert process.client.get("/v1/responses/" + asked_id, headers=two).status_code == 404


def test_the_store_keeps_its_bytes_and_drops_what_was_not_used_longest() -> None:
    def stored(text: str) -> StoredResponse:
        return StoredResponse("", "completed", text.encode(), b"[]", b"[]")

    store = ResponseStore(400)
    for name in ("a", "b", "c"):
        store.put(name, stored("x" * 100))
    assert store.get("a", "") is not None
    store.put("d", stored("x" * 100))
    assert [name for name in "abcd" if store.get(name, "") is not None] == ["a", "c", "d"]
    store.put("e", stored("x" * 1000))
    assert store.get("e", "") is None and store.get("a", "other") is None
    store.put("a", stored("y"))
    assert 0 < store.size_bytes <= 400
    for name in "acd":
        store.delete(name)
    assert store.size_bytes == 0


def logprobs_of(response: dict[str, Any]) -> list[str]:
    (part,) = response["output"][-1]["content"]
    return [entry["token"] for entry in part["logprobs"]]


@pytest.mark.parametrize("fields", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}], ids=str)
def test_the_text_has_logprobs_and_its_deltas_have_the_same(parsing: Any, fields: dict[str, Any]) -> None:
    body = say("Well, then.", "!bits", **fields)
    whole = plain(parsing, body)
    assert "".join(logprobs_of(whole)) == "Well, then."
    entry = whole["output"][0]["content"][0]["logprobs"][0]
    num_top = fields.get("top_logprobs", 0)
    assert len(entry["top_logprobs"]) == num_top == whole["top_logprobs"] and entry["bytes"] == [87, 101, 108]
    stream = events(parsing.client.post("/v1/responses", json={**body, "stream": True}))
    assert without_ids(stream[-1]["response"]) == without_ids(whole)
    shown = [one for event in stream if event["type"] == "response.output_text.delta" for one in event["logprobs"]]
    (done,) = [event for event in stream if event["type"] == "response.output_text.done"]
    assert shown == done["logprobs"] and [one["token"] for one in shown] == logprobs_of(whole)
    assert set(shown[0]) == {"token", "logprob", "top_logprobs"}


def test_logprobs_are_refused_where_tokens_may_be_of_calls_and_unknown_wishes_by_name(parsing: Any) -> None:
    for fields, param in (
        ({"top_logprobs": 1, "tools": [TOOL]}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"], "tools": [TOOL]}, "include"),
        ({"include": ["everything"]}, "include[0]"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ):
        response = parsing.client.post("/v1/responses", json=say("x", **fields))
        assert response.status_code == 400 and error_of(response)["param"] == param, fields
    assert plain(parsing, say("x", top_logprobs=1, tools=[TOOL], tool_choice="none", max_tool_calls=3))
    assert plain(parsing, say("x", include=["reasoning.encrypted_content"], max_tool_calls=3))["max_tool_calls"] == 3


def test_what_came_of_a_text_before_it_failed_is_stored(parsing: Any) -> None:
    stream = events(parsing.client.post("/v1/responses", json={"input": "!error", "stream": True}))
    kinds = [event["type"] for event in stream]
    assert kinds[-3:] == ["response.output_item.done", "error", "response.failed"]
    stored = parsing.client.get("/v1/responses/" + stream[-1]["response"]["id"]).json()
    (item,) = stored["output"]
    assert item["status"] == "incomplete" and item["content"][0]["text"] == "partial"
