"""The table of errors: every code a client can be told, with its HTTP status and OpenAI type.

The frontend raises ApiError; the tokenizer and the engine answer Refused, made by `refused`, whose
codes are these. Knows no exception's text: messages are sentences written by us, for the client.
"""

from __future__ import annotations

import msgspec

from .messages import Refused, RequestId


class ErrorKind(msgspec.Struct, frozen=True):
    """A row of the table."""

    code: str
    status: int
    type: str = "invalid_request_error"


INVALID_VALUE = ErrorKind("invalid_value", 400)
INVALID_TYPE = ErrorKind("invalid_type", 400)
MISSING_PARAMETER = ErrorKind("missing_required_parameter", 400)
UNSUPPORTED_PARAMETER = ErrorKind("unsupported_parameter", 400)
UNSUPPORTED_VALUE = ErrorKind("unsupported_value", 400)
INVALID_JSON = ErrorKind("invalid_json", 400)
INVALID_REQUEST = ErrorKind("invalid_request", 400)
CANCELLED = ErrorKind("cancelled", 400)
CONTEXT_LENGTH_EXCEEDED = ErrorKind("context_length_exceeded", 400)
CHAT_TEMPLATE_ERROR = ErrorKind("chat_template_error", 400)
INVALID_API_KEY = ErrorKind("invalid_api_key", 401, "authentication_error")
MODEL_NOT_FOUND = ErrorKind("model_not_found", 404)
NOT_FOUND = ErrorKind("not_found", 404)
RESPONSE_NOT_FOUND = ErrorKind("response_not_found", 404)
METHOD_NOT_ALLOWED = ErrorKind("method_not_allowed", 405)
REQUEST_TIMEOUT = ErrorKind("request_timeout", 408)
BODY_TOO_LARGE = ErrorKind("body_too_large", 413)
UNSUPPORTED_MEDIA_TYPE = ErrorKind("unsupported_media_type", 415)
RATE_LIMIT_EXCEEDED = ErrorKind("rate_limit_exceeded", 429, "rate_limit_error")
HEADERS_TOO_LARGE = ErrorKind("headers_too_large", 431)
INTERNAL_ERROR = ErrorKind("internal_error", 500, "server_error")
SERVER_OVERLOADED = ErrorKind("server_overloaded", 503, "server_error")
SERVICE_UNAVAILABLE = ErrorKind("service_unavailable", 503, "server_error")

KINDS: dict[str, ErrorKind] = {kind.code: kind for kind in list(globals().values()) if isinstance(kind, ErrorKind)}
"""By code."""

MAX_ECHO = 200
"""Characters of a client's own input that a message repeats."""


class ApiError(Exception):
    """An answer that is an error. `message` is for the client and written by us."""

    def __init__(
        self, kind: ErrorKind, message: str, param: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = kind.status
        self.code = kind.code
        self.type = kind.type
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @classmethod
    def from_refused(cls, refused: Refused) -> ApiError:
        """What a service below refused; its status counts when the table does not know its code."""
        kind = KINDS.get(refused.code) or ErrorKind(refused.code, refused.status, type_of_status(refused.status))
        return cls(kind, refused.message, refused.param, refused.retry_after_seconds)

    def envelope(self) -> bytes:
        return envelope(self.message, self.type, self.param, self.code)


def prompt_too_long(max_model_len: int, shown_length: str, param: str | None = None) -> ApiError:
    """The refusal of a prompt that does not fit; `shown_length`: its tokens, as far as they were counted."""
    message = (
        f"This model's maximum context length is {max_model_len} tokens, but your prompt is too long:"
        f" it has {shown_length} tokens. Please reduce the length of the messages."
    )
    return ApiError(CONTEXT_LENGTH_EXCEEDED, message, param)


def envelope(message: str, error_type: str, param: str | None, code: str | None) -> bytes:
    """The JSON every error has: {"error": {"message", "type", "param", "code"}}."""
    error = {"message": message, "type": error_type, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def type_of_status(status: int) -> str:
    """OpenAI's error type for a status that has no row of its own."""
    return "server_error" if status >= 500 else "invalid_request_error"


def refused(
    request_id: RequestId,
    kind: ErrorKind,
    message: str,
    param: str | None = None,
    retry_after_seconds: float | None = None,
) -> Refused:
    """The message that ends a request with this error."""
    return Refused(request_id, kind.status, kind.code, message, param, retry_after_seconds)


def echo(value: object) -> str:
    """A client's value as it may stand in a message: printable, at most MAX_ECHO characters."""
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: MAX_ECHO + 1])
    return shown if len(text) <= MAX_ECHO else shown[:MAX_ECHO] + "..."
