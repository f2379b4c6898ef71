"""Compiles launches for sm_90 on a machine without a GPU, and reads what became of them.

A driver that only names its target stands in for the GPU's; register counts and instructions are read from
the machine code with the tools that lie in Triton's package.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from quire.kernels.triton.launch import Launch, Trait, compile_all

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_MAX_SHARED_BYTES = 227 << 10
_MAX_REGISTERS = 65536


class _Driver(DriverBase):
    """An H100, as far as the compiler asks."""

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "void*"

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise RuntimeError("nothing can be timed without a GPU")

    def get_current_device(self) -> int:
        return 0

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


@contextmanager
def sm_90() -> Iterator[None]:
    """Kernels are compiled for an H100 inside of it; none can be launched."""
    triton.runtime.driver.set_active(_Driver())
    try:
        yield
    finally:
        # Not reset_active(): that wants a GPU to go back to.
        triton.runtime.driver.set_active(None)


class MachineCode(NamedTuple):
    """What one launch became."""

    name: str
    num_warps: int
    registers: int
    """Of a thread."""
    stack_bytes: int
    shared_bytes: int
    opcodes: Counter[str]
    """With their modifiers: LDG.E.128.CONSTANT."""

    def count(self, opcode: str) -> int:
        return sum(number for name, number in self.opcodes.items() if re.match(opcode, name))

    def has(self, trait: Trait) -> bool:
        patterns = {"wgmma": r"[HQI]GMMA", "mma": r"[HI]MMA", "wide loads": r"LDG(STS)?\..*128"}
        return self.count(patterns[trait]) > 0

    def complaints(self, launch: Launch) -> list[str]:
        """Why it will not run fast, or at all, on an H100."""
        found = [f"lacks {trait}" for trait in launch.expects if not self.has(trait)]
        if self.stack_bytes or self.count(r"(LDL|STL)\b"):
            found.append(f"spills: {self.stack_bytes} bytes of stack")
        if self.shared_bytes > _MAX_SHARED_BYTES:
            found.append(f"takes {self.shared_bytes} bytes of shared memory")
        if self.registers * self.num_warps * 32 > _MAX_REGISTERS:
            found.append(f"takes {self.registers} registers in each of {self.num_warps} warps")
        return found

    def line(self) -> str:
        kinds = {"HGMMA": "HGMMA", "QGMMA": "QGMMA", "HMMA": "HMMA", "LDGSTS": "LDGSTS", "LDG.128": r"LDG\..*128"}
        seen = " ".join(f"{kind}:{self.count(pattern)}" for kind, pattern in kinds.items() if self.count(pattern))
        return (
            f"{self.name} | {self.num_warps} warps | {self.registers} registers | "
            f"{self.stack_bytes} B stack | {self.shared_bytes} B shared | {seen}"
        )


def label(launch: Launch) -> str:
    constants = " ".join(f"{name}={value}" for name, value in launch.constants.items())
    dtypes = ",".join(str(value).removeprefix("torch.") for value in launch.arguments if isinstance(value, torch.dtype))
    return f"{launch.kernel.fn.__name__}({dtypes}) {constants}"


def machine_code(launches: Sequence[Launch]) -> list[MachineCode]:
    """Compiled by two threads; call within sm_90()."""
    return [_read(launch, kernel) for launch, kernel in zip(launches, compile_all(launches, 2), strict=True)]


def _read(launch: Launch, kernel: Any) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([_TOOLS / tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if numbers is None:
        raise ValueError(f"cuobjdump says {usage!r}")
    registers, stack, _, local = (int(number) for number in numbers.groups())
    opcodes = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE))
    return MachineCode(label(launch), launch.num_warps, registers, stack + local, kernel.metadata.shared, opcodes)
