"""The settings of the tokenizer: the checkpoint's files, its parsers, and the helper that runs what clients wrote."""

from __future__ import annotations

from typing import Annotated

from ..flags import Flag
from ..output_formats import REASONING_FORMATS, TOOL_FORMATS
from .service import MAX_REGEX_SIZE, MAX_SCHEMA_SIZE, ServiceConfig


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
    max_schema_size: Annotated[int, MAX_SCHEMA_SIZE] = 64 << 10
    max_regex_size: Annotated[int, MAX_REGEX_SIZE] = 4 << 10
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
