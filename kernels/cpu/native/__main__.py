"""Compiles the native library for every instruction set into prebuilt/, for an image without a compiler.

python -m quire.kernels.cpu.native
"""

from __future__ import annotations

import sys

from .build import LEVELS, PREBUILT, BuildError, compile_library, prebuilt_path


def main() -> None:
    try:
        PREBUILT.mkdir(exist_ok=True)
        for level in LEVELS:
            print(compile_library(level, prebuilt_path(level)))
    except (BuildError, OSError) as error:
        sys.exit(f"the native kernels were not compiled: {error}")


if __name__ == "__main__":
    main()
