"""Whoever reads the launcher's output, or does not, never holds the launcher up."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from quire.services.launcher.patient_output import PatientOutput
from quire.services.launcher.terminal import Terminal


def test_lines_come_out_whole_and_in_order() -> None:
    stream = io.StringIO()
    output = PatientOutput(stream)
    terminal = Terminal(output)
    for number in range(500):
        terminal.line(f"line {number} ü")
    output.close()
    assert stream.getvalue() == "".join(
        f"line {number} {'ü' if terminal.is_unicode else '?'}\n" for number in range(500)
    )


def test_a_pipe_that_nobody_reads_takes_no_time_and_bounded_memory_and_says_what_is_missing() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        output = PatientOutput(stream, max_waiting_bytes=100_000)
        for number in range(20_000):
            output.write(f"line {number:05}\n")
        assert output._num_waiting <= 100_000
        found = b""
        while b"line 00099" not in found:
            found += os.read(read, 1 << 16)
        while b"left out here" not in found:
            output.write("after\n")
            found += os.read(read, 1 << 16)
        lines = found.decode().splitlines()
        kept = [line for line in lines if line.startswith("line ")]
        assert kept == [f"line {number:05}" for number in range(len(kept))] and len(kept) < 20_000
        gap = next(line for line in lines if "left out here" in line)
        assert int(gap.split()[1]) >= 20_000 - len(kept)
        os.close(read)  # nobody will ever read it: no error, and the end waits for nobody
        output.write("nobody\n")
        output.close()


def test_a_process_ends_although_nobody_reads_its_output() -> None:
    program = (
        "import sys\nfrom quire.services.launcher.patient_output import PatientOutput\n"
        "output = PatientOutput(sys.stderr)\n"
        "for _ in range(3000):\n    output.write('x' * 99 + chr(10))\n"
        "sys.exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    assert process.wait(60) == 7
    assert process.stderr is not None
    process.stderr.close()


def test_what_is_said_last_is_still_written_when_the_process_ends() -> None:
    program = (
        "import sys\nfrom quire.services.launcher.patient_output import PatientOutput\n"
        "PatientOutput(sys.stderr).write('the cause\\n')\nsys.exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "the cause\n")
