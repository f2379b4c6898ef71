"""The offline API in programs of their own, as people write them; how they end, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import ROOT

Script = Callable[[str], "subprocess.Popen[str]"]

_PIDS = 'print("pids", *llm._chain.pids.values(), llm._chain.run_dir, flush=True)'


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Starts a program from a file; its standard output is a pipe."""

    def start(source: str) -> subprocess.Popen[str]:
        file = tmp_path / "script.py"
        file.write_text(source)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    return start


def left_of(line: str) -> tuple[list[int], Path]:
    """What the line written by _PIDS says: processes, and the run directory."""
    word, *pids, run_dir = line.split()
    assert word == "pids" and len(pids) == 3
    return [int(pid) for pid in pids], Path(run_dir)


def until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.01)


def test_a_script_without_a_main_guard_and_without_close_ends_cleanly(script: Script) -> None:
    program = script(
        "import asyncio\n"
        "from quire import LLM, SamplingParams\n"
        "greedy = SamplingParams(temperature=0, max_tokens=8)\n"
        "with LLM(threads=1) as first:\n"
        "    print(first.generate('1, 2, 3,', greedy)[0].text)\n"
        "llm = LLM(threads=1)\n"  # one after the other; this one is not closed
        "async def cell():\n"  # as a notebook's cell: inside a running event loop
        "    print(llm.generate('1, 2, 3,', greedy)[0].text)\n"
        "    print(''.join(delta.text for delta in llm.stream('1, 2, 3,', greedy)))\n"
        f"asyncio.run(cell())\n{_PIDS}\n"
    )
    out, err = program.communicate(timeout=300)
    assert program.returncode == 0 and "Traceback" not in err, err
    *texts, last = out.splitlines()
    assert len(texts) == 3 and len(set(texts)) == 1
    pids, run_dir = left_of(last)
    until_gone(pids)
    assert not run_dir.exists()


def test_a_fork_is_refused_and_leaves_its_parents_model_alone(script: Script) -> None:
    program = script(
        "import os, sys\n"
        "from quire import LLM, LLMError\n"
        "with LLM(threads=1) as llm:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n"
        "            llm.generate('Hello')\n"
        "        except LLMError as error:\n"
        "            print(error, flush=True)\n"
        "        sys.exit(3)\n"  # by way of the with block and the functions of atexit
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
        "    print('error:', repr(llm.generate('Hello')[0].error), flush=True)\n"
    )
    out, err = program.communicate(timeout=300)
    assert program.returncode == 0 and "Traceback" not in err, err
    assert out.splitlines() == [
        "this LLM belongs to the process that made it; make another one in this one",
        "error: ''",
    ]


def test_an_interrupt_ends_a_script_as_any_other(script: Script) -> None:
    program = script(
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        "from quire import LLM, SamplingParams\n"
        "with LLM(threads=1, max_model_len=4096) as llm:\n"
        f"    {_PIDS}\n"
        "    stream = llm.stream('Hello', SamplingParams(max_tokens=None, ignore_eos=True))\n"
        "    next(stream)\n"
        "    print('running', flush=True)\n"
        "    while True:\n"
        "        llm.generate(['Hello'] * 100, SamplingParams(max_tokens=200, ignore_eos=True))\n"
    )
    assert program.stdout is not None
    pids, run_dir = left_of(program.stdout.readline())
    assert program.stdout.readline() == "running\n"
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=300)
    assert program.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    until_gone(pids)
    assert not run_dir.exists()


def test_a_script_that_is_killed_takes_its_processes_with_it(script: Script) -> None:
    program = script(f"from quire import LLM\nllm = LLM(threads=1)\n{_PIDS}\ninput()\n")
    assert program.stdout is not None
    pids, run_dir = left_of(program.stdout.readline())
    program.kill()
    program.communicate(timeout=300)
    until_gone(pids)
    for file in run_dir.iterdir():  # the next server sweeps them; this test need not wait a minute for it
        file.unlink()
    run_dir.rmdir()
