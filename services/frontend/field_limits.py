"""Limits of fields that are flags: how many messages a request may have, how long a stop string may be.

A bound names its flag (bounds.py), and this says what it is in this process: the defaults of the flags until the
application starts with a configuration. Knows no field.
"""

from __future__ import annotations

from collections.abc import Callable

from quire.shared.config import FrontendConfig
from quire.shared.flags import fields

_most: dict[str, int] = {
    name: field.default
    for name, field in fields(FrontendConfig).items()
    if field.flag.group == "limits" and isinstance(field.default, int)
}
_on_change: list[Callable[[], None]] = []


def most(setting: str) -> int:
    """The limit that a flag sets, by the flag's name with underscores."""
    return _most[setting]


def flag(setting: str) -> str:
    """For sentences."""
    return "--" + setting.replace("_", "-")


def use(config: FrontendConfig) -> None:
    """Have the limits of a configuration hold from now on; before the first request is parsed."""
    _most.update({name: getattr(config, name) for name in _most})
    for forget in _on_change:
        forget()


def forget_on_change(forget: Callable[[], None]) -> None:
    """For what is derived from limits and kept."""
    _on_change.append(forget)
