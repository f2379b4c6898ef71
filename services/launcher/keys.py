"""`quire keys FILE`: makes the CURVE key pair that services on several hosts share."""

from __future__ import annotations

import argparse
import os
import sys

import msgspec

from quire.shared.link import Keys


def keys(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="quire keys", description="Make a key file for --key-file (mode 0600).")
    parser.add_argument("file", metavar="FILE")
    path = parser.parse_args(argv).file
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        print(f"quire: key file {path}: {error.strerror}", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(Keys.generate()))
    print(f"wrote {path}; give the same file to every service with --key-file")
    return 0
