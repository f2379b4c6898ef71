"""Tests of starting, scaling, losing a process and stopping, as an operator sees them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from running_server import ROOT, RunningServer, serving

from bench.client import LoadClient, Target

CHAT = "/v1/chat/completions"


def long_answer(**fields) -> bytes:
    body = {"messages": [{"role": "user", "content": "Count from 1 to 200"}], "temperature": 0, "stream": True}
    return json.dumps({**body, "ignore_eos": True, "max_tokens": 3000, **fields}).encode()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(is_true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "quire", *argv], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_sigterm_leaves_no_process_no_socket_and_exit_code_zero():
    with serving() as server:
        pids = server.pids()
        assert {name.partition("-")[0] for name in pids} >= {"frontend", "tokenizer", "engine", "worker"}
        assert server.stop() == 0
        assert not [name for name, pid in pids.items() if is_alive(pid)]
        assert not (server.run_dir / "run").exists() or not os.listdir(server.run_dir / "run")


def test_sigterm_lets_a_stream_finish():
    async def stream_through_the_end(server: RunningServer):
        client = LoadClient(Target.parse(server.url), keeps_texts=True)
        body = {"messages": [{"role": "user", "content": "Count from 1 to 60"}], "stream": True, "max_tokens": 150}
        task = asyncio.ensure_future(client.post(CHAT, json.dumps(body).encode()))
        while not server.samples().get("vllm:generation_tokens_total"):
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        answer = await task
        client.close()
        return answer

    with serving() as server:
        answer = asyncio.run(stream_through_the_end(server))
        assert answer.is_done and not answer.error and json.loads(answer.texts[-1])
        assert server.stop() == 0


@pytest.mark.parametrize("victim", ["tokenizer-0", "engine-0", "worker-0-0"])
def test_a_killed_service_is_named_no_request_hangs_and_the_exit_code_is_one(victim):
    async def stream_into_the_kill(server: RunningServer):
        client = LoadClient(Target.parse(server.url))
        tasks = [asyncio.ensure_future(client.post(CHAT, long_answer())) for _ in range(4)]
        tasks += [asyncio.ensure_future(client.post(CHAT, long_answer(stream=False))) for _ in range(2)]
        while server.samples().get("vllm:generation_tokens_total", 0) < 20:
            await asyncio.sleep(0.01)
        os.kill(server.pids()[victim], signal.SIGKILL)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        client.close()
        return answers

    with serving("--no-restart") as server:
        pids = server.pids()
        answers = asyncio.run(stream_into_the_kill(server))
        for answer in answers[:4]:
            assert answer.status == 200 and answer.is_done and "error" in answer.error, answer
        for answer in answers[4:]:
            assert answer.status in (500, 503) and '"error"' in answer.error, answer
        assert server.process.wait(60) == 1
        server.stop()
        last = server.output.strip().splitlines()[-1]
        assert victim in last and ("SIGKILL" in last or "signal 9" in last), server.output
        assert not [name for name, pid in pids.items() if is_alive(pid)]


def test_a_killed_launcher_takes_the_whole_tree_with_it():
    with serving() as server:
        pids = server.pids()
        server.process.kill()
        server.process.wait(60)
        until(lambda: not [name for name, pid in pids.items() if is_alive(pid)])
        server.stop()


def test_tokenizers_scale_up_and_down_on_a_live_server():
    with serving() as server:
        assert sum(name.startswith("tokenizer") for name in server.pids()) == 1
        scaled = run("scale", "tokenizer=3", "--run-dir", str(server.run_dir / "run"))
        assert scaled.returncode == 0, scaled.stderr
        until(lambda: sum(name.startswith("tokenizer") for name in server.pids()) == 3)
        status = json.loads(server.get("/status"))
        until(lambda: "tokenizer-2" in server.get("/status").decode())
        assert status["state"] == "ready"
        assert run("scale", "tokenizer=1", "--run-dir", str(server.run_dir / "run")).returncode == 0
        until(lambda: sum(name.startswith("tokenizer") for name in server.pids()) == 1)
        server.get("/health")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["serve", "/no/such/folder"], "/no/such/folder"),
        (["serve", "--port", "99999"], "out of range"),
        (["serve", "--no-such-flag"], "--no-such-flag"),
        (["run", "nothing"], "frontend,tokenizer,engine,worker"),
        (["scale", "tokenizer=2", "--run-dir", "/tmp/quire-nobody-here"], "quire"),
    ],
)
def test_what_cannot_work_is_said_in_a_line(argv, sentence):
    done = run(*argv)
    assert done.returncode != 0
    assert sentence in done.stderr and "Traceback" not in done.stderr


def test_a_port_in_use_is_said_in_a_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode != 0 and "in use" in done.stderr


def test_an_unsupported_architecture_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert", "vocab_size": 5}')
    done = run("serve", str(tmp_path))
    assert done.returncode != 0 and "bert" in done.stderr.lower() and "Traceback" not in done.stderr


def test_too_little_memory_says_which_flag_to_change():
    server = RunningServer("--kv-cache-memory", "1KiB", "--max-model-len", "4096")
    assert server.process.wait(60) == 1
    server.stop()
    assert "--kv-cache-memory" in server.output and "Traceback" not in server.output


def test_an_api_key_is_asked_for_everywhere_but_at_the_probes():
    import urllib.error

    with serving(environment={"QUIRE_API_KEY": "sesame"}) as server:
        server.get("/health")
        with pytest.raises(urllib.error.HTTPError) as error:
            server.get("/v1/models")
        error.value.close()
        assert error.value.code == 401
        with open(f"/proc/{server.pids()['frontend-0']}/cmdline") as command_line:
            assert "sesame" not in command_line.read()
