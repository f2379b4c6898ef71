"""The sources under AddressSanitizer and UBSan: every *_driver.cpp here is run with them, alone and with threads.

A driver calls `quire_...` functions on memory that is exactly as long as it must be, and returns 0.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from quire.kernels.cpu.native import build

HERE = Path(__file__).parent
DRIVERS = sorted(HERE.glob("*_driver.cpp"))
FLAGS = [
    *build.BASE_FLAGS, "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
    "-Wno-psabi", f"-I{build.SOURCE}",
]  # fmt: skip
# Leaks are looked for with ptrace, which containers forbid.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "OMP_DYNAMIC": "false"}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One that has the sanitizers."""
    folder = tmp_path_factory.mktemp("probe")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    try:
        found = build.compiler()
        build.run_all([[found, *FLAGS, str(probe), "-o", str(folder / "probe")]])
    except build.BuildError as error:
        pytest.skip(str(error))
    if subprocess.run([folder / "probe"], env=ENVIRONMENT, capture_output=True).returncode:
        pytest.skip("the sanitizers cannot run here")
    return found


@pytest.fixture(scope="module", params=["best", "avx2"])
def programs(request: pytest.FixtureRequest, compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program for each driver."""
    levels = build.supported_levels()
    level = levels[0] if request.param == "best" and levels else request.param
    if level not in levels or (request.param == "best" and level == "avx2"):
        pytest.skip(f"this CPU has no {level}, or nothing else")
    folder = tmp_path_factory.mktemp(level)
    files = [*build.sources(), *DRIVERS]
    flags = [*FLAGS, *build.LEVELS[level][1]]
    build.run_all([[compiler, *flags, "-c", str(file), "-o", str(folder / f"{file.stem}.o")] for file in files])
    objects = [str(folder / f"{file.stem}.o") for file in build.sources()]
    build.run_all(
        [
            [compiler, *flags, str(folder / f"{driver.stem}.o"), *objects, "-o", str(folder / driver.stem)]
            for driver in DRIVERS
        ]
    )
    return folder


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("name", [driver.stem for driver in DRIVERS])
def test_a_driver_finds_nothing(programs: Path, name: str, num_threads: int) -> None:
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(num_threads)}
    ended = subprocess.run([programs / name], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-4000:]
