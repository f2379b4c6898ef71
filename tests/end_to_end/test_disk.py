"""Nothing that a request says is written to a disk: not its text, not its template, schema or stored response."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import httpx
from running_server import serving
from test_surface import tree_of

from tests.end_to_end.every_size import constrained

SECRET = "a word that nobody else has said: xyzzyplugh"


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change, by path."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode):
            found[str(path)] = (about.st_size, about.st_mtime_ns)
    return found


def open_for_writing(pid: int) -> set[str]:
    """Regular files, by the name they were opened by."""
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(fd)
            flags = int((Path(f"/proc/{pid}/fdinfo") / fd.name).read_text().split("flags:")[1].split()[0], 8)
            is_regular = stat.S_ISREG(fd.stat().st_mode)
        except OSError:
            continue
        if is_regular and flags & os.O_ACCMODE != os.O_RDONLY:
            found.add(name)
    return found


def test_requests_of_every_sort_leave_no_byte_on_disk(tmp_path: Path) -> None:
    homes = {name: str(tmp_path) for name in ("HOME", "TMPDIR")}
    with serving("--trust-request-chat-template", "--kv-cache-memory", "16MiB", environment=homes) as server:
        run_dir = str(server.run_dir)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})  # what is made at first use
            before = files_in(tmp_path)
            messages = [{"role": "user", "content": SECRET}]
            answers = [
                client.post("/v1/completions", json={"prompt": SECRET, "max_tokens": 4, "stream": True}),
                client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4, "user": SECRET}),
                client.post(
                    "/v1/chat/completions",
                    json={"messages": messages, "max_tokens": 4, "chat_template": "{{ messages[0].content }}"},
                ),
                client.post("/v1/responses", json={"input": SECRET, "max_output_tokens": 4, "store": True}),
                client.post("/v1/messages", json={"messages": messages, "max_tokens": 4}),
                client.post("/tokenize", json={"prompt": SECRET}),
                client.post("/v1/chat/completions", content=b"{" + SECRET.encode()),
                client.post("/no/such/path", content=SECRET.encode() * 1000),
                *(client.post(path, content=body) for path, body in map(constrained, range(4))),
            ]
            assert [answer.status_code for answer in answers].count(200) == len(answers) - 2
        held = {name for pid in tree_of(server.process.pid) for name in open_for_writing(pid)}
        assert files_in(tmp_path) == before
        elsewhere = {name for name in held if not name.startswith((run_dir, "/dev/", "/memfd:"))}
        assert not elsewhere, "files are open for writing outside of the run directory"
        for path in files_in(Path(run_dir)):
            assert b"xyzzyplugh" not in Path(path).read_bytes()
