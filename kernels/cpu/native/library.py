"""The native library in this process: loaded once, its functions called through ctypes with plain addresses."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from .build import BuildError, library_path, supported_levels

POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float

_declared: list[Function] = []
_loaded: tuple[ctypes.CDLL, str] | None = None


class Function:
    """`quire_<name>` of the library, found when that is loaded. A call releases the GIL."""

    __slots__ = ("_argument_types", "_call", "_name", "_returns")

    def __init__(self, name: str, argument_types: tuple[Any, ...], returns: Any) -> None:
        self._name, self._argument_types, self._returns = name, argument_types, returns
        self._call: Any = _not_loaded

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def find(self, library: ctypes.CDLL) -> None:
        """Raises BuildError."""
        try:
            found = getattr(library, f"quire_{self._name}")
        except AttributeError as error:
            raise BuildError("broken library", f"the library has no function {self._name}") from error
        found.argtypes, found.restype = self._argument_types, self._returns
        self._call = found


def _not_loaded(*_: Any) -> None:
    raise RuntimeError("the native library is not loaded")


def function(name: str, *argument_types: Any, returns: Any = None) -> Function:
    """Declares `quire_<name>`; it can be called once the library is loaded."""
    declared = Function(name, argument_types, returns)
    if _loaded is not None:
        declared.find(_loaded[0])
    _declared.append(declared)
    return declared


def load(level: str | None = None) -> str:
    """Load the library, compiling it if need be, for an instruction set (None: the best there is).

    Another one may be loaded later in its stead. Returns the instruction set. Raises BuildError.
    """
    global _loaded
    levels = supported_levels()
    if not levels:
        raise BuildError("no AVX2", "this CPU has neither AVX2 nor AVX512")
    wanted = level or levels[0]
    if wanted not in levels:
        raise BuildError(f"no {wanted}", f"this CPU has no {wanted}")
    if _loaded is None or _loaded[1] != wanted:
        library = _open(library_path(wanted))
        for declared in _declared:
            declared.find(library)
        _loaded = library, wanted
    return wanted


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError("broken library", f"{path.name} cannot be loaded: {error}") from error
