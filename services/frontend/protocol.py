"""What every generation request may carry, and how its JSON is decoded.

First stop of a request's body: bytes in, a checked struct out, or an ApiError whose `param` is the
path of the field. Fields of one endpoint only are in chat_protocol.py and completion_protocol.py.
Knows nothing of the served model.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any, TypeVar

import msgspec

from quire.shared.errors import (
    INVALID_JSON,
    INVALID_TYPE,
    INVALID_VALUE,
    MISSING_PARAMETER,
    UNSUPPORTED_PARAMETER,
    ApiError,
    echo,
)

from .beam_params import MAX_BEAMS, check_beams
from .best_of import check_best_of
from .bounds import MAX_ID, Choice, Items, Json, Number, Text, bounds_of, check, check_value, out_of_bounds
from .constraint_fields import Choices, GrammarText, Pattern, ResponseFormat, Schema, StructuredOutputs
from .field_limits import flag, most
from .other_fields import OtherFields

CHOICES = Number(1, setting="max_choices")
"""Of one request: prompts x n."""
LOGPROBS = Number(0, setting="max_logprobs")
STOP_STRING = Text(1, setting="max_stop_string_size")
STOP_STRINGS = Items(0, of=STOP_STRING, setting="max_stop_strings")
_LOGIT_BIAS = Items(0, of=Number(-100, 100), keys=Text(1, 10, of="0-9"), setting="max_logit_bias")
_CACHE_SALT = Text(1, without="@/\\\0", setting="max_cache_salt_size")
_MANY_ESCAPES = 10_000
"""Backslashes in a body beyond which skipping its strings costs more than decoding it."""
_MAX_CONTAINERS = 100_000
"""Objects and arrays of one body; bounds what measuring the depth can cost."""
_INT64 = Number(-(1 << 63), (1 << 63) - 1)
_TOKEN_ID = Number(0, MAX_ID)
PRIORITY = Number(-(1 << 31), (1 << 31) - 1)

ABSENT = msgspec.Raw()
"""Default of a field kept as raw JSON."""


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted: what it asks for hides lengths from who listens in, not from who asks."""


class GenerationRequest(OtherFields, kw_only=True):
    """Fields that chat and text completions share. null means the default, unknown fields are ignored."""

    model: Annotated[str | None, Text(0, 256)] = None
    n: Annotated[int | None, CHOICES] = None
    best_of: Annotated[int | None, CHOICES] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: Annotated[int | None, Number(1, MAX_ID)] = None
    request_id: Annotated[str | None, Text(1, 128, of="A-Za-z0-9._:/+=@-")] = None

    temperature: Annotated[float | None, Number(0, 2)] = None
    top_p: Annotated[float | None, Number(0, 1, is_open=True)] = None
    top_k: Annotated[int | None, Number(-1, MAX_ID)] = None
    min_p: Annotated[float | None, Number(0, 1)] = None
    presence_penalty: Annotated[float | None, Number(-2, 2)] = None
    frequency_penalty: Annotated[float | None, Number(-2, 2)] = None
    repetition_penalty: Annotated[float | None, Number(0, 10, is_open=True)] = None
    seed: Annotated[int | None, _INT64] = None
    max_tokens: Annotated[int | None, Number(0, MAX_ID)] = None
    min_tokens: Annotated[int | None, Number(0, MAX_ID)] = None
    stop: Annotated[str | list[str] | None, STOP_STRING, STOP_STRINGS] = None
    stop_token_ids: Annotated[list[int] | None, Items(0, 1024, _TOKEN_ID)] = None
    ignore_eos: bool | None = None
    logit_bias: Annotated[dict[str, float] | None, _LOGIT_BIAS] = None
    allowed_token_ids: Annotated[list[int] | None, Items(1, 65536, _TOKEN_ID)] = None
    bad_words: Annotated[list[str] | None, Items(0, 128, Text(1, 256))] = None
    prompt_logprobs: Annotated[int | None, LOGPROBS] = None

    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[int | None, Number(-1, MAX_ID)] = None
    truncation_side: Annotated[str | None, Choice(("left", "right"))] = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    echo: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema = ABSENT
    guided_regex: Pattern = None
    guided_choice: Choices = None
    guided_grammar: GrammarText = None

    use_beam_search: bool | None = None
    beam_width: Annotated[int | None, Number(1, MAX_BEAMS)] = None
    length_penalty: Annotated[float | None, Number(-10, 10)] = None
    early_stopping: Annotated[bool | str | None, Choice(("never",))] = None

    priority: Annotated[int | None, PRIORITY] = None
    cache_salt: Annotated[str | None, _CACHE_SALT] = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    def num_drawn(self) -> int:
        """Answers to each prompt of which the best `num_choices` are given."""
        return self.num_choices if self.use_beam_search else self.best_of or self.num_choices

    @property
    def width(self) -> int:
        """Of each prompt, what runs at once: its answers, or its beams."""
        return (self.beam_width or self.best_of or self.num_choices) if self.use_beam_search else self.num_drawn

    @property
    def tokens_per_chunk(self) -> int:
        return self.stream_interval or 1

    @property
    def includes_usage(self) -> bool:
        options = self.stream_options
        return bool(options and (options.include_usage or options.continuous_usage_stats))

    @property
    def has_continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


@functools.cache
def _refused_fields(cls: type[msgspec.Struct]) -> dict[str, Json]:
    """Known, and refused unless they ask for nothing."""
    return {
        name: bound
        for name, bounds in bounds_of(cls).items()
        for bound in bounds
        if isinstance(bound, Json) and bound.is_refused
    }


def json_of(raw: msgspec.Raw) -> bytes:
    """The JSON of a raw field; empty when it is absent or null."""
    value = bytes(raw).strip()
    return b"" if value == b"null" else value


def refuse_unsupported(request: msgspec.Struct) -> None:
    """Raise ApiError for a field that is known, not supported, and asks for something."""
    for name, bound in _refused_fields(type(request)).items():
        if not bound.asks_for_nothing(getattr(request, name)):
            raise unsupported(name, instead=bound.instead)


def check_shared(request: GenerationRequest) -> None:
    """Everything that can be said of the shared fields without knowing the endpoint or the model."""
    check(request)
    refuse_unsupported(request)
    check_beams(request)
    check_best_of(request)
    if request.truncate_prompt_tokens == 0:
        raise out_of_bounds("truncate_prompt_tokens", "must be -1 or at least 1, got 0")
    if request.stream_options is not None and not request.stream:
        raise ApiError(INVALID_VALUE, "stream_options is only allowed with stream: true.", param="stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise ApiError(INVALID_VALUE, "prompt_logprobs is not available with stream: true.", param="prompt_logprobs")
    if request.logit_bias is not None:
        for key in request.logit_bias:
            if int(key) > MAX_ID:
                message = f"logit_bias has the key {echo(key)!r}, which is not a token id."
                raise ApiError(INVALID_VALUE, message, "logit_bias")


def unsupported(name: str, what: str = "", instead: str = "") -> ApiError:
    """The answer to a field that would change the answer, and that this server cannot honour."""
    message = " ".join(filter(None, (name, what, "is not supported by this server")))
    return ApiError(UNSUPPORTED_PARAMETER, f"{message}{': ' + instead if instead else ''}.", name.partition("[")[0])


RequestT = TypeVar("RequestT")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def decode(body: bytes, decoder: msgspec.json.Decoder[RequestT]) -> RequestT:
    """A body as its struct, strictly typed. Raises ApiError; never for a value out of bounds."""
    if not body.strip():
        raise ApiError(INVALID_JSON, "The request body is empty; a JSON object is expected.")
    try:
        check_depth(body)
        if not body.isascii():
            body.decode()
        if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):  # one byte is found ten times as fast
            msgspec.json.decode(body)  # finds half a surrogate pair also in parts that are kept raw
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise decode_error(error) from None


def decode_part(part: bytes, kind: Any, path: str) -> Any:
    """A raw field as `kind`, within its bounds; `path` is where it stood."""
    try:
        decoded = msgspec.json.decode(part, type=kind)
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise decode_error(error, path) from None
    check_value(path, decoded, kind)
    return decoded


def decode_error(error: Exception, path: str = "") -> ApiError:
    """The answer to JSON that does not decode; `path` is where the decoded part stood."""
    if isinstance(error, UnicodeDecodeError):
        return ApiError(INVALID_JSON, "The request body is not valid UTF-8.", path or None)
    if isinstance(error, RecursionError):
        return _too_deep()
    if not isinstance(error, msgspec.ValidationError):
        return ApiError(INVALID_JSON, "The request body is not valid JSON.", path or None)
    match = _PATH.match(str(error))
    what = (match["what"] if match else "invalid value").replace("`", "").replace(" | null", "")
    where = (path + (match["path"] if match and match["path"] else "")).removeprefix(".")
    missing = _MISSING.search(str(error))
    if missing is not None:
        where = f"{where}.{missing['field']}".removeprefix(".")
        return ApiError(MISSING_PARAMETER, f"{where} is required.", where)
    kind = INVALID_TYPE if what.startswith("Expected") else INVALID_VALUE
    if not where:
        return ApiError(kind, f"The request body is not as expected: {what}.")
    return ApiError(kind, f"{where} is invalid: {what}.", where)


def check_depth(body: bytes) -> None:
    """Refuse JSON nested deeper than --max-json-depth. Linear, and free for bodies with few brackets.

    Raises ApiError, or what msgspec raises for a body that is no JSON.
    """
    max_depth = most("max_json_depth")
    if body.count(b"{") + body.count(b"[") <= max_depth:
        return
    if body.count(b"\\") > _MANY_ESCAPES:
        _check_depth_of(msgspec.json.decode(body), max_depth)
        return
    brackets = _STRINGS.sub(b"", body).translate(_ONE_KIND, _NOT_BRACKETS)
    if len(brackets) > 2 * _MAX_CONTAINERS:
        raise ApiError(INVALID_JSON, f"The request body has more than {_MAX_CONTAINERS} objects and arrays.")
    for _ in range(max_depth):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if len(brackets) > 1:
        raise _too_deep()


def _check_depth_of(value: object, max_depth: int) -> None:
    """The same for decoded JSON: level by level, since each may hold many values."""
    level = [[value]]
    for _ in range(max_depth + 1):
        parents = [parent.values() if isinstance(parent, dict) else parent for parent in level]
        level = [child for parent in parents for child in parent if type(child) in (dict, list)]  # type: ignore[union-attr]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ApiError:
    depth, by = most("max_json_depth"), flag("max_json_depth")
    return ApiError(INVALID_JSON, f"The request body is nested deeper than {depth} levels ({by}).")
