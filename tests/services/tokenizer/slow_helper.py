"""The helper process, three seconds late; for test_helper_ahead.py."""

from __future__ import annotations

import time

if __name__ == "__main__":
    time.sleep(3.0)
    from quire.services.tokenizer.untrusted_program import main

    main()
