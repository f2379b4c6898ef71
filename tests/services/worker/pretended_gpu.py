"""A GPU that is not there: nothing is computed on it, but torch sees to every operation's devices, types and shapes.

Its tensors are torch's fake ones, so what would wait for a value of the device raises. Streams, events and graphs only
know whether a capture is under way; kernels are not launched, but what they are given must lie on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.cuda._utils import _get_device_index

from quire.kernels import dispatch
from quire.kernels import triton as triton_backend
from quire.kernels.triton.launch import Launch

GIB = 1 << 30


class Gpu:
    """What was done on it. `use` makes torch and the kernels believe that it is there."""

    def __init__(self) -> None:
        self.is_capturing = False
        self.num_captured = self.num_replayed = 0
        self.launched: set[str] = set()
        self._current: Any = None

    @contextmanager
    def use(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(FakeTensorMode, "avoid_device_init", property(lambda mode: True))
            self._patch_cuda(patch)
            self._patch_tensors(patch)
            patch.setattr(Launch, "run", lambda launch: self._launch(launch))
            patch.setattr(Launch, "load", lambda launch: None)
            patch.setattr(triton_backend, "runtime", SimpleNamespace(driver=SimpleNamespace(active=None)))
            patch.setitem(dispatch._backends, "cuda", triton_backend)
            patch.setitem(dispatch._names, "cuda", "triton")
            with FakeTensorMode(allow_non_fake_inputs=True):
                yield

    def _launch(self, launch: Launch) -> None:
        self.launched.add(launch.kernel.fn.__name__)
        for argument in launch.arguments:
            assert not isinstance(argument, torch.Tensor) or argument.device.type == "cuda", launch.kernel

    def await_all(self, device: Any = None) -> None:
        assert not self.is_capturing, "a capture must not wait for the device"
        _checked(device)

    def _patch_cuda(self, patch: pytest.MonkeyPatch) -> None:
        gpu = self

        class Event:
            def __init__(self, **_: Any) -> None: ...
            def record(self, stream: Any) -> None: ...
            def query(self) -> bool:
                return True

            def synchronize(self) -> None:
                gpu.await_all()

        class Stream:
            def __init__(self, device: Any = None) -> None:
                _checked(device)

            def wait_stream(self, other: Any) -> None: ...
            def wait_event(self, event: Any) -> None: ...
            def synchronize(self) -> None:
                gpu.await_all()

        class Graph:
            def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
                assert gpu._current is not None, "what is captured must be on a stream of its own"
                gpu.is_capturing = True

            def capture_end(self) -> None:
                gpu.is_capturing = False
                gpu.num_captured += 1

            def replay(self) -> None:
                gpu.num_replayed += 1

        @contextmanager
        def issue_to(stream: Any) -> Iterator[None]:
            before, gpu._current = gpu._current, stream
            yield
            gpu._current = before

        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        default = Stream()
        stand_ins = {
            "is_available": lambda: True,
            "current_device": lambda: 0,
            # As torch has it: what chooses a device wants its number, what asks about one does not.
            "set_device": lambda device: _get_device_index(device),
            "synchronize": gpu.await_all,
            "empty_cache": gpu.await_all,
            "mem_get_info": lambda device: _checked(device, (60 * GIB, 80 * GIB)),
            "memory_reserved": lambda device: _checked(device, GIB),
            "get_device_capability": lambda device: _checked(device, (9, 0)),
            "get_device_name": lambda device: _checked(device, "pretended"),
            "get_device_properties": lambda device: _checked(device, SimpleNamespace(multi_processor_count=132)),
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": Graph,
            "graph_pool_handle": lambda: (0, 1),
            "current_stream": lambda device: _checked(device, gpu._current or default),
            "set_stream": lambda stream: setattr(gpu, "_current", stream),
            "stream": issue_to,
        }
        for name, stand_in in stand_ins.items():
            patch.setattr(torch.cuda, name, stand_in)

    def _patch_tensors(self, patch: pytest.MonkeyPatch) -> None:
        """Host memory stays real, since numpy looks into it; the rest is what a torch without CUDA cannot do."""
        patch.setattr(torch, "empty", _outside_if(torch.empty, lambda *_, pin_memory=False, **__: pin_memory))
        patch.setattr(torch, "from_numpy", _outside_if(torch.from_numpy, lambda *_: True))
        for name in ("view", "numpy"):
            patch.setattr(torch.Tensor, name, _outside_if(getattr(torch.Tensor, name), lambda own, *_: _is_real(own)))
        taken, written, copied = torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.copy_
        taken = _outside_if(taken, lambda own, *_: _is_real(own))

        def take(own: torch.Tensor, places: Any) -> torch.Tensor:
            return _part(own, places) if own.is_cuda else taken(own, places)

        def write(own: torch.Tensor, places: Any, value: Any) -> None:
            if own.is_cuda:
                part = _part(own, places)
                part.copy_(value) if isinstance(value, torch.Tensor) else part.fill_(value)
            else:
                written(own, places, value)

        def copy(own: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            if {own.device.type, source.device.type} != {"cpu", "cuda"}:
                return torch.ops.aten.copy_(own, source) if own.is_cuda else copied(own, source, non_blocking)
            assert own.shape == source.shape and own.dtype == source.dtype
            assert non_blocking and not self.is_capturing, "a copy that the host would wait for"
            return own

        patch.setattr(torch.Tensor, "__getitem__", take)
        patch.setattr(torch.Tensor, "__setitem__", write)
        patch.setattr(torch.Tensor, "copy_", copy)


def _checked(device: Any, answer: Any = None) -> Any:
    if device is not None:
        _get_device_index(device, optional=True)
    return answer


def _is_real(tensor: torch.Tensor) -> bool:
    return type(tensor) is torch.Tensor


def _outside_if(function: Any, is_outside: Any) -> Any:
    """The function, outside of the fake mode where `is_outside` says so."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_outside(*args, **kwargs):
            return function(*args, **kwargs)
        kwargs.pop("pin_memory", None)
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return call


def _part(tensor: torch.Tensor, places: Any) -> torch.Tensor:
    """tensor[places] by operations alone: torch's own indexing asks CUDA for the current device."""
    at = 0
    for place in places if isinstance(places, tuple) else (places,):
        if place is None:
            tensor, at = torch.ops.aten.unsqueeze(tensor, at), at + 1
        elif isinstance(place, slice):
            end = (1 << 63) - 1 if place.stop is None else place.stop
            tensor, at = torch.ops.aten.slice(tensor, at, place.start, end), at + 1
        else:
            tensor = torch.ops.aten.select(tensor, at, int(place))
    return tensor
