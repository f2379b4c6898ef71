"""The native library's file: compiled once for this machine's instructions, kept in a cache, found again by a hash.

Sources are the .cpp and .h files of source/. An image may bring what it was compiled for beforehand
(prebuilt/, see __main__.py). Knows nothing of what the functions do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
PREBUILT = Path(__file__).parent / "prebuilt"
BASE_FLAGS = (
    "-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fvisibility=hidden",
    # A product and a sum are rounded each, unless the source says fma.
    "-ffp-contract=off",
)  # fmt: skip
_COMPILE_SECONDS = 120
_SEAL_BYTES = 32

LEVELS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "avx512_bf16": (
        {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "avx512_vnni", "fma", "f16c"},
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mavx512vnni", "-mfma", "-mf16c"),
    ),
    "avx512": (
        {"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c"},
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"),
    ),
    "avx2": ({"avx2", "fma", "f16c"}, ("-mavx2", "-mfma", "-mf16c")),
}
"""Instruction set -> (what /proc/cpuinfo must list, what the compiler is told), best first."""


class BuildError(Exception):
    """Why there is no native library, for people: in a word or two, and as a sentence."""

    def __init__(self, brief: str, sentence: str = "") -> None:
        super().__init__(sentence or brief)
        self.brief = brief


def supported_levels() -> list[str]:
    """The instruction sets this machine has, best first; empty where there is none of LEVELS."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    present = set(next((line for line in lines if line.startswith("flags")), "").split())
    return [name for name, (needed, _) in LEVELS.items() if needed <= present]


def library_path(level: str) -> Path:
    """The shared library for an instruction set: prebuilt, cached, or compiled now. Raises BuildError."""
    return found_library(level) or compile_library(level, cache_folder() / prebuilt_path(level).name)


def found_library(level: str) -> Path | None:
    """The shared library if there is one that need not be compiled. Raises BuildError."""
    prebuilt = prebuilt_path(level)
    if is_whole(prebuilt):
        return prebuilt
    cached = cache_folder() / prebuilt.name
    return cached if is_whole(cached) else None


def prebuilt_path(level: str) -> Path:
    return PREBUILT / f"quire-{level}-{_digest(level)}.so"


def is_whole(library: Path) -> bool:
    """Whether a file is there and is what was compiled: loading half of one would end the process."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return len(content) > _SEAL_BYTES and _seal(content[:-_SEAL_BYTES]) == content[-_SEAL_BYTES:]


def _seal(content: bytes) -> bytes:
    """Stands behind what the linker has written, where the loader does not look."""
    return hashlib.sha256(content).digest()


def cache_folder() -> Path:
    """QUIRE_CACHE_DIR, or a folder of the user's own, or one beside other temporary files. Raises BuildError.

    What lies there is loaded into the process, so that nobody else may be able to write to it.
    """
    named = os.environ.get("QUIRE_CACHE_DIR")
    if named:
        return _own_folder(Path(named).expanduser())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        return _own_folder(Path(home) / "quire")
    except BuildError:
        return _own_folder(Path(tempfile.gettempdir()) / f"quire-{os.getuid()}")


def _own_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        status = folder.stat()
        others = any(_can_be_replaced_in(parent) for parent in folder.parents)
    except OSError as error:
        raise BuildError("no cache", f"{folder}: {error.strerror}") from error
    if others or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise BuildError("no cache", f"{folder} can be written to by others")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BuildError("no cache", f"{folder} cannot be written to")
    return folder


def _can_be_replaced_in(folder: Path) -> bool:
    """Whether anybody may rename what lies in a folder."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH and not mode & stat.S_ISVTX)


def compile_library(level: str, target: Path) -> Path:
    """Compile all sources, side by side, and link them; whoever does so at the same time makes the same.

    Raises BuildError.
    """
    found = compiler()
    flags = [*BASE_FLAGS, *LEVELS[level][1]]
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as folder:
            objects = [os.path.join(folder, f"{file.stem}.o") for file in sources()]
            run_all(
                [[found, *flags, "-c", str(file), "-o", made] for file, made in zip(sources(), objects, strict=True)]
            )
            linked = Path(folder) / target.name
            # Without -fopenmp: the OpenMP it calls is then the one torch has brought, and there is one pool.
            run_all([[found, "-shared", *objects, "-o", str(linked)]])
            with linked.open("ab") as file:
                file.write(_seal(linked.read_bytes()))
            linked.chmod(0o644)
            linked.replace(target)
    except OSError as error:
        raise BuildError("compiling failed", f"compiling failed: {error}") from error
    return target


def sources() -> list[Path]:
    return sorted(SOURCE.glob("*.cpp"))


def run_all(commands: list[list[str]]) -> None:
    """Side by side. Raises BuildError with what the first that failed says, and OSError."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        for process in running:
            _, error = process.communicate(timeout=_COMPILE_SECONDS)
            if process.returncode:
                said = error.decode(errors="replace").strip()
                raise BuildError("compiling failed", f"compiling failed: {said[:2000]}")
    except subprocess.TimeoutExpired as error:
        raise BuildError("compiling failed", f"compiling takes more than {_COMPILE_SECONDS} s") from error
    finally:
        for process in running:
            process.kill()
            process.communicate()


def compiler() -> str:
    """GCC, whose OpenMP is the one torch brings."""
    for name in (os.environ.get("CXX"), "g++", "c++"):
        found = shutil.which(name) if name else None
        if found and "clang" not in os.path.basename(os.path.realpath(found)):
            return found
    raise BuildError("no g++", "there is no g++ to compile them with")


def _digest(level: str) -> str:
    digest = hashlib.sha256(" ".join([*BASE_FLAGS, *LEVELS[level][1]]).encode())
    for file in sorted([*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
