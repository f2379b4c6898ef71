"""A worker's inbox: its messages in order, out of which the masks of a step can be taken first.

Masks come after their plan, while the step's logits are computed (see messages.Masks); what else comes
while they are waited for is kept for later. For the real worker and the fake one; knows no tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from quire.shared.link import Server
from quire.shared.messages import Configure, Hello, Masks

from .errors import StepAbandoned


class Inbox:
    """A worker's messages in order, out of which the masks of a step can be taken first."""

    def __init__(
        self,
        server: Server[Any],
        wait: Callable[[], None],
        is_stopping: Callable[[], bool],
        hear: Callable[[str, Hello], None],
    ) -> None:
        """`wait()` returns when there may be something, and does what else is due meanwhile; `hear` takes greetings."""
        self._server = server
        self._wait = wait
        self._is_stopping = is_stopping
        self._hear = hear
        self._kept: deque[tuple[str, Any]] = deque()

    def receive(self) -> tuple[str, Any] | None:
        """The next (peer, message); None when there is none. Never blocks."""
        return self._kept.popleft() if self._kept else self._server.receive()

    def masks(self, step: int) -> Masks:
        """Wait for the masks of a step.

        Raises StepAbandoned when they will not come: the worker is stopping, or its engine has started afresh.
        """
        while not self._is_stopping():
            received = self._server.receive()
            if received is None:
                self._wait()
                continue
            peer, message = received
            if isinstance(message, Hello):
                self._hear(peer, message)  # at once: an engine that starts afresh configures whom it hears
                continue
            if isinstance(message, Masks):
                if message.step == step:
                    return message
                continue  # of a step that was abandoned
            self._kept.append(received)
            if isinstance(message, Configure):
                raise StepAbandoned(f"the engine started afresh before it sent the masks of step {step}")
        raise StepAbandoned("the worker is stopping")
