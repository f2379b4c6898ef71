"""What the GPU's benchmark needs of a Python, looked for before anything is imported; run by bench/gpu.sh."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping

PACKAGES = {
    "torch": "torch",
    "triton": "triton",
    "httptools": "httptools",
    "huggingface_hub": "huggingface_hub",
    "jinja2": "jinja2",
    "llguidance": "llguidance",
    "msgspec": "msgspec",
    "numpy": "numpy",
    "packaging": "packaging",
    "zmq": "pyzmq",
    "safetensors": "safetensors",
    "starlette": "starlette",
    "tokenizers": "tokenizers",
    "transformers": "transformers",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
    "pytest": "pytest",
}
"""By the name of the import."""


def complaint(packages: Mapping[str, str] = PACKAGES) -> str:
    """A sentence that names all that is lacking, and what to do; empty where nothing is."""
    lacking = [package for name, package in packages.items() if importlib.util.find_spec(name) is None]
    if lacking:
        names, version = " ".join(lacking), f"{sys.version_info[0]}.{sys.version_info[1]}"
        return (
            f"{sys.executable} (Python {version}) lacks {names}: put their wheels into a folder on another machine"
            f" (pip download --no-deps --only-binary=:all: --python-version {version}"
            f" --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d DIR {names}), named by --wheels"
        )
    if not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
        return "there is no C compiler, which Triton builds the launchers of its kernels with: install gcc"
    return ""


if __name__ == "__main__":
    sys.exit(complaint() or 0)
