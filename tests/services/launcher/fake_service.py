"""A service that does nothing but register, listen and report: the children of the launcher's tests.

Run as a script. `--mode` chooses how it behaves; see `main`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from quire.shared.config import ServiceConfig
from quire.shared.link import wait
from quire.shared.messages import Hello, Look, Outages, ToFrontendFromOperator, ToTokenizer
from quire.shared.neighbours import Above
from quire.shared.parent_process import die_with_parent
from quire.shared.service import Service


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--mode", default="serve")
    parser.add_argument("--is-joining", action="store_true", help="a frontend beside others; nothing here")
    parser.add_argument("--trace", help="file that gets a line when it stops")
    given = parser.parse_args()
    die_with_parent(given.parent_pid)
    stopped: list[int] = []
    if given.mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: stopped.append(1))
    if given.mode == "dies_at_start":
        print("loading", flush=True)
        sys.exit("quire: the disk is on fire")
    if given.mode == "leaves_a_child":
        print("grandchild", subprocess.Popen(["sleep", "600"]).pid, flush=True)
    service = Service(given.name.partition("-")[0], ServiceConfig(run_dir=given.run_dir, name=given.name))
    server = service.listen(ToFrontendFromOperator if service.kind == "frontend" else ToTokenizer)
    above = Above(server, service, on_vanish=lambda name: None)
    time.sleep(0.05)
    if given.mode == "fails":
        service.report("failed", detail="8 GiB of weights do not fit into 4 GiB; see --memory-utilization")
    elif given.mode != "never_ready":
        service.report("ready", detail="at your service")
    heard = False
    while not stopped:
        wait([server], 0.05)
        while (received := server.receive()) is not None:
            peer, message = received
            if isinstance(message, Hello):
                above.hear(peer, message)
                heard = True
            elif isinstance(message, Look) and given.trace:
                with open(f"{given.trace}.looks.{given.name}", "a", encoding="utf-8") as file:
                    file.write("look\n")
            elif isinstance(message, Outages) and given.trace:
                with open(f"{given.trace}.outages.{given.name}", "a", encoding="utf-8") as file:
                    file.write(json.dumps([message.causes, message.restarts]) + "\n")
        if heard and given.mode == "fails":
            time.sleep(0.1)
            server.close()
            sys.exit(3)
    if given.trace:
        with open(given.trace, "a", encoding="utf-8") as trace:
            trace.write(f"{given.name}\n")
    server.close()
    service.close()
    os._exit(0) if given.mode == "leaves_a_child" else sys.exit(0)


if __name__ == "__main__":
    main()
