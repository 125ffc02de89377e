"""The policy of retries: for which failures, after which delay, and how many. The client sends the requests.

Exponential back-off with full jitter: the maximum delay doubles with each retry, and the delay is drawn at random below
it, so that clients that failed together do not retry together. The delay that the server requests (Retry-After) is used
instead; when it is longer than `max_delay`, there is no retry.
"""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from corenet.http.arguments import expect, integer, number
from corenet.http.dates import parse_http_date
from corenet.http.errors import ConnectError, ProxyError, ServerDisconnected, TimeoutExceeded, TlsError
from corenet.http.response import Response
from corenet.limits import (
    HTTP_REQUESTS_PER_RETRY,
    HTTP_RETRIES,
    HTTP_RETRY_BUDGET,
    HTTP_RETRY_DELAY,
    HTTP_RETRY_MAX_DELAY,
)

__all__ = ["Retries", "RetryBudget", "RetryState"]


@dataclass(frozen=True, slots=True)
class Retries:
    """`count` retries after a lost or refused connection, a time-out, or one of `statuses`; `max_delay` in seconds.

    `Timeout.total` covers all attempts and the waits between them. A wait that would pass it is not begun.
    """

    count: int = HTTP_RETRIES.default
    statuses: Iterable[int] = frozenset({429, 502, 503, 504})
    max_delay: float = HTTP_RETRY_MAX_DELAY.default

    def __post_init__(self) -> None:
        integer(HTTP_RETRIES, self.count, "Retries count")
        number(HTTP_RETRY_MAX_DELAY, self.max_delay, "Retries max_delay")
        expect(self.statuses, Iterable, "Retries statuses", "an iterable of status codes")
        object.__setattr__(self, "statuses", frozenset(self.statuses))
        for status in self.statuses:
            expect(status, int, "each of Retries statuses", "an int")

    def delay(self, retry: int, retry_after: str | None, *, now: float, draw: float) -> float | None:
        """Return the seconds to wait before retry number `retry`, from 0; None when the server requests more than
        `max_delay`.

        `now` is seconds since the epoch, for a Retry-After with a date; `draw` a random number from 0 to 1.
        """
        asked = None if retry_after is None else _seconds(retry_after, now)
        if asked is not None:
            return asked if asked <= self.max_delay else None
        return draw * min(HTTP_RETRY_DELAY / 1000 * 2.0**retry, self.max_delay)


def _seconds(retry_after: str, now: float) -> float | None:
    """Return the delay in Retry-After (RFC 9110 section 10.2.3), None when it is malformed."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    date = parse_http_date(text)
    return None if date is None else max(date - now, 0.0)


class RetryBudget:
    """A token bucket of retries, one for each client: each request adds a part of a token, a retry takes one."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        # In units of 1 / HTTP_REQUESTS_PER_RETRY retries, so that it is a whole number.
        self._left = HTTP_RETRY_BUDGET * HTTP_REQUESTS_PER_RETRY

    def deposit(self) -> None:
        """Count one request, which adds ``1 / HTTP_REQUESTS_PER_RETRY`` retries."""
        self._left = min(self._left + 1, HTTP_RETRY_BUDGET * HTTP_REQUESTS_PER_RETRY)

    def take(self) -> bool:
        """Take one retry; False when there is none."""
        if self._left < HTTP_REQUESTS_PER_RETRY:
            return False
        self._left -= HTTP_REQUESTS_PER_RETRY
        return True


class RetryState:
    """The retries of one request. `delay` is the wait before the next, in seconds, after `should_retry` was true."""

    __slots__ = ("_budget", "_count", "_retries", "delay")

    def __init__(self, retries: Retries, budget: RetryBudget) -> None:
        budget.deposit()
        self._retries = retries
        self._budget = budget
        self._count = 0
        self.delay = 0.0

    def should_retry(self, outcome: Response | BaseException, left: float) -> bool:
        """Return whether to retry after this outcome, `left` seconds before the deadline; counts the retry if so."""
        retries = self._retries
        asked = None
        if isinstance(outcome, Response):
            if outcome.status not in retries.statuses:
                return False
            asked = outcome.headers.get("retry-after")
        elif not isinstance(outcome, ConnectError | ServerDisconnected | TimeoutExceeded) or (
            # The certificate, or the answer of the proxy, will be the same the next time.
            (isinstance(outcome, TlsError) and outcome.certificate)
            or (isinstance(outcome, ProxyError) and 400 <= outcome.status < 500)
        ):
            return False
        if self._count >= retries.count:
            return False
        delay = retries.delay(self._count, asked, now=time.time(), draw=random.random())
        if delay is None or delay >= left or not self._budget.take():
            return False
        self.delay = delay
        self._count += 1
        return True
