"""What frontends have to say to each other, carried between them: neighbours talk to neighbours only.

Which frontends there are is known here, whatever host they are on. Reads addresses, no letters.
"""

from __future__ import annotations

from typing import Any

from quire.shared.link import Server
from quire.shared.messages import Bequest, Finding, Inquiry
from quire.shared.neighbours import Above


def carry(letter: Inquiry | Finding | Bequest, server: Server[Any], above: Above) -> None:
    """Hand it on. Who inquires of a frontend that is not there is told so, and need not wait."""
    is_handed_on = letter.to in above.names and server.send(letter.to, letter)
    if not is_handed_on and isinstance(letter, Inquiry):
        server.send(letter.sender, Finding(letter.sender, letter.to, letter.ticket, "unreachable"))
