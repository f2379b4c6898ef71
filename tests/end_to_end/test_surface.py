"""What of a running server can be reached: HTTP alone, with no network needed, and each key for itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from running_server import ROOT, RunningServer, serving

LISTENING = "0A"


def tree_of(pid: int) -> list[int]:
    """A process and all below it; threads and helper processes end while they are looked at."""
    found = [pid]
    for each in found:
        for task in listed(Path(f"/proc/{each}/task")):
            with contextlib.suppress(OSError):
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def listed(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [*folder.iterdir()]
    return []


def inodes_of(pids: list[int]) -> set[str]:
    """Of the sockets these processes hold."""
    links = []
    for file in (file for pid in pids for file in listed(Path(f"/proc/{pid}/fd"))):
        with contextlib.suppress(OSError):
            links.append(os.readlink(file))
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_the_whole_tree_of_processes_listens_for_http_alone(demo: RunningServer) -> None:
    pids = tree_of(demo.process.pid)
    assert len(pids) >= 7
    ours = inodes_of(pids)
    ports = set()
    for table in ("tcp", "tcp6", "udp", "udp6", "raw"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[9] in ours and (columns[3] == LISTENING or not table.startswith("tcp")):
                address, _, port = columns[1].partition(":")
                assert address == "0100007F", line
                ports.add(int(port, 16))
    assert ports == {int(demo.url.rpartition(":")[2])}
    run_dir = demo.run_dir / "run"
    assert run_dir.stat().st_mode & 0o777 == 0o700
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        columns = line.split()
        if len(columns) == 8 and columns[6] in ours and int(columns[3], 16) & 0x10000:
            assert Path(columns[7]).parent == run_dir, line


IN_A_NAMESPACE = """
import fcntl, socket, struct, sys
with socket.socket() as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
sys.path[:0] = [{folder!r}]
from running_server import serving
import httpx
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
assert interfaces == ["lo"], interfaces
with serving() as server:
    body = {{"messages": [{{"role": "user", "content": "Count from 1 to 5"}}], "max_tokens": 20}}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60)
    print(answer.status_code, answer.json()["usage"]["completion_tokens"] > 0)
"""


def test_a_server_needs_no_network_to_start_and_to_answer() -> None:
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("network namespaces are not permitted here")
    script = IN_A_NAMESPACE.format(folder=str(Path(__file__).parent))
    done = subprocess.run([*namespace, sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "200 True\n", done.stderr


def cached(server: RunningServer, key: str, salt: str | None = None) -> int:
    """Tokens of a long prompt that came out of the prefix cache."""
    body = {"messages": [{"role": "user", "content": "the same words " * 40}], "max_tokens": 1, "cache_salt": salt}
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=60).json()
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_callers_with_different_keys_share_no_cached_prefix() -> None:
    with serving(environment={"QUIRE_API_KEY": "first,second"}) as server:
        assert cached(server, "first") == 0
        assert cached(server, "first") > 0
        assert cached(server, "second") == 0
        assert cached(server, "second") > 0
        assert cached(server, "first", "mine") == 0
        assert cached(server, "second", "mine") == 0
        assert cached(server, "second", "mine") > 0


def test_callers_with_one_key_share_prefixes_but_for_their_salts() -> None:
    with serving(environment={"QUIRE_API_KEY": "only"}) as server:
        assert cached(server, "only") == 0
        assert cached(server, "only") > 0
        assert cached(server, "only", "mine") == 0
        assert cached(server, "only", "mine") > 0
