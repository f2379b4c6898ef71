"""Nothing is left of clients that go away at any stage or read nothing; the full counts: bench/leftovers.py."""

from __future__ import annotations

import time

from running_server import serving

from bench.leftovers import SlowReaders, connect_and_drop, held, left, samples, until_idle

FLAGS = ("--max-in-flight", "400", "--kv-cache-memory", "16MiB", "--stall-timeout", "0.5", "--max-unsent-size", "4KiB")


def test_nothing_is_left_of_dropped_connections_and_of_readers_that_stall():
    with serving(*FLAGS) as server:
        pids = [server.process.pid, *server.pids().values()]
        connect_and_drop(server.url, 25)
        with SlowReaders(server.url, 2, 100):
            time.sleep(0.2)
        until_idle(server.url)
        before = held(server.url, pids)
        connect_and_drop(server.url, 100)
        until_idle(server.url)
        with SlowReaders(server.url, 4, 3900):
            until_idle(server.url)  # ended by the server, while the readers are still there
        until_idle(server.url)
        more = left(before, held(server.url, pids))
        assert more["descriptors"] <= 4 and more["connections"] <= 1 and more["in_flight"] == 0
        assert more["memory_mib"] < 50
        counted = samples(server.url)
        assert counted['quire_aborts_total{cause="client_gone"}'] > 0
