"""Command-line flags made from configuration structs, so that a setting is written down once.

A field `max_num_seqs: Annotated[int, Flag("...")] = 64` is the flag --max-num-seqs, the variable
QUIRE_MAX_NUM_SEQS and the attribute config.max_num_seqs. Knows no particular setting: see config/.
"""

from __future__ import annotations

import argparse
import functools
import os
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

Config = TypeVar("Config", bound=msgspec.Struct)

_SIZE_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


class Flag(msgspec.Struct, frozen=True):
    """What the type of a field does not say. Bounds are inclusive."""

    help: str
    group: str = "general"
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()
    is_size: bool = False
    """Bytes, written with a unit: 512MiB, 4GiB, 1.5GB."""
    positional: bool = False
    metavar: str | None = None
    is_secret: bool = False
    """Passed on by environment, never on a command line (others can read those)."""
    is_internal: bool = False
    """Set by the launcher for its children; left out of the help."""
    is_often_used: bool = False
    """Among the first of the help."""


class Field(msgspec.Struct, frozen=True):
    """One setting: a struct's field with its Flag."""

    name: str
    flag: Flag
    kind: type
    is_list: bool
    is_optional: bool
    default: Any

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "QUIRE_" + self.name.upper()


def fields(config_type: type[msgspec.Struct]) -> dict[str, Field]:
    """The settings of a struct by name, in order."""
    return {field.name: field for field in _fields(config_type)}


@functools.cache
def _fields(config_type: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Read off the types once: resolving a struct's annotations takes milliseconds."""
    hints = typing.get_type_hints(config_type, include_extras=True)
    found = []
    for info in msgspec.structs.fields(config_type):
        hint = hints[info.name]
        flag = next(extra for extra in hint.__metadata__ if isinstance(extra, Flag))
        kind, is_list, is_optional = _unwrap(hint.__origin__)
        default = info.default_factory() if info.default is msgspec.NODEFAULT else info.default
        found.append(Field(info.name, flag, kind, is_list, is_optional, default))
    return tuple(found)


def _unwrap(hint: Any) -> tuple[type, bool, bool]:
    """(element type, is a tuple of them, may be None)."""
    is_optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)]
        is_optional = True
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True, is_optional
    return hint, False, is_optional


def parse_size(text: str) -> int:
    """Bytes of '512MiB', '4G', '1.5GB', '1000'. Raises ValueError."""
    stripped = text.strip().lower().removesuffix("b")
    digits = stripped.rstrip("kmgti")
    unit = stripped[len(digits) :]
    try:
        return int(float(digits) * _SIZE_UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size such as 512MiB or 4GB") from None


def parse_bool(text: str) -> bool:
    """Raises ValueError for what is neither yes nor no."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def _converter(field: Field) -> Callable[[str], Any]:
    flag = field.flag

    def convert(text: str) -> Any:
        try:
            if flag.is_size:
                value: Any = parse_size(text)
            elif field.kind is bool:
                value = parse_bool(text)
            else:
                value = field.kind(text)
        except ValueError as error:
            message = str(error) if flag.is_size or field.kind is bool else f"{text!r} is not a {field.kind.__name__}"
            raise argparse.ArgumentTypeError(message) from None
        if flag.choices and value not in flag.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(flag.choices)}")
        if flag.ge is not None and value < flag.ge or flag.le is not None and value > flag.le:
            low = "" if flag.ge is None else f"{flag.ge:g} <= "
            high = "" if flag.le is None else f" <= {flag.le:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: {low}value{high}")
        return value

    return convert


_OFTEN_USED = "often used"


def add_to(
    parser: argparse.ArgumentParser, config_types: Iterable[type[msgspec.Struct]], without: Iterable[str] = ()
) -> dict[str, Field]:
    """Add the flags of several structs, each name once; nothing is set for a flag not given."""
    skipped = set(without)
    added: dict[str, Field] = {}
    for config_type in config_types:
        for name, field in fields(config_type).items():
            if name not in skipped:
                added.setdefault(name, field)
    groups: dict[str, Any] = {}
    for field in sorted(added.values(), key=lambda field: not field.flag.is_often_used):
        title = _OFTEN_USED if field.flag.is_often_used else field.flag.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_argument(groups[title], field)
    return added


def _add_argument(group: Any, field: Field) -> None:
    flag = field.flag
    text = argparse.SUPPRESS if flag.is_internal else _help(field)
    if flag.positional:
        group.add_argument(
            field.name, nargs="?", help=text, metavar=flag.metavar, type=_converter(field), default=argparse.SUPPRESS
        )
    elif field.kind is bool and not field.is_list:
        action = argparse.BooleanOptionalAction
        group.add_argument(field.option, action=action, help=text, default=argparse.SUPPRESS)
    else:
        metavar = flag.metavar or ("{" + ",".join(flag.choices) + "}" if flag.choices else field.kind.__name__.upper())
        group.add_argument(
            field.option,
            action="append" if field.is_list else "store",
            type=_converter(field),
            help=text,
            metavar="SIZE" if flag.is_size else metavar,
            default=argparse.SUPPRESS,
        )


def _help(field: Field) -> str:
    text = field.flag.help.replace("%", "%%")
    if field.is_list:
        text += " (may be repeated)"
    elif field.default not in (None, "") and field.kind is not bool:
        text += f" (default: {field.default})"
    elif field.kind is bool:
        text += f" (default: {'on' if field.default else 'off'})"
    return text


def from_text(field: Field, text: str) -> Any:
    """One value of a setting as it is written. Raises argparse.ArgumentTypeError."""
    return _converter(field)(text)


def from_environment(all_fields: Iterable[Field], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The settings given as QUIRE_* variables; lists are separated by commas. Raises ValueError naming the variable."""
    environment = dict(os.environ) if environment is None else environment
    found: dict[str, Any] = {}
    for field in all_fields:
        text = environment.get(field.variable)
        if text is None or text == "":
            continue
        convert = _converter(field)
        try:
            found[field.name] = tuple(convert(part) for part in text.split(",")) if field.is_list else convert(text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{field.variable}: {error}") from None
    return found


def settle(
    added: dict[str, Field], given: dict[str, Any], all_fields: dict[str, Field] | None = None
) -> dict[str, Any]:
    """What holds of the flags of a command line: those `given`, then QUIRE_ variables, then the --config file.

    all_fields: what may stand in that file beside what was `added`. Raises ValueError with a sentence.
    """
    values = {**from_environment(added.values()), **given}
    path = values.pop("config", None)
    if path is None:
        return values
    from .config_file import read

    return {**read(path, added, {**(all_fields or {}), **added}), **values}


def build(config_type: type[Config], values: dict[str, Any]) -> Config:
    """The struct from what is given of its fields; the rest are defaults."""
    names = fields(config_type)
    return config_type(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names}
    )


def parse(
    config_type: type[Config],
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    all_fields: dict[str, Field] | None = None,
) -> Config:
    """As `settle` says, the rest defaults. Exits with 2 and one line on a bad value, as argparse does."""
    return parser_of(config_type, prog)(argv, all_fields)


def parser_of(config_type: type[Config], prog: str | None = None) -> Callable[..., Config]:
    """What `parse` does, as a function of `argv` and `all_fields`, for many command lines of one struct."""
    parser = argparse.ArgumentParser(
        prog=prog, description=(config_type.__doc__ or "").strip().splitlines()[0], allow_abbrev=False
    )
    added = add_to(parser, [config_type])

    def parse_one(argv: Sequence[str] | None = None, all_fields: dict[str, Field] | None = None) -> Config:
        given = vars(parser.parse_args(argv))
        try:
            return build(config_type, settle(added, given, all_fields))
        except ValueError as error:
            parser.error(str(error))

    return parse_one


def to_argv(config: msgspec.Struct) -> list[str]:
    """The flags that give this config, without secrets: those travel by `secrets`."""
    argv: list[str] = []
    for name, field in fields(type(config)).items():
        value = getattr(config, name)
        if value == field.default or field.flag.is_secret or value is None:
            continue
        if field.flag.positional:
            argv.append(str(value))
        elif field.kind is bool and not field.is_list:
            argv.append(field.option if value else "--no-" + field.option[2:])
        else:
            for part in value if field.is_list else (value,):
                argv += [field.option, str(part)]
    return argv


def secrets(config: msgspec.Struct) -> dict[str, str]:
    """The secret settings of a config, as variables for a child's environment."""
    found: dict[str, str] = {}
    for name, field in fields(type(config)).items():
        value = getattr(config, name)
        if field.flag.is_secret and value:
            found[field.variable] = ",".join(value) if field.is_list else str(value)
    return found
