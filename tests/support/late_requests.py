"""A buffer of the query log or of dnstap for which the loop does something at the worst moment.

It is empty when the thread looks. Before the thread continues, the loop hands over pieces or stops the thread.
"""

from collections.abc import Callable
from typing import Any

from resolver import limits
from resolver.observe.pieces import Pieces


class LateRequests:
    """Calls `requests` with the real buffer after the first `take` that has found nothing."""

    def __init__(self, requests: Callable[[Pieces], None]) -> None:
        self.real = Pieces(limits.OBSERVE_BUFFER.minimum)
        self.requests = [requests]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def take(self) -> tuple[memoryview, int] | None:
        found = self.real.take()
        if found is None and self.requests:
            self.requests.pop()(self.real)
        return found
