"""What libraries read from the environment as they start, set before they do: how the worker waits and takes memory.

Called first of all by the worker's process. Whatever the user has set stays as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_SPIN_COUNT = "300"
"""Looks that a thread of the forward pass takes at what it waits for before it sleeps: some microseconds.

About what lies between two operations of a step. libgomp's own 300,000 are fine on a machine with nothing else to do;
where other processes want the same cores, whoever spins uses up the time that its partner needs to get there.
"""


def settings_for(environment: Mapping[str, str]) -> dict[str, str]:
    """What is to be added to an environment."""
    added = {}
    if "OMP_WAIT_POLICY" not in environment:
        added["GOMP_SPINCOUNT"] = _SPIN_COUNT
    # glibc then asks for huge pages: weights and KV cache are read with far fewer misses of the address cache.
    added["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return {name: value for name, value in added.items() if name not in environment}


def settle() -> None:
    """Start this program anew, once, where something is to be added: glibc looks only when a process begins."""
    added = settings_for(os.environ)
    if added:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})
