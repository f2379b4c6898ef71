"""The settings of the frontend: HTTP, access, and the limits of what clients may ask."""

from __future__ import annotations

from typing import Annotated

from ..flags import Flag
from .service import MAX_REGEX_SIZE, MAX_SCHEMA_SIZE, ServiceConfig


class FrontendConfig(ServiceConfig, frozen=True, kw_only=True):
    """The HTTP frontend: OpenAI-compatible API in, server-sent events out."""

    host: Annotated[str, Flag("address the HTTP port is bound to", "serving", is_often_used=True)] = "127.0.0.1"
    port: Annotated[int, Flag("HTTP port; 0 takes a free one", "serving", ge=0, le=65535, is_often_used=True)] = 8000
    is_joining: Annotated[
        bool, Flag("take connections only once ready: other frontends serve the port", "serving", is_internal=True)
    ] = False
    tokenizer_address: Annotated[
        tuple[str, ...], Flag("tokenizer to dial beside those in the run directory, tcp://HOST:PORT", "links")
    ] = ()
    api_key: Annotated[
        tuple[str, ...],
        Flag("key that clients must send as Authorization: Bearer KEY", "access", is_secret=True, is_often_used=True),
    ] = ()
    api_key_file: Annotated[str | None, Flag("file of API keys, one a line", "access")] = None
    ui: Annotated[bool, Flag("serve the chat page at /", "serving")] = True
    open_metrics: Annotated[bool, Flag("serve /metrics without a key", "access")] = False
    otlp_endpoint: Annotated[
        str | None,
        Flag(
            "collector that gets a span for each request by OTLP/HTTP, http://HOST:4318; needs quire[otel]", "logging"
        ),
    ] = None
    cors_origin: Annotated[tuple[str, ...], Flag("origin of web pages that may call the API; * for any", "access")] = ()
    trust_request_chat_template: Annotated[
        bool,
        Flag(
            "let requests bring their own chat_template; it runs in a process of its own, for 1 s and in 256 MiB",
            "access",
        ),
    ] = False
    max_in_flight: Annotated[
        int | None, Flag("choices past the door at once; absent: 4 x --max-num-seqs, at least 64", "limits", ge=1)
    ] = None
    max_in_flight_per_key: Annotated[
        int | None, Flag("choices of one API key past the door at once; absent: no limit of its own", "limits", ge=1)
    ] = None
    max_waiting_tokens: Annotated[
        int | None, Flag("prompt tokens that may wait to run; absent: 8 x the tokens of the KV cache", "limits", ge=1)
    ] = None
    max_waiting_tokens_per_key: Annotated[
        int | None,
        Flag("prompt tokens of one API key that may wait to run; absent: no limit of its own", "limits", ge=1),
    ] = None
    max_header_size: Annotated[
        int, Flag("bytes of a request's line and headers", "limits", ge=1024, le=1 << 20, is_size=True)
    ] = 32 << 10
    max_headers: Annotated[int, Flag("headers of a request", "limits", ge=8, le=1024)] = 64
    header_timeout: Annotated[float, Flag("seconds that a request's headers may take", "limits", ge=0.1)] = 10.0
    max_body_size: Annotated[int, Flag("bytes of a request's body", "limits", ge=1024, is_size=True)] = 8 << 20
    body_timeout: Annotated[float, Flag("seconds that a request's body may take", "limits", ge=0.1)] = 30.0
    max_json_depth: Annotated[int, Flag("levels that the JSON of a body may be nested", "limits", ge=8, le=200)] = 64
    max_messages: Annotated[int, Flag("messages of a conversation", "limits", ge=1, le=1 << 20)] = 2048
    max_tools: Annotated[int, Flag("tools of a request", "limits", ge=1, le=1 << 14)] = 128
    max_choices: Annotated[int, Flag("answers to one request: its prompts x n", "limits", ge=1, le=4096)] = 128
    max_stop_strings: Annotated[int, Flag("stop strings of a request", "limits", ge=1, le=256)] = 16
    max_stop_string_size: Annotated[int, Flag("bytes of a stop string", "limits", ge=16, le=1 << 16, is_size=True)] = (
        256
    )
    max_logit_bias: Annotated[int, Flag("entries of a request's logit_bias", "limits", ge=1, le=1 << 18)] = 1024
    max_logprobs: Annotated[int, Flag("logprobs that a request may ask for at each token", "limits", ge=1, le=256)] = 20
    max_cache_salt_size: Annotated[
        int, Flag("bytes of a request's cache_salt", "limits", ge=16, le=4096, is_size=True)
    ] = 64
    max_schema_size: Annotated[int, MAX_SCHEMA_SIZE] = 64 << 10
    max_regex_size: Annotated[int, MAX_REGEX_SIZE] = 4 << 10
    idle_timeout: Annotated[
        float, Flag("seconds that a connection may wait for its next request", "limits", ge=0.1)
    ] = 75.0
    max_connections: Annotated[
        int | None,
        Flag(
            "connections of one frontend at once; absent: what nine tenths of its file descriptors allow",
            "limits",
            ge=1,
        ),
    ] = None
    max_unsent_size: Annotated[
        int,
        Flag("bytes of a stream that its reader has not taken before it is paused", "limits", ge=4096, is_size=True),
    ] = 256 << 10
    max_in_flight_size: Annotated[
        int, Flag("bytes of bodies of requests past the door at once", "limits", ge=1 << 20, is_size=True)
    ] = 256 << 20
    queue_timeout: Annotated[
        float,
        Flag(
            "seconds that a request may wait to run before it is answered 503, which a stream's headers wait for;"
            " 0: no limit",
            "limits",
            ge=0.0,
        ),
    ] = 30.0
    stall_limit: Annotated[
        float,
        Flag("seconds without a sign of life after which a service is killed and started again; 0: never", "faults"),
    ] = 10.0
    resume: Annotated[
        bool,
        Flag("go on with requests whose tokenizer, engine or worker was lost; off: they end with an error", "faults"),
    ] = True
    resume_timeout: Annotated[
        float, Flag("seconds that such a request waits for what it needs to come back", "faults", ge=0.0)
    ] = 120.0
    response_store_size: Annotated[
        int,
        Flag(
            "bytes of responses that each frontend remembers (/v1/responses)",
            "limits",
            ge=1,
            is_size=True,
        ),
    ] = 64 << 20
    stall_timeout: Annotated[
        float, Flag("seconds that a reader may take nothing of its stream before it is aborted", "limits", ge=0.1)
    ] = 30.0
    keep_alive_interval: Annotated[
        float, Flag("seconds without output after which a stream carries a comment", "serving", ge=0.1)
    ] = 15.0
    shutdown_timeout: Annotated[
        float, Flag("seconds that running requests may take to finish after SIGTERM", "serving", ge=0.0)
    ] = 30.0
