"""A service takes all the file descriptors that it may have."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from quire.shared.service import raise_file_limit
before = resource.getrlimit(resource.RLIMIT_NOFILE)
raise_file_limit()
print(*before, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    command = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 900; exec "$@"', "sh", sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["200", "900", "900", "900"]
