"""Parts of grammars in Lark's notation, as llguidance reads it: literals, regular expressions, special tokens.

Used by constraints.py and structural_tags.py. Knows no rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def literal(text: str) -> str:
    """A text that matches itself; "" matches nothing and everything: leave it out instead."""
    return json.dumps(text)


def regex_rule(pattern: str) -> str:
    """A regular expression (Rust's syntax, of the whole text)."""
    return f"/{_SLASH.sub(_escaped, pattern)}/"


_SLASH = re.compile(r"\\.|/|\n", re.DOTALL)


def _escaped(match: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n"}.get(match[0], match[0])


def token(token_id: int) -> str:
    """One token by its id, special or not."""
    return f"<[{token_id}]>"


def literal_with_specials(text: str, special_ids: Mapping[str, int]) -> str:
    """A text in which the strings of special tokens stand for these tokens; "" for an empty one."""
    if not text:
        return ""
    if not special_ids:
        return literal(text)
    names = sorted(special_ids, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    return " ".join(token(special_ids[part]) if part in special_ids else literal(part) for part in parts if part)
