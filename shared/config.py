"""The settings of every service, each a field with its flag, frozen once parsed.

What is found out at start (limits, block counts) is not here: it travels in messages.
Fields that several services share are in ServiceConfig; see flags.py for what a Flag says.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .flags import Field, Flag, fields
from .output_formats import REASONING_FORMATS, TOOL_FORMATS

_TENSOR_PARALLEL_SIZE = Flag(
    "workers that divide each layer of the model among them, a GPU each; must divide the heads", "model", ge=1, le=64
)

_MAX_SCHEMA_SIZE = Flag(
    "bytes of a JSON schema, a grammar or a structural tag of a request", "limits", ge=16, le=8 << 20, is_size=True
)
_MAX_REGEX_SIZE = Flag("bytes of a regex of a request", "limits", ge=16, le=1 << 20, is_size=True)


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of any service."""

    config: Annotated[
        str | None,
        Flag(
            "TOML file of settings, named as the flags; flags and variables win",
            "links",
            metavar="FILE",
            is_often_used=True,
        ),
    ] = None
    run_dir: Annotated[
        str | None, Flag("directory (mode 0700) where the services of one deployment find each other", "links")
    ] = None
    name: Annotated[
        str | None, Flag("name of this service, KIND-INDEX; KIND-auto takes the first free index", "links")
    ] = None
    listen: Annotated[
        str | None, Flag("address to bind instead of a socket in the run directory, tcp://HOST:PORT", "links")
    ] = None
    key_file: Annotated[
        str | None,
        Flag("CURVE key file that all services of a tcp:// deployment share (quire keys makes one)", "links"),
    ] = None
    log_level: Annotated[str, Flag("how much is logged", "logging", choices=("debug", "info", "warning", "error"))] = (
        "info"
    )
    log_format: Annotated[
        str, Flag("json: one object a line, with every figure of a request", "logging", choices=("text", "json"))
    ] = "text"
    parent_pid: Annotated[int | None, Flag("end when this parent process ends", "links", is_internal=True)] = None


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
    max_schema_size: Annotated[int, _MAX_SCHEMA_SIZE] = 64 << 10
    max_regex_size: Annotated[int, _MAX_REGEX_SIZE] = 4 << 10
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


class TokenizerConfig(ServiceConfig, frozen=True, kw_only=True):
    """The tokenizer: chat template, encoding, checks on the way down; text on the way up."""

    model: Annotated[
        str | None, Flag("checkpoint folder, or hub id; the bundled demo model if absent", "model", metavar="MODEL")
    ] = None
    served_model_name: Annotated[
        tuple[str, ...], Flag("name that clients ask for; absent: MODEL as it was given", "model", is_often_used=True)
    ] = ()
    tokenizer: Annotated[
        str | None,
        Flag(
            "folder or hub id to take the tokenizer from, quire-demo for the demo model's; absent: MODEL",
            "model",
            metavar="FOLDER",
        ),
    ] = None
    chat_template: Annotated[
        str | None, Flag("file with a Jinja chat template to use instead of the checkpoint's", "model", metavar="FILE")
    ] = None
    tool_parser: Annotated[
        str,
        Flag(
            "how the model writes tool calls: auto reads it off the chat template, none leaves them in the text",
            "model",
            choices=("auto", "none", *TOOL_FORMATS),
        ),
    ] = "auto"
    reasoning_parser: Annotated[
        str,
        Flag(
            "how the model marks reasoning: auto reads it off the chat template, none leaves it in the text",
            "model",
            choices=("auto", "none", *REASONING_FORMATS),
        ),
    ] = "auto"
    generation_config: Annotated[
        str,
        Flag(
            "sampling defaults: auto takes the checkpoint's generation_config.json", "model", choices=("auto", "none")
        ),
    ] = "auto"
    helper_timeout: Annotated[
        float,
        Flag("seconds that a template or constraint of a request may run in its helper", "limits", ge=0.05, le=60),
    ] = 1.0
    max_schema_size: Annotated[int, _MAX_SCHEMA_SIZE] = 64 << 10
    max_regex_size: Annotated[int, _MAX_REGEX_SIZE] = 4 << 10
    max_rendered_size: Annotated[
        int,
        Flag("characters that a chat template may make of a request", "limits", ge=1 << 10, le=1 << 28, is_size=True),
    ] = 16 << 20
    helper_memory: Annotated[
        int,
        Flag("bytes of address space of the helper process", "limits", ge=128 << 20, le=1 << 40, is_size=True),
    ] = 256 << 20
    helper_ahead: Annotated[
        float,
        Flag(
            "seconds without work after which the helper process is started before anyone needs it (17 MiB a"
            " tokenizer); 0: at first need",
            "serving",
            ge=0.0,
        ),
    ] = 5.0
    engine_address: Annotated[
        tuple[str, ...], Flag("engine to dial beside those in the run directory, tcp://HOST:PORT", "links")
    ] = ()
    shutdown_timeout: Annotated[
        float, Flag("seconds that running requests may take to finish after SIGTERM", "serving", ge=0.0)
    ] = 30.0


class EngineConfig(ServiceConfig, frozen=True, kw_only=True):
    """The engine: scheduler, block manager and prefix cache of one model replica."""

    max_num_seqs: Annotated[int, Flag("rows that run at once", "scheduling", ge=1, le=4096, is_often_used=True)] = 64
    max_num_batched_tokens: Annotated[int, Flag("token budget of one step", "scheduling", ge=1, le=1 << 20)] = 1024
    max_model_len: Annotated[
        int | None,
        Flag(
            "longest prompt + output; absent: the checkpoint's, or what the KV cache holds",
            "scheduling",
            ge=2,
            is_often_used=True,
        ),
    ] = None
    block_size: Annotated[int, Flag("tokens of one KV block", "memory", ge=1, le=256)] = 16
    kv_cache_memory: Annotated[
        int | None,
        Flag("bytes of KV cache; absent: by --memory-utilization", "memory", ge=1, is_size=True, is_often_used=True),
    ] = None
    memory_utilization: Annotated[
        float,
        Flag("share of the device's memory that this server may take", "memory", ge=0.01, le=1.0, is_often_used=True),
    ] = 0.9
    schedule_policy: Annotated[
        str, Flag("who goes first when not all fit", "scheduling", choices=("fcfs", "priority"))
    ] = "fcfs"
    prefix_caching: Annotated[bool, Flag("reuse the KV of shared prompt prefixes", "scheduling")] = True
    overlap_depth: Annotated[
        int, Flag("plans in flight: 2 plans a step while the one before it runs", "scheduling", ge=1, le=2)
    ] = 2
    max_waiting: Annotated[
        int | None,
        Flag(
            "choices in the engine beyond which requests are refused; absent: 4 x --max-num-seqs, at least 64",
            "scheduling",
            ge=1,
        ),
    ] = None
    workers: Annotated[
        tuple[str, ...], Flag("address of a worker that is in no shared run directory, tcp://HOST:PORT", "links")
    ] = ()
    tensor_parallel_size: Annotated[int, _TENSOR_PARALLEL_SIZE] = 1
    check_invariants: Annotated[
        bool,
        Flag("re-derive every invariant of blocks and prefix cache after each step (slow; for tests)", "debugging"),
    ] = False


class WorkerConfig(ServiceConfig, frozen=True, kw_only=True):
    """The worker: weights, KV cache and forward passes on one device."""

    model: Annotated[
        str | None, Flag("checkpoint folder, or hub id; the bundled demo model if absent", "model", metavar="MODEL")
    ] = None
    tensor_parallel_size: Annotated[int, _TENSOR_PARALLEL_SIZE] = 1
    device: Annotated[
        str, Flag("where the model runs", "model", choices=("auto", "cpu", "cuda"), is_often_used=True)
    ] = "auto"
    dtype: Annotated[
        str,
        Flag(
            "type of weights and activations",
            "model",
            choices=("auto", "float32", "bfloat16", "float16"),
            is_often_used=True,
        ),
    ] = "auto"
    kernels: Annotated[
        str,
        Flag(
            "what computes on a CPU: native needs g++ at the first start; auto takes torch where there is none",
            "model",
            choices=("auto", "torch", "native"),
        ),
    ] = "auto"
    linear: Annotated[
        str,
        Flag(
            "what multiplies by the weights: auto tries what there is at start",
            "model",
            choices=("auto", "native", "onednn", "plain"),
        ),
    ] = "auto"
    quantization: Annotated[
        str,
        Flag(
            "weights of one byte, quantised while loading; int8: products of whole numbers, CPU only; fp8: of 8-bit"
            " floats, fast on GPUs that have them (capability 8.9), on a CPU only right",
            "model",
            choices=("none", "int8", "fp8"),
            is_often_used=True,
        ),
    ] = "none"
    kv_cache_dtype: Annotated[
        str,
        Flag(
            "fp8: twice as many tokens in the KV cache, rounded to 8-bit floats; auto: as the model computes",
            "memory",
            choices=("auto", "fp8"),
        ),
    ] = "auto"
    load_format: Annotated[
        str,
        Flag(
            "dummy: random weights, so that MODEL need be no more than a config.json; for measuring",
            "model",
            choices=("auto", "dummy"),
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Flag("CPU threads of the forward pass; absent: the CPUs it may use, one for a tiny model", "model", ge=1),
    ] = None
    fault_points: Annotated[
        str | None,
        Flag("faults at steps or rows, ACTION@step:N or ACTION@token:ID (for tests)", "debugging", is_internal=True),
    ] = None
    poison_blocks: Annotated[
        bool,
        Flag("fill KV blocks with NaN until they are written (slow; for tests)", "debugging", is_internal=True),
    ] = False
    enforce_eager: Annotated[
        bool, Flag("launch every step's kernels one by one: no CUDA graphs, whose memory goes to the KV cache", "model")
    ] = False
    runner: Annotated[
        str,
        Flag(
            "where the batch is kept and who waits for a step: auto is device on a GPU, host on a CPU",
            "debugging",
            choices=("auto", "host", "device"),
            is_internal=True,
        ),
    ] = "auto"


class LauncherConfig(ServiceConfig, frozen=True, kw_only=True):
    """The launcher: starts the services in order, watches them, stops them in order."""

    frontends: Annotated[int, Flag("HTTP frontend processes", "serving", ge=1, le=64)] = 1
    tokenizers: Annotated[int, Flag("tokenizer processes", "serving", ge=1, le=64, is_often_used=True)] = 1
    restart: Annotated[
        bool, Flag("start services again that crash once the server is ready; off: the server stops", "faults")
    ] = True
    stall_limit: Annotated[
        float,
        Flag("seconds without a sign of life after which a service is killed and started again; 0: never", "faults"),
    ] = 10.0
    shutdown_timeout: Annotated[
        float, Flag("seconds that running requests may take to finish after SIGTERM", "serving", ge=0.0)
    ] = 30.0


CONFIG_TYPES: tuple[type[ServiceConfig], ...] = (
    LauncherConfig,
    FrontendConfig,
    TokenizerConfig,
    EngineConfig,
    WorkerConfig,
)


def all_fields() -> dict[str, Field]:
    """Every setting there is, by name."""
    return {name: field for config_type in CONFIG_TYPES for name, field in fields(config_type).items()}
