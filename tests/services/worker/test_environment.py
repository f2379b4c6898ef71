from __future__ import annotations

import os
import subprocess
import sys

from quire.services.worker.environment import settings_for


def test_a_bare_environment_gets_all_settings():
    assert settings_for({"PATH": "/bin"}) == {
        "GOMP_SPINCOUNT": "300",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }


def test_what_the_user_has_set_stays():
    assert "GOMP_SPINCOUNT" not in settings_for({"GOMP_SPINCOUNT": "7"})
    assert "GOMP_SPINCOUNT" not in settings_for({"OMP_WAIT_POLICY": "passive"})
    assert "GLIBC_TUNABLES" not in settings_for({"GLIBC_TUNABLES": ""})


def test_nothing_is_added_twice():
    assert settings_for(settings_for({})) == {}


def test_settling_starts_the_program_anew_once_with_its_arguments():
    program = (
        "import os, sys\nfrom quire.services.worker.environment import settle\nprint('begins', flush=True)\nsettle()\n"
        "print(os.getpid(), os.environ['GOMP_SPINCOUNT'], *sys.argv[1:])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in settings_for({})}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--model", "a b"], env=environment, stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(timeout=60)
    assert output.splitlines() == ["begins", "begins", f"{process.pid} 300 --model a b"]
