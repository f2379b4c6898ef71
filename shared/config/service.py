"""The settings of any service, and flags that two kinds of service have in common."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..flags import Flag

TENSOR_PARALLEL_SIZE = Flag(
    "workers that divide each layer of the model among them, a GPU each; must divide the heads", "model", ge=1, le=64
)

MAX_SCHEMA_SIZE = Flag(
    "bytes of a JSON schema, a grammar or a structural tag of a request", "limits", ge=16, le=8 << 20, is_size=True
)
MAX_REGEX_SIZE = Flag("bytes of a regex of a request", "limits", ge=16, le=1 << 20, is_size=True)


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
