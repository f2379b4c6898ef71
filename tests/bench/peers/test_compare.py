"""Comparisons of servers against each other, with small servers of the standard library."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import pytest

from bench.peers import compare
from bench.peers.server import MachineUse, Server

SMALL = """
import json, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
pause, fails = float(sys.argv[2]), len(sys.argv) > 3

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def whole(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def do_GET(self):
        self.whole({"data": [{"id": "small"}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if fails and body["max_tokens"] > 1:
            sys.exit(3)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = body["max_tokens"]
        for _ in range(count):
            time.sleep(pause)
            self.frame({"choices": [{"text": "a"}]})
        self.frame({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": count}})
        self.line("data: [DONE]")
        self.wfile.write(b"0\\r\\n\\r\\n")
    def frame(self, value):
        self.line("data: " + json.dumps(value))
    def line(self, text):
        content = (text + "\\n\\n").encode()
        self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(content), content))

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path):
    """A server's command line, by what is written behind {port}."""
    script = tmp_path / "small.py"
    script.write_text(SMALL)
    return lambda rest: f"{sys.executable} {script} {{port}} {rest}"


@pytest.fixture
def server(command, tmp_path):
    one = Server("small", command("0"), tmp_path, 20.0)
    yield one
    one.end()


def state(pid: int) -> str:
    """The kernel's letter: S sleeping, T stopped."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_all_processes_of_a_server_stand_still_go_on_and_end(server):
    server.start()
    first, second = server.process_ids()
    assert os.getsid(first) != os.getsid(second)
    server.pause()
    deadline = time.monotonic() + 5
    while {state(first), state(second)} != {"T"} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {state(first), state(second)} == {"T"}
    server.resume()
    server.pause()
    server.end()
    assert not server.is_started
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{second}") and state(second) != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{first}")
    assert not os.path.exists(f"/proc/{second}") or state(second) == "Z"


def test_a_server_that_ends_at_once_is_told_with_what_it_said(tmp_path):
    server = Server("broken", f"{sys.executable} -c \"print('no model')\" {{port}}", tmp_path, 20.0)
    with pytest.raises(RuntimeError, match="broken ended with code 0:\nno model"):
        server.start()
    server.end()


def test_the_cpu_time_of_a_server_and_its_client_is_not_that_of_others(server):
    server.start()
    use = MachineUse(server)
    before = time.process_time()
    while time.process_time() - before < 0.2:
        pass
    shares = use.shares()
    assert shares["measured"] > 0
    assert 0 <= shares["others"] <= 1


@pytest.mark.parametrize("keep", [[], ["--keep"]])
def test_every_server_has_its_turn_at_every_workload(keep, command, tmp_path, capsys):
    out = tmp_path / "compare.json"
    servers = ["--server", f"one={command('0')}", "--server", f"other={command('0.01')}"]
    load = ["--workload", "W1", "W3", "--num-requests", "3", "--output-len", "5", "--warmup", "1"]
    assert compare.main([*servers, *load, *keep, "--rounds", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["results"]
    for one in [*found["rounds"], found["medians"]]:
        assert {workload: sorted(servers) for workload, servers in one.items()} == dict.fromkeys(
            ("W1", "W3"), ["one", "other"]
        )
        assert all(figures["output_tokens"] == 15 for servers in one.values() for figures in servers.values())
    assert set(found["ratios"]) == {"W1 one/other", "W3 one/other"}
    assert [len(seconds) for seconds in found["start_seconds"].values()] == ([1, 1] if keep else [2, 2])
    assert "times as fast" in capsys.readouterr().out


def test_a_ratio_above_one_is_in_favour_of_the_first():
    def figures(rate: float, milliseconds: float) -> dict[str, Any]:
        times = dict.fromkeys(("ttft_ms", "itl_ms", "tpot_ms"), {"p50": milliseconds})
        return {"output_tokens_per_second": rate, **times}

    compared = compare.ratios({"W1": {"ours": figures(300.0, 2.0), "a": figures(100.0, 4.0), "b": figures(600.0, 1.0)}})
    assert set(compared["W1 ours/a"].values()) == {3.0, 2.0}
    assert set(compared["W1 ours/b"].values()) == {0.5}


def test_a_server_that_is_lost_ends_the_run_and_leaves_none(command, capsys):
    servers = ["--server", f"good={command('0')}", "--server", f"bad={command('0 fails')}"]
    assert compare.main([*servers, "--keep", "--rounds", "1", "--num-requests", "2", "--output-len", "3"]) == 1
    assert "errors" in capsys.readouterr().out


def test_a_server_needs_a_name_and_a_port():
    assert compare.named_command("a=x --port {port}") == ("a", "x --port {port}")
    for text in ("x --port {port}", "a=x", "=x {port}"):
        with pytest.raises(argparse.ArgumentTypeError):
            compare.named_command(text)
