"""Queue deadlines: which requests have waited for longer than their owner wants them to.

Asked by intake.py ten times a second, which refuses them. What has begun to run, or goes on with a
history, has no deadline any more. Knows no links.
"""

from __future__ import annotations

from quire.shared.errors import SERVER_OVERLOADED, refused
from quire.shared.messages import Refused

from .request import Request
from .scheduler import Scheduler


def overdue(scheduler: Scheduler, now: float) -> list[Request]:
    """`now`: monotonic seconds."""
    return [choice.request for choice in scheduler.waiting if choice.index == 0 and _is_overdue(choice.request, now)]


def _is_overdue(request: Request, now: float) -> bool:
    limit = request.submit.max_queue_seconds
    if not limit or now - request.arrival_monotonic < limit or request.submit.history or request.submit.is_suspect:
        return False
    return not request.choices[0].scheduled_at


def refusal(request: Request) -> Refused:
    """What its owner is told."""
    limit = request.submit.max_queue_seconds
    message = f"This request has waited for {limit:g} s to run (--queue-timeout); please retry later."
    return refused(request.submit.request_id, SERVER_OVERLOADED, message, retry_after_seconds=1.0)
