"""Where tests find what they share: test material beside them, and bench/, which an editable install leaves out."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent

# At the end of the path: the checkout's top level must hide nothing that is installed.
for folder in (
    TESTS.parent,
    TESTS,
    TESTS / "end_to_end",
    TESTS / "services" / "engine",
    TESTS / "services" / "frontend",
    TESTS / "services" / "tokenizer",
    TESTS / "services" / "worker",
):
    sys.path.append(str(folder))
