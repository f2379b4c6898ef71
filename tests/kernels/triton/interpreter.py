"""A repair of Triton's interpreter: bfloat16 and fp8 values compute as on a GPU.

The interpreter keeps bfloat16 and fp8 as raw bits and does arithmetic on the bits. Here such values are held
as float32 instead, rounded to nearest even (fp8: saturating) whenever one is made, and are bits only in memory.
Also makes `range` of a loaded number work with numpy 2.4. Written against triton 3.6; seen to work with 3.9.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_STORAGE = {
    tl.bfloat16: (torch.bfloat16, np.uint16),
    tl.float8e4nv: (torch.float8_e4m3fn, np.uint8),
    tl.float8e5: (torch.float8_e5m2, np.uint8),
}
"""Triton's dtype -> torch's, and the bits as numpy has them."""

Builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
Array = np.ndarray[Any, Any]


def encode(values: Array, dtype: Any) -> Array:
    """float32 -> bits."""
    torch_dtype, bits = _STORAGE[dtype]
    numbers = torch.from_numpy(np.array(values, np.float32))
    if bits is np.uint8:
        limit = torch.finfo(torch_dtype).max
        numbers = numbers.clamp(-limit, limit)
    return numbers.to(torch_dtype).view(torch.uint8 if bits is np.uint8 else torch.int16).numpy().view(bits)


def decode(bits: Array, dtype: Any) -> Array:
    """bits -> float32."""
    signed = torch.uint8 if bits.dtype == np.uint8 else torch.int16
    raw = torch.from_numpy(np.array(bits).view(np.uint8 if signed is torch.uint8 else np.int16))
    return raw.view(_STORAGE[dtype][0]).float().numpy()


def _is_held(dtype: Any) -> bool:
    return not isinstance(dtype, tl.pointer_type) and dtype.scalar in _STORAGE


def install() -> None:
    np.seterr(all="ignore")
    numpy_dtype, is_size_valid = interpreter._get_np_dtype, interpreter._validate_np_data_size
    check_handle, patch_tensor = Handle.__post_init__, interpreter._patch_lang_tensor
    bitcast, cast, fp_to_fp, dot, fabs = (
        Builder.create_bitcast,
        Builder.cast_impl,
        Builder.create_fp_to_fp,
        Builder.create_dot,
        Builder.create_fabs,
    )

    def round_handle(self: Any) -> None:
        if _is_held(self.dtype) and np.issubdtype(self.data.dtype, np.floating):
            self.data = decode(encode(self.data, self.dtype.scalar), self.dtype.scalar)
        check_handle(self)

    def load(self: Any, pointers: Any, mask: Any, other: Any, *hints: Any) -> Any:
        dtype = pointers.get_element_ty()
        memory = np.dtype(_STORAGE[dtype][1]) if dtype in _STORAGE else numpy_dtype(dtype)
        if other is None:
            filling = np.zeros_like(pointers.data, dtype=memory)
        else:
            filling = encode(other.data, dtype) if dtype in _STORAGE else other.data
        loaded = interpreter._interpreter.load(pointers.data, mask.data.astype(bool), filling, memory)
        return Handle(decode(loaded, dtype) if dtype in _STORAGE else loaded, dtype)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *hints: Any) -> Any:
        dtype = pointers.get_element_ty()
        data = encode(value.data, dtype) if dtype in _STORAGE else value.data
        return interpreter._interpreter.store(pointers.data, data, mask.data.astype(bool))

    def convert(self: Any, source: Any, target: Any) -> Any:
        if not (_is_held(source.dtype) or _is_held(target)):
            return cast(self, source, target)
        return Handle(source.data.astype(interpreter._get_np_dtype(target)), target.scalar)

    def convert_float(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        if not (_is_held(source.dtype) or _is_held(target)):
            return fp_to_fp(self, source, target, rounding)
        return convert(self, source, target)

    def reinterpret(self: Any, source: Any, target: Any) -> Any:
        if _is_held(source.dtype):
            bits = encode(source.data, source.dtype.scalar)
            return Handle(bits.view(numpy_dtype(target)), target.scalar)
        if _is_held(target):
            return Handle(decode(source.data.view(_STORAGE[target.scalar][1]), target.scalar), target.scalar)
        return bitcast(self, source, target)

    def multiply(self: Any, a: Any, b: Any, total: Any, *precision: Any) -> Any:
        """In float32, by torch: numpy knows no fast float16, and its threads fight with those of the test run."""
        if total.data.dtype != np.float32:
            return dot(self, a, b, total, *precision)
        if a.dtype.scalar != b.dtype.scalar:
            # The compiler refuses what the interpreter would let pass.
            raise TypeError(f"tl.dot of {a.dtype.scalar} and {b.dtype.scalar}")
        left, right = (torch.from_numpy(np.ascontiguousarray(side.data)).float() for side in (a, b))
        return Handle((left @ right).numpy() + total.data, total.dtype.scalar)

    def absolute(self: Any, value: Any) -> Any:
        if _is_held(value.dtype):
            return Handle(np.abs(value.data), value.dtype.scalar)
        return fabs(self, value)

    def patch_with_index(tensor: Any, *scope: Any) -> Any:
        done = patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())
        return done

    interpreter._get_np_dtype = lambda dtype: np.dtype(np.float32) if _is_held(dtype) else numpy_dtype(dtype)
    interpreter._validate_np_data_size = lambda data, dtype: _is_held(dtype) or is_size_valid(data, dtype)
    interpreter._patch_lang_tensor = patch_with_index
    Handle.__post_init__ = round_handle
    Builder.create_masked_load, Builder.create_masked_store = load, store
    Builder.cast_impl, Builder.create_fp_to_fp, Builder.create_bitcast = convert, convert_float, reinterpret
    Builder.create_dot, Builder.create_fabs = multiply, absolute
    Builder.get_bf16 = lambda self, value: Handle(np.array([value], np.float32), tl.bfloat16)
