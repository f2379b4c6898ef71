"""`python -m quire`, and the `quire` command."""

from __future__ import annotations

from quire.services.launcher.cli import main

if __name__ == "__main__":
    main()
