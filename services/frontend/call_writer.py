"""The calls of one choice as they become known: numbers them, gives them ids, emits their events.

Between the readers of each call style and the events. Knows no style.
"""

from __future__ import annotations

import re
import secrets
import string
from typing import Any

from .output_events import Event, ToolArgs, ToolEnd, ToolStart
from .tool_values import json_of_text

_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")
_OWN = re.compile(r"(?:functions\.)?(?P<name>[^:]+):\d+")
_ALPHANUMERIC = string.ascii_letters + string.digits


class CallWriter:
    """`schemas`: the JSON schema of each offered tool's parameters."""

    __slots__ = (
        "_has_arguments",
        "_has_parameter",
        "_ids",
        "_schemas",
        "_style",
        "_properties",
        "events",
        "is_open",
        "num_calls",
    )

    def __init__(self, events: list[Event], id_style: str, schemas: dict[str, dict[str, Any]]) -> None:
        self.events = events
        self.num_calls = 0
        self.is_open = False
        self._style = id_style
        self._schemas = schemas
        self._ids: set[str] = set()
        self._properties: dict[str, Any] = {}
        self._has_arguments = False
        self._has_parameter = False

    def start(self, written: str, call_id: str = "") -> bool:
        """A call by the name that the model wrote; False if that cannot be a name."""
        name = written.strip()
        own = _OWN.fullmatch(name) if self._style == "own" else None
        if own is not None:
            name, call_id = own["name"], name
        if not _NAME.fullmatch(name):
            return False
        self.close()
        self.events.append(ToolStart(self.num_calls, self._id(call_id), name))
        properties = self._schemas.get(name, {}).get("properties")
        self._properties = properties if isinstance(properties, dict) else {}
        self.num_calls += 1
        self.is_open, self._has_parameter, self._has_arguments = True, False, False
        return True

    def arguments(self, text: str) -> None:
        if text:
            self._has_arguments = True
            self.events.append(ToolArgs(self.num_calls - 1, text))

    def parameter(self, name: str, written: str) -> None:
        """One parameter, its value as text: what the tool's schema says decides how it is read."""
        key = json_of_text(name.strip(), {"type": "string"})
        value = json_of_text(written, self.schema_of(name))
        self.json_parameter(key, value)

    def schema_of(self, parameter: str) -> Any:
        """Of a parameter of the open call; None where nothing is known of it."""
        return self._properties.get(parameter.strip())

    def json_parameter(self, key: str, value: str) -> None:
        """One parameter, both as JSON."""
        self.arguments(f"{', ' if self._has_parameter else '{'}{key}: {value}")
        self._has_parameter = True

    def close(self, is_complete: bool = True) -> None:
        """The end of the open call, if there is one; its parameters, or none at all, become a whole object."""
        if not self.is_open:
            return
        if is_complete and (self._has_parameter or not self._has_arguments):
            self.arguments("}" if self._has_parameter else "{}")
        self.is_open = False
        self.events.append(ToolEnd(self.num_calls - 1))

    def _id(self, given: str) -> str:
        if self._style == "own" and given and given not in self._ids:
            self._ids.add(given)
            return given
        if self._style == "short":
            return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"
