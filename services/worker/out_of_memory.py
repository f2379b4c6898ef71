"""Out of memory: which errors say it, and the sentence that says what to change.

Memory is planned before it is taken, so this is for what the plan could not know: another process on the device.
Knows no tensors: torch's errors are told by their names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import DeviceError

_NAMES = ("OutOfMemoryError", "MemoryError")
_WORDS = ("out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    return any(kind.__name__ in _NAMES for kind in type(error).__mro__) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


_OF_A_STEP = "lower --memory-utilization (or --kv-cache-memory), or --max-num-batched-tokens"
OF_A_MODEL = "try --quantization fp8 (int8 on a CPU), several GPUs by --tensor-parallel-size, or a smaller model"


@contextlib.contextmanager
def telling(doing: str, remedy: str = _OF_A_STEP) -> Iterator[None]:
    """Raises a DeviceError with a sentence in place of whatever says that there is no memory."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(f"out of memory {doing}; {remedy}") from error
