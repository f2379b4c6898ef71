"""Out of memory: which errors say it, and the sentence that says what to change.

Memory is planned before it is taken, so this is for what the plan could not know: another process on the device.
Knows no tensors: torch's errors are told by their names.
"""

from __future__ import annotations

from .errors import DeviceError

_NAMES = ("OutOfMemoryError", "MemoryError")
_WORDS = ("out of memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    return any(kind.__name__ in _NAMES for kind in type(error).__mro__) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


def told(error: BaseException, doing: str) -> BaseException:
    """The error itself, or a DeviceError with a sentence in place of one that says that there is no memory."""
    if not is_out_of_memory(error):
        return error
    return DeviceError(
        f"out of memory {doing}; lower --memory-utilization (or --kv-cache-memory), or --max-num-batched-tokens"
    )
