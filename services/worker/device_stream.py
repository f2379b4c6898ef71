"""Streams and events of a device, and host memory that it copies from: on a GPU torch's, on a CPU what is done at once.

Work handed to one stream runs in order; an event tells when all that came before it is done. Whoever fills
host memory again waits for the event of the copy that last read it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch


class DeviceEvent(Protocol):
    """A point in the work of a stream."""

    def wait(self) -> None:
        """Hold the calling thread up until it is reached; the interpreter's lock is free meanwhile."""
        ...

    def is_done(self) -> bool: ...


class DeviceStream(Protocol):
    """Work of a device, in order."""

    def issue(self) -> AbstractContextManager[Any]:
        """Within it torch's operations, and the memory they take, are this stream's."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """target = source, of one size and type, some time after this call; neither may be changed before."""
        ...

    def record(self) -> DeviceEvent:
        """The end of what has been handed to it so far."""
        ...

    def follow(self, event: DeviceEvent) -> None:
        """What is handed to it from now on begins when `event` has been reached."""
        ...

    def uses(self, tensor: torch.Tensor) -> None:
        """Memory that another stream took is not given to others before this stream is done with it."""
        ...


class _Done:
    def wait(self) -> None:
        pass

    def is_done(self) -> bool:
        return True


class ImmediateStream:
    """A CPU's: what is handed to it is done when the call returns."""

    def issue(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def record(self) -> DeviceEvent:
        return _Done()

    def follow(self, event: DeviceEvent) -> None:
        event.wait()

    def uses(self, tensor: torch.Tensor) -> None:
        pass


class _CudaEvent:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()

    def is_done(self) -> bool:
        return self.event.query()


class CudaStream:
    """One of torch's streams of a GPU."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def issue(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with self.issue():
            target.copy_(source, non_blocking=True)

    def record(self) -> DeviceEvent:
        # Who waits sleeps: to look again and again would take a core for as long as the device computes.
        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return _CudaEvent(event)

    def follow(self, event: DeviceEvent) -> None:
        if isinstance(event, _CudaEvent):
            self._stream.wait_event(event.event)
        else:
            event.wait()

    def uses(self, tensor: torch.Tensor) -> None:
        tensor.record_stream(self._stream)


def current_stream(device: torch.device) -> DeviceStream:
    """What torch's operations of the calling thread are handed to."""
    return CudaStream(torch.cuda.current_stream(device)) if device.type == "cuda" else ImmediateStream()


def side_stream(device: torch.device) -> DeviceStream:
    """A new one beside it."""
    return CudaStream(torch.cuda.Stream(device)) if device.type == "cuda" else ImmediateStream()


def staging_memory(size: int, device: torch.device) -> torch.Tensor:
    """uint8 [size] of the host's memory, pinned where the device is a GPU: it then copies by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
