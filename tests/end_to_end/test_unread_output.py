"""A server whose output nobody reads (a paused terminal, a pager) goes on, and ends when it is asked to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from history import content
from running_server import ROOT

from bench.client import LoadClient, Target, run_on_loop
from bench.response import Answer
from tests.end_to_end.faulty_load import CHAT, bodies


def test_requests_are_answered_and_sigterm_is_obeyed_while_nobody_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quire", "serve", "--port", "0", "--run-dir", str(tmp_path / "run")]
    server = subprocess.Popen(
        [*command, "--log-level", "debug", "--kv-cache-memory", "16MiB"],
        cwd=ROOT,
        env={"QUIRE_THREADS": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = next(found.group(1) for line in server.stdout if (found := re.search(r"ready at (http://\S+)", line)))
        body = bodies(num_streams=0, num_plain=2, max_tokens=1)[1]

        async def ask(count: int) -> list[Answer]:
            client = LoadClient(Target.parse(url), keeps_texts=True, timeout_seconds=60)
            answers = [await client.post(CHAT, body) for _ in range(count)]
            client.close()
            return answers

        # A line each: more than the pipes between the frontend and us hold, 64 KiB each.
        answers = run_on_loop(ask(1200))
        assert {answer.status for answer in answers} == {200}, answers[-1].error
        assert all(content(answer) == content(answers[0]) for answer in answers)
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
