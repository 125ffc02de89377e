"""When the attempts to connect to an origin start, and in which order (RFC 8305; RFC 9460 section 3).

Sans-IO: answers of the name lookup and times go in, attempts come out. An `Endpoint` is a host and a port with the
addresses known so far. The endpoints of HTTPS records come before the origin itself, which is always the last one.
States of a `Schedule`::

    state   | what happens
    --------+----------------------------------------------------------------------------------------------------------
    waiting | No attempt has started. The first one starts when the HTTPS records are known and the best endpoint has an
            | IPv6 address or all its addresses; at the latest HTTP_RESOLUTION_DELAY after the first address.
    racing  | The next one starts HTTP_CONNECTION_ATTEMPT_DELAY after the last one, or when one has failed. New
            | addresses join; HTTPS records that come now are too late for this connection.

Within an endpoint the families alternate. An address is tried once for each endpoint. Address hints are used only while
no answer for their host has come.
"""

import math
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from corenet.limits import HTTP_CONNECTION_ATTEMPT_DELAY, HTTP_RESOLUTION_DELAY

__all__ = ["Address", "Attempt", "Endpoint", "Schedule"]

Address = tuple[int, Any]
"""Family and socket address."""


@dataclass(eq=False, slots=True)
class Endpoint:
    """A host and port to connect to. `secure`: the HTTPS records that lead to it were validated."""

    host: str
    port: int
    is_origin: bool = False
    secure: bool = False
    hints: Sequence[Address] = ()
    addresses: Sequence[Address] = ()
    answered: bool = False
    """An answer with addresses has come; hints are not used any more."""
    complete: bool = False
    """No more addresses will come."""
    given_up: bool = False
    tried: set[Address] = field(default_factory=set)
    last_family: int = 0

    def known(self) -> Sequence[Address]:
        """The addresses to connect to: those of the answers, or the hints while there is no answer."""
        return self.addresses if self.answered or self.complete else self.hints

    def take(self) -> Address | None:
        """The next address: of the other family than the last one if there is one, else the best."""
        if self.given_up:
            return None
        left = [address for address in self.known() if address not in self.tried]
        if not left:
            return None
        chosen = next((address for address in left if self.last_family not in (0, address[0])), left[0])
        self.tried.add(chosen)
        self.last_family = chosen[0]
        return chosen

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Attempt(NamedTuple):
    """To be started now."""

    endpoint: Endpoint
    address: Address


class Schedule:
    """The attempts for one connection. `records_pending`: `set_endpoints` will be called."""

    def __init__(self, origin: Endpoint, *, records_pending: bool) -> None:
        self.origin = origin
        self.endpoints = [origin]
        self.records_pending = records_pending
        self.racing = False
        self._first_at = math.inf
        self._next_at = -math.inf

    def add_addresses(self, endpoint: Endpoint, addresses: Iterable[Address], now: float) -> None:
        """Set the addresses of `endpoint` that are known now, best first."""
        endpoint.addresses = tuple(addresses)
        if endpoint.addresses:
            endpoint.answered = True
            self._first_at = min(self._first_at, now)

    def complete(self, endpoint: Endpoint) -> None:
        """No more addresses of `endpoint` will come."""
        endpoint.complete = True

    def set_endpoints(self, alternatives: Sequence[Endpoint], now: float) -> bool:
        """The HTTPS records are known: their endpoints, best first, none without records. False: it is too late."""
        self.records_pending = False
        if self.racing:
            return False
        self.endpoints = [*alternatives, self.origin]
        if any(endpoint.hints for endpoint in alternatives):
            self._first_at = min(self._first_at, now)
        return True

    def next(self, now: float) -> Attempt | float | None:
        """What to do at the time `now`: start this attempt, or call again at that time (`math.inf`: when something has
        changed), or, when all was tried and nothing will come, None."""
        if not self.racing and not self._may_begin(now):
            return None if self._is_over() else self._first_at + HTTP_RESOLUTION_DELAY / 1000
        if now < self._next_at:
            return self._next_at
        for endpoint in self.endpoints:
            address = endpoint.take()
            if address is not None:
                self.racing = True
                self._next_at = now + HTTP_CONNECTION_ATTEMPT_DELAY / 1000
                return Attempt(endpoint, address)
        return None if self._is_over() else math.inf

    def failed(self) -> None:
        """An attempt has failed: the next one need not wait."""
        self._next_at = -math.inf

    def give_up(self, endpoint: Endpoint) -> bool:
        """Make no more attempts at `endpoint`; False when it was the last one that could be tried."""
        endpoint.given_up = True
        self.failed()
        return any(not other.given_up for other in self.endpoints)

    def _may_begin(self, now: float) -> bool:
        if not any(endpoint.known() for endpoint in self.endpoints):
            return False
        if now >= self._first_at + HTTP_RESOLUTION_DELAY / 1000:
            return True
        if self.records_pending:
            return False
        # An endpoint whose host has no address does not delay the ones after it.
        best = next(endpoint for endpoint in self.endpoints if endpoint.known() or not endpoint.complete)
        return best.complete or any(family == socket.AF_INET6 for family, _ in best.addresses)

    def _is_over(self) -> bool:
        return (self.racing or not self.records_pending) and all(one.complete for one in self.endpoints)
