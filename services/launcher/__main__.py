"""`python -m quire.services.launcher`: the same as the `quire` command."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
