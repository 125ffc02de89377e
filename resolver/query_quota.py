"""Places for running jobs, and who pays for them: each client network a share, so that nobody can hold all of them.

A job is one question under way; a client query has one for itself and one for each sub-query under way. All of them are
charged to the network of the client (IPv4 /24, IPv6 /56) whose query started them, until they end, whoever joins them
meanwhile. What nobody's network asked for (renewals, the program itself) is charged to `QueryQuota.own`, which the
total alone bounds. The share of a network is no fixed number: it may hold `percent` of what it holds and what is free
together. So one network alone comes to `percent` of all places, two come to less each, and whatever the number some are
free for the next one. Sub-queries may use more than new questions, of the share and of the whole, so that what was
begun can be ended.

When a network has its share, or all places are taken, a query that ran for longer than `JOSTLE` makes room for a new
one, the oldest first: of the same network, or of all. One of the same network is not ended when a client of another
network that has room waits for it as well; then that network pays for all its jobs from there on. Without such a query
the new question is refused, and nobody else notices.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Any

from resolver import limits

__all__ = ["NetworkUsage", "QueryQuota", "QueryUsage", "past_jostle_time"]

QUESTIONS = limits.NETWORK_SHARE_NEW
BEGUN = limits.JOBS_FOR_NEW_QUERIES
SUB_QUERIES = limits.NETWORK_SHARE_TOTAL
JOSTLE = limits.JOSTLE / 1000
LOOKS = limits.JOSTLE_SCAN


class NetworkUsage:
    """What one network holds: a number of jobs, and its client queries in the order in which they began."""

    __slots__ = ("held", "network", "queries")

    def __init__(self, network: Hashable) -> None:
        self.network = network
        self.held = 0
        self.queries: dict[QueryUsage, None] = {}


class QueryUsage:
    """One client query: who pays, how many jobs it has under way, the job that answers it, and since when (s)."""

    __slots__ = ("jobs", "root", "share", "since")

    def __init__(self, share: NetworkUsage, since: float) -> None:
        self.share = share
        self.since = since
        self.jobs = 0
        self.root: Any = None


def past_jostle_time(usage: QueryUsage, now: float) -> bool:
    """Whether a query has had its time: it may have to make room, and nothing makes room for it."""
    return now - usage.since >= JOSTLE


class QueryQuota:
    """`capacity` places. `held` of them are taken."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self.own = NetworkUsage(None)
        self._shares: dict[Hashable, NetworkUsage] = {}
        self._queries: dict[QueryUsage, None] = {}

    def share_of(self, network: Hashable) -> NetworkUsage:
        """The share of `network`; None is the program itself. One that holds nothing is in no table yet: of several for
        the same network, `take` lets the first pay for all."""
        if network is None:
            return self.own
        return self._shares.get(network) or NetworkUsage(network)

    def free(self, *, fast: bool = False) -> int:
        """Places that nobody holds. The last ones are for the sub-queries of queries that are still `fast`."""
        limit = self.capacity if fast else -(-self.capacity * BEGUN // 100)
        return max(limit - self.held, 0)

    def has_room(self, share: NetworkUsage) -> bool:
        """Whether a new query of `share` may begin."""
        return self._fits(share, self.free(), QUESTIONS)

    def has_room_below(self, usage: QueryUsage, now: float) -> bool:
        """Whether a query may have one more sub-query."""
        return self._fits(usage.share, self.free(fast=not past_jostle_time(usage, now)), SUB_QUERIES)

    def _fits(self, share: NetworkUsage, free: int, percent: int) -> bool:
        return free > 0 and (share is self.own or share.held * (100 - percent) < percent * free)

    def take(self, usage: QueryUsage, job: Any) -> None:
        """Count one more job; the first one is the query's root.

        Raises:
            MemoryError: it is counted nevertheless, and to be given back.
        """
        share = usage.share
        if not share.held and share is not self.own:
            # Making room calls others back, and one of them may have begun a query for the same network.
            share = usage.share = self._shares.get(share.network) or share
        usage.jobs += 1
        share.held += 1
        self.held += 1
        if usage.root is None and usage.jobs == 1:
            usage.root = job
            share.queries[usage] = None
            self._queries[usage] = None
        if share.held == 1 and share is not self.own:
            self._shares[share.network] = share

    def give_back(self, usage: QueryUsage, job: Any) -> None:
        """`job` has ended."""
        share = usage.share
        usage.jobs -= 1
        share.held -= 1
        self.held -= 1
        if job is usage.root:
            usage.root = None
            share.queries.pop(usage, None)
            self._queries.pop(usage, None)
        if not share.held and share is not self.own:
            self._shares.pop(share.network, None)

    def move(self, usage: QueryUsage, new_payer: NetworkUsage) -> None:
        """`new_payer` pays for this query from now on; its age stays."""
        share = usage.share
        share.queries.pop(usage, None)
        share.held -= usage.jobs
        if not share.held and share is not self.own:
            self._shares.pop(share.network, None)
        if new_payer is not self.own:
            new_payer = self._shares.setdefault(new_payer.network, new_payer)
        new_payer.held += usage.jobs
        usage.share = new_payer
        if usage.root is not None:
            new_payer.queries[usage] = None

    def find_new_payer(self, usage: QueryUsage, networks: Iterable[Hashable]) -> NetworkUsage | None:
        """Of the networks whose clients wait for this query, another one that has room for one more."""
        for network in islice(networks, LOOKS):
            share = self.share_of(network)
            if share is not usage.share and share is not self.own and self.has_room(share):
                return share
        return None

    def jostle_candidates(self, share: NetworkUsage, now: float) -> list[QueryUsage]:
        """A few queries that have had their time, the oldest first: of all networks when there is no place for anybody,
        else of `share`."""
        queries = share.queries if self.free() else self._queries
        return [usage for usage in islice(queries, LOOKS) if past_jostle_time(usage, now)]

    def statistics(self) -> tuple[int, int]:
        """Networks that hold a place, and the most that one of them holds."""
        return len(self._shares), max((share.held for share in self._shares.values()), default=0)
