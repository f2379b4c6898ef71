"""The OpenAPI document: valid, complete, and saying what the server does."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import openapi_spec_validator
import pytest
from boundaries import cases

from quire.services.frontend import answer_shapes as shapes
from quire.services.frontend.anthropic_protocol import CountRequest, MessagesRequest, parse_count, parse_messages
from quire.services.frontend.app import ROUTES
from quire.services.frontend.bounds import Bound, Choice, Items, Json, Number, Text, bounds_in
from quire.services.frontend.chat_protocol import ChatRequest, parse_chat
from quire.services.frontend.completion_protocol import CompletionRequest, parse_completion
from quire.services.frontend.openapi import OPERATIONS, document
from quire.services.frontend.responses_input import input_items, messages_of
from quire.services.frontend.responses_protocol import ResponsesRequest, parse_responses, tools_of
from quire.services.frontend.tokenization import DetokenizeRequest, TokenizeRequest, parse_detokenize, parse_tokenize
from quire.shared.errors import KINDS, ApiError


def parse_response(body: bytes) -> None:
    """All that is checked before the store is asked."""
    request = parse_responses(body)
    messages_of(input_items(request))
    tools_of(request)


PARSERS: dict[str, Any] = {
    "/v1/chat/completions": parse_chat,
    "/v1/completions": parse_completion,
    "/v1/messages": parse_messages,
    "/v1/messages/count_tokens": parse_count,
    "/tokenize": parse_tokenize,
    "/v1/responses": parse_response,
    "/detokenize": parse_detokenize,
}
STRUCTS = [
    ChatRequest,
    CompletionRequest,
    MessagesRequest,
    CountRequest,
    TokenizeRequest,
    ResponsesRequest,
    DetokenizeRequest,
]
UNBOUNDED = {
    "ResponsesRequest.text.format.schema": "any JSON schema, of at most 64 KiB; checked by the tokenizer",
    "ResponsesRequest.tools[].parameters.*": "any JSON: the template's, within the body's limit",
    "ChatRequest.chat_template_kwargs.*": "any JSON: the template's, within the body's limit",
    "ChatRequest.tool_choice": "any JSON of at most 64 KiB: only none and auto are supported",
    **{
        f"{name}.{field}.*": "unused"
        for name in ("ChatRequest", "CompletionRequest")
        for field in ("prompt_cache_options", "vllm_xargs")
    },
    **{f"ChatRequest.{field}.*": "unused" for field in ("prediction", "moderation", "web_search_options")},
    "ChatRequest.documents[].*": "any JSON: the template's, within the body's limit",
    "ChatRequest.messages[].tool_calls[].function.arguments.*": "any JSON: the template's, within the body's limit",
    "ChatRequest.tools[].function.parameters.*": "any JSON: the template's, within the body's limit",
    "TokenizeRequest.chat_template_kwargs.*": "any JSON: the template's, within the body's limit",
    "TokenizeRequest.documents[].*": "any JSON: the template's, within the body's limit",
    "TokenizeRequest.messages[].tool_calls[].function.arguments.*": "any JSON: the template's, within the body's limit",
    "TokenizeRequest.tools[].function.parameters.*": "any JSON: the template's, within the body's limit",
    **{
        f"{name}.{field}": reason
        for name in ("MessagesRequest", "CountRequest")
        for field, reason in {
            "messages[].content[].content": "a result's text or blocks, which are bounded when they are read",
            "messages[].content[].input.*": "any JSON: the template's, within the body's limit",
            "system[].content": "unused",
            "system[].input.*": "unused",
            "tools[].input_schema.*": "any JSON: the template's, within the body's limit",
        }.items()
    },
} | {
    f"{request}.{field}": "any JSON of at most 64 KiB: the tokenizer says whether it can be followed"
    for request in ("ChatRequest", "CompletionRequest")
    for field in (
        "guided_json", "response_format.json_schema.schema", "response_format.schema", "response_format.format",
        "response_format.structures", "response_format.triggers", "structured_outputs.json",
        "structured_outputs.structural_tag",
    )
}  # fmt: skip
"""Where anything may stand, and why."""


def test_the_document_is_valid_openapi_with_and_without_keys() -> None:
    openapi_spec_validator.validate(document())
    openapi_spec_validator.validate(document(has_keys=True, has_open_metrics=True))


def test_every_route_and_method_is_in_the_document_and_nothing_else() -> None:
    served = {(method, path.replace(":path", "")) for path, methods, _ in ROUTES for method in methods}
    assert served == set(OPERATIONS)
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert described == served


def test_every_status_of_the_table_of_errors_is_described_where_a_body_is_taken() -> None:
    statuses = {str(kind.status) for kind in KINDS.values()}
    for path in PARSERS:
        assert statuses - set(document(True)["paths"][path]["post"]["responses"]) == set()


def test_only_probes_are_open_where_there_are_keys() -> None:
    paths = document(has_keys=True)["paths"]
    is_open = {path for path, methods in paths.items() for one in methods.values() if not one["security"]}
    assert is_open == {"/", "/health", "/health/live", "/ready", "/ping"}


def unbounded(hint: Any, where: str, bounds: tuple[Bound, ...] = ()) -> typing.Iterator[str]:
    """Every place below a type that has no bound of its kind."""
    if typing.get_origin(hint) is typing.Annotated:
        yield from unbounded(typing.get_args(hint)[0], where, (*bounds, *bounds_in(hint)))
        return
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    found = {type(bound): bound for bound in bounds}
    if hint in (bool, type(None)):
        return
    if hint in (int, float):
        if Number not in found or not found[Number].ge <= found[Number].le:
            yield where
    elif hint is str:
        if Text not in found and Choice not in found:
            yield where
    elif hint is msgspec.Raw:
        json = found.get(Json)
        if json is None or json.max_bytes > 64 << 20:
            yield where
        elif json.kind is not None:
            yield from unbounded(json.kind, where)
        elif not json.is_refused:
            yield where
    elif origin in (list, dict):
        items = found.get(Items)
        if items is None:
            yield where
        inner = tuple(bound for bound in (items.of if items else None,) if bound is not None)
        yield from unbounded(arguments[-1], f"{where}[]" if origin is list else f"{where}.*", inner)
        if origin is dict and (items is None or items.keys is None):
            yield f"{where}, its keys"
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        for name, inner_hint in typing.get_type_hints(hint, include_extras=True).items():
            yield from unbounded(inner_hint, f"{where}.{name}")
    elif arguments:
        for argument in arguments:
            yield from unbounded(argument, where, bounds)
    else:
        yield where


@pytest.mark.parametrize("cls", STRUCTS)
def test_every_field_has_a_bound(cls: type[msgspec.Struct]) -> None:
    found = set(unbounded(cls, cls.__name__))
    assert found == {name for name in UNBOUNDED if name.startswith(cls.__name__)}


def test_a_field_without_a_bound_would_be_found() -> None:
    class Careless(msgspec.Struct):
        number: int | None = None
        names: typing.Annotated[list[str], Items(0, 5)] = []
        raw: msgspec.Raw = msgspec.Raw()
        parts: typing.Annotated[dict[str, float], Items(0, 5, Number(0, 1))] = {}

    assert [*unbounded(Careless, "C")] == ["C.number", "C.names[]", "C.raw", "C.parts, its keys"]


CASES = [*cases()]


def test_the_cases_cover_every_field_of_the_document() -> None:
    covered = {(case.path, case.field.partition("[")[0].partition(".")[0]) for case in CASES if not case.is_inside}
    for path, cls in zip(PARSERS, STRUCTS, strict=True):
        for name in typing.get_type_hints(cls):
            if name in ("tool_choice", "guided_json"):
                continue  # JSON of any kind, within 64 KiB: see below
            assert (path, name) in covered, name


@pytest.mark.parametrize("path", PARSERS)
def test_just_outside_of_a_bound_is_a_400_that_names_field_limit_and_value(path: str) -> None:
    """All cases in one test a path: a thousand of their own take longer to collect than to run."""
    outside = [case for case in CASES if case.path == path and not case.is_inside]
    assert outside
    for case in outside:
        with pytest.raises(ApiError) as caught:
            PARSERS[path](case.body)
            pytest.fail(f"taken: {case!r}")
        error = caught.value
        assert error.status == 400, case
        assert (error.param or "").startswith(case.field.partition("[")[0].partition(".")[0]), (case, error.param)
        assert case.limit in error.message, case
        if isinstance(case.value, int) and case.limit:
            assert str(case.value) in error.message, case


@pytest.mark.parametrize("path", PARSERS)
def test_just_inside_of_a_bound_is_taken_or_named_as_unsupported(path: str) -> None:
    inside = [case for case in CASES if case.path == path and case.is_inside]
    assert inside
    for case in inside:
        try:
            PARSERS[path](case.body)
        except ApiError as error:
            is_scoring = case.field == "max_tokens" and "echo" in error.message
            needs_tools = case.field.startswith("tool_choice") and "tool" in error.message
            needs_tools |= case.field in ("input[0].role", "text.format.type") and "required" in error.message
            assert error.code.startswith("unsupported_") or is_scoring or needs_tools, (case, error.message)


@pytest.mark.parametrize("field", ["tool_choice", "guided_json", "functions", "grammar"])
def test_json_of_any_kind_is_bounded_by_its_size(field: str) -> None:
    fields = {"messages": [{"role": "user", "content": "x"}], field: {"a": "a" * (64 << 10)}}
    with pytest.raises(ApiError) as caught:
        parse_chat(msgspec.json.encode(fields))
    assert caught.value.param == field and "65536" in caught.value.message


def test_no_field_names_a_path_a_host_or_a_url() -> None:
    """What a server could be made to read, or to call."""
    names: set[str] = set()
    for schema in document()["components"]["schemas"].values():
        names |= set(schema.get("properties", {}))
    words = {word for name in names for word in name.lower().split("_")}
    assert not words & {"path", "file", "filename", "dir", "directory", "host", "port", "url", "uri", "address"}
    parameters = [
        one["name"]
        for methods in document()["paths"].values()
        for method in methods.values()
        for one in method.get("parameters", [])
    ]
    assert set(parameters) == {"id"}


def post(frontend: Any, path: str, **body: Any) -> Any:
    base = {"messages": [{"role": "user", "content": "a b"}]} if "chat" in path else {"prompt": "a b"}
    return frontend.client.post(path, json={**base, **body})


FIELDS = [
    {},
    {"n": 2, "stop": ["x"]},
    {"return_token_ids": True, "seed": 1},
    {"prompt_logprobs": 2},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_whole_answers_have_the_shape_the_document_gives(frontend: Any, fields: dict[str, Any]) -> None:
    logprobs = {"logprobs": True, "top_logprobs": 2}
    for more in ({}, logprobs):
        answer = post(frontend, "/v1/chat/completions", **fields, **more)
        msgspec.json.decode(answer.content, type=shapes.ChatCompletion)
    for more in ({}, {"logprobs": 2}, {"logprobs": 2, "echo": True}):
        answer = post(frontend, "/v1/completions", **fields, **more)
        msgspec.json.decode(answer.content, type=shapes.Completion)


@pytest.mark.parametrize("fields", FIELDS[:3], ids=str)
@pytest.mark.parametrize("options", [{}, {"include_usage": True}, {"continuous_usage_stats": True}], ids=str)
def test_chunks_have_the_shape_the_document_gives(frontend: Any, fields: dict[str, Any], options: Any) -> None:
    for path, chunk, logprobs in (
        ("/v1/chat/completions", shapes.ChatCompletionChunk, {"logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", shapes.CompletionChunk, {"logprobs": 2, "echo": True}),
    ):
        for more in ({}, logprobs):
            answer = post(frontend, path, stream=True, stream_options=options, **fields, **more)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *events, done = answer.text.removesuffix("\n\n").split("\n\n")
            assert done == "data: [DONE]" and events
            for event in events:
                msgspec.json.decode(event.removeprefix("data: ").encode(), type=chunk)


def test_what_operators_ask_has_the_shape_the_document_gives(frontend: Any) -> None:
    for (method, path), operation in OPERATIONS.items():
        if operation.body is None and operation.answer is not None and path != "/openapi.json":
            if path.startswith("/v1/responses"):
                continue  # what was stored: test_responses.py
            answer = frontend.client.request(method, path.replace("{id}", "org/demo:latest"))
            assert answer.status_code == 200
            msgspec.json.decode(answer.content, type=operation.answer)


def test_the_served_document_is_this_one_and_needs_a_key_where_others_do(start: Any, fake: Any) -> None:
    open_to_all = start().wait_ready()
    assert open_to_all.client.get("/openapi.json").json() == msgspec.json.decode(msgspec.json.encode(document()))
    closed = start("--api-key", "sesame").wait_ready()
    assert closed.client.get("/openapi.json").status_code == 401
    served = closed.client.get("/openapi.json", headers={"authorization": "Bearer sesame"}).json()
    assert served == msgspec.json.decode(msgspec.json.encode(document(has_keys=True)))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages": 1}', b"\xff", b'{"prompt": "!error"}'])
def test_errors_have_the_shape_the_document_gives(frontend: Any, body: bytes) -> None:
    for path in PARSERS:
        answer = frontend.client.post(path, content=body, headers={"content-type": "application/json"})
        if answer.status_code == 200:
            assert path == "/tokenize", "a text that fails only when it is run"
            continue
        msgspec.json.decode(answer.content, type=OPERATIONS["POST", path].error)
