"""Slots for jobs, and the client networks that are charged for them: no network can hold all slots.

A job is one question that is being resolved. A client query has one for itself and one for each sub-query in progress.
All of them are charged to the network of the client (IPv4 /24, IPv6 /56) whose query started them, until they end, even
when others join them. Jobs without a client (prefetches, the program's own queries) are charged to `QueryQuota.own`,
which only the total limits. The share of a network is not a fixed number: it may hold `percent` of the sum of the slots
it holds and the free ones. So one network alone gets `percent` of all slots, each of two gets less, and some slots are
always free for the next network. Sub-queries may use a larger part than new queries, of the share and of the total, so
that queries already started can be finished.

When a network has used its share, or all slots are in use, a query that ran for longer than `JOSTLE` is ended for a new
one, the oldest first: of the same network, or of all networks. A query of the same network is not ended when a client
of another network that has free slots waits for it as well; from then on all its jobs are charged to that network.
If there is no such query, the new query is refused, and no other query is affected.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Any

from resolver import limits

__all__ = ["NetworkUsage", "QueryQuota", "QueryUsage", "past_jostle_time"]

SHARE_FOR_NEW_QUERIES = limits.NETWORK_SHARE_NEW
SLOTS_FOR_NEW_QUERIES = limits.JOBS_FOR_NEW_QUERIES
SHARE_FOR_SUB_QUERIES = limits.NETWORK_SHARE_TOTAL
JOSTLE = limits.JOSTLE / 1000
SCAN = limits.JOSTLE_SCAN


class NetworkUsage:
    """What one network holds: a number of jobs, and its client queries in the order in which they began."""

    __slots__ = ("held", "network", "queries")

    def __init__(self, network: Hashable) -> None:
        self.network = network
        self.held = 0
        self.queries: dict[QueryUsage, None] = {}


class QueryUsage:
    """One client query: the network charged, its number of jobs, the job that answers it, and its start (seconds)."""

    __slots__ = ("jobs", "root", "share", "since")

    def __init__(self, share: NetworkUsage, since: float) -> None:
        self.share = share
        self.since = since
        self.jobs = 0
        self.root: Any = None


def past_jostle_time(usage: QueryUsage, now: float) -> bool:
    """Whether a query ran for `JOSTLE`: it may be ended for a new query, and no other is ended for its sub-queries."""
    return now - usage.since >= JOSTLE


class QueryQuota:
    """`capacity` slots, `held` of them in use."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self.own = NetworkUsage(None)
        self._shares: dict[Hashable, NetworkUsage] = {}
        self._queries: dict[QueryUsage, None] = {}

    def share_of(self, network: Hashable) -> NetworkUsage:
        """The share of `network`; None is the program itself. A share that holds nothing is in no table yet; when there
        are several for one network, `take` charges the first."""
        if network is None:
            return self.own
        return self._shares.get(network) or NetworkUsage(network)

    def free(self, *, fast: bool = False) -> int:
        """Number of free slots. The last ones are for sub-queries of queries that are not past `JOSTLE` (`fast`)."""
        limit = self.capacity if fast else -(-self.capacity * SLOTS_FOR_NEW_QUERIES // 100)
        return max(limit - self.held, 0)

    def has_free_slot(self, share: NetworkUsage) -> bool:
        """Whether a new query of `share` may start."""
        return self._fits(share, self.free(), SHARE_FOR_NEW_QUERIES)

    def has_free_sub_slot(self, usage: QueryUsage, now: float) -> bool:
        """Whether a query may have one more sub-query."""
        return self._fits(usage.share, self.free(fast=not past_jostle_time(usage, now)), SHARE_FOR_SUB_QUERIES)

    def _fits(self, share: NetworkUsage, free: int, percent: int) -> bool:
        return free > 0 and (share is self.own or share.held * (100 - percent) < percent * free)

    def take(self, usage: QueryUsage, job: Any) -> None:
        """Count one more job; the first one is the query's root.

        Raises:
            MemoryError: the job is counted nevertheless; the caller must call `give_back`.
        """
        share: NetworkUsage = usage.share
        if not share.held and share is not self.own:
            # Ending other queries calls their callbacks, which may have started a query of the same network.
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
        """Release the slot of `job`, which has ended."""
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
        """Charge this query to `new_payer` from now on; its start time does not change."""
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
        """Another network whose client waits for this query and that may start one more; None without one.

        `networks` has one entry for each client that waits. All are examined: otherwise the network that pays could
        hide the others behind clients of its own. Without a new payer the query ends, with an answer for each of them.
        """
        last = usage.share.network
        for network in networks:
            if network == last:
                continue
            last = network
            share = self.share_of(network)
            if share is not usage.share and share is not self.own and self.has_free_slot(share):
                return share
        return None

    def jostle_candidates(self, share: NetworkUsage, now: float) -> list[QueryUsage]:
        """Queries that ran for `JOSTLE`, the oldest first, at most `SCAN` of them: of all networks when no slot is
        free, else of `share`."""
        queries = share.queries if self.free() else self._queries
        return [usage for usage in islice(queries, SCAN) if past_jostle_time(usage, now)]

    def statistics(self) -> tuple[int, int]:
        """The number of networks that hold slots, and the largest number that one of them holds."""
        return len(self._shares), max((share.held for share in self._shares.values()), default=0)
