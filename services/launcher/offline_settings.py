"""The settings of the offline API: flags of `quire serve` as Python values, checked before a process is started.

What only a deployment has (names, addresses, keys) is not among them.
"""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from quire.shared.config import EngineConfig, TokenizerConfig, WorkerConfig
from quire.shared.flags import Field, fields, from_text

_ALSO = ("config",)
"""Of the links' group."""


def known() -> dict[str, Field]:
    """Every setting there is, by name."""
    found = {
        name: field
        for config in (TokenizerConfig, EngineConfig, WorkerConfig)
        for name, field in fields(config).items()
    }
    return {name: field for name, field in found.items() if field.flag.group != "links" or name in _ALSO}


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """As the services take them; None is absent. Raises TypeError for an unknown name, ValueError for a bad value."""
    settable = known()
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in settable:
            near = difflib.get_close_matches(name, settable, 1)
            raise TypeError(f"LLM has no setting {name!r}" + (f"; do you mean {near[0]!r}?" if near else ""))
        if value is not None:
            values[name] = _checked(settable[name], value)
    return values


def _checked(field: Field, value: Any) -> Any:
    if field.is_list:
        return tuple(_one(field, part) for part in ([value] if isinstance(value, str) else value))
    return _one(field, value)


def _one(field: Field, value: Any) -> Any:
    if (field.kind is bool) != isinstance(value, bool):
        raise ValueError(f"{field.name} is {value!r}; it must {'be' if field.kind is bool else 'not be'} True or False")
    try:
        return value if field.kind is bool else from_text(field, str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{field.name}: {error}") from None
