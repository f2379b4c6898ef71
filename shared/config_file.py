"""The one TOML file that may hold any setting of any service, and who wins: flags, variables, this file, defaults.

A key is a flag's name without its dashes in front (max-num-seqs or max_num_seqs). Tables named as the groups of the
help may hold them too, which changes nothing but the looks. Imported only when a file is named.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .flags import Field, from_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def read(path: str, fields: Mapping[str, Field], all_fields: Mapping[str, Field]) -> dict[str, Any]:
    """The settings of `fields` in the file; those that others of `all_fields` want are left to them.

    Raises ValueError with a sentence that names the file and the key.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: {error}") from None
    found: dict[str, Any] = {}
    for key, value in _flat(path, content, {field.flag.group for field in all_fields.values()}):
        name = key.replace("-", "_")
        field = all_fields.get(name)
        if field is None or field.flag.is_internal or name == "config":
            raise ValueError(f"--config {path}: there is no setting {key!r}{_nearest(name, all_fields)}")
        if name in found:
            raise ValueError(f"--config {path}: {key!r} is there twice")
        try:
            found[name] = _value(field, value)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"--config {path}: {key}: {error}") from None
    return {name: value for name, value in found.items() if name in fields}


def _flat(path: str, content: dict[str, Any], groups: set[str]) -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if not isinstance(value, dict):
            yield key, value
        elif key.replace("-", " ") in groups:
            yield from value.items()
        else:
            raise ValueError(f"--config {path}: there is no table [{key}]; there are {', '.join(sorted(groups))}")


def _nearest(name: str, all_fields: Mapping[str, Field]) -> str:
    near = difflib.get_close_matches(name, all_fields, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _value(field: Field, value: Any) -> Any:
    if field.is_list:
        return tuple(_one(field, part) for part in (value if isinstance(value, list) else [value]))
    return _one(field, value)


def _one(field: Field, value: Any) -> Any:
    """A TOML value of the setting's own type; a size may be a number or a text with a unit."""
    wanted: tuple[type, ...] = {bool: (bool,), int: (int,), float: (int, float)}.get(field.kind, (str,))
    if field.flag.is_size:
        wanted = (int, str)
    if not isinstance(value, wanted) or (isinstance(value, bool) and field.kind is not bool):
        raise ValueError(f"{value!r} is not a {'size' if field.flag.is_size else field.kind.__name__}")
    return from_text(field, str(value))
