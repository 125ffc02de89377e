"""The numbers of the web page: what `resolverctl top` shows, and the totals and states around it.

All pages share one watcher of `resolver.daemon.top`, so more pages add no work. A request takes the numbers of the
last one when these are not older than `limits.WEB_INTERVAL`; requests that come while numbers are gathered wait for
them. Without requests nothing runs here, and the watcher is forgotten after `limits.WEB_KEEP`. The next request begins
a watch, whose first reply has no activity.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from corenet._version import __version__
from resolver import limits
from resolver.daemon.metrics import split_labels
from resolver.daemon.usage import ALLOCATED, CACHE
from resolver.observe.activity import rates_by_label
from resolver.observe.catalogue import METRICS, Statistics
from resolver.observe.labels import TRANSPORTS

__all__ = ["VERSION", "DataSource", "WebData"]

HIDDEN = ALLOCATED | {CACHE}
"""Resources that are not shown as tables: they are always full, or shown elsewhere."""

VERSION = 1
"""Of the form of the data. Fields are added, and none is renamed, while it is the same."""
INTERVAL = limits.WEB_INTERVAL / 1000
INSTANCE_OCTETS = 8
STATES = ("sent", "replies", "timeouts")
ENTRIES, HITS = "entries_", "hits_"


class DataSource(Protocol):
    """What performs commands in all workers: `resolver.daemon.control.ControlCommands`."""

    async def look(self, request: dict[str, Any]) -> tuple[dict[str, Any], Statistics]: ...

    async def status(self) -> dict[str, Any]: ...

    async def health(self) -> dict[str, Any]: ...

    async def servers(self) -> list[list[dict[str, Any]]]: ...

    async def explain(self, name: str, rtype: str, seconds: float, *, fresh: bool) -> str: ...


class WebData:
    """The numbers, which are gathered when a browser requests them."""

    def __init__(self, source: DataSource) -> None:
        self._source = source
        self._gathering = asyncio.Lock()
        self._instance = secrets.token_hex(INSTANCE_OCTETS)
        self._watch = ""
        self._sequence = 0
        self._before: tuple[float, Statistics] | None = None
        """Time, on the clock of the loop, and statistics of the last numbers."""
        self._last: dict[str, Any] = {}
        self._next = 0.0
        """When the numbers are too old, on the clock of the loop."""

    async def overview(self) -> dict[str, Any]:
        """All numbers, in a form for JSON.

        Raises:
            ValueError: too many watch the resolver; the text says so.
        """
        async with self._gathering:
            if asyncio.get_running_loop().time() >= self._next:
                await self._gather()
                # From the end on: with a worker that does not answer, gathering takes longer than the interval, and all
                # that wait must not gather again one after the other.
                self._next = asyncio.get_running_loop().time() + INTERVAL
            return self._last

    async def _gather(self) -> None:
        request = {"command": "top", "keep": limits.WEB_KEEP, "lines": limits.WEB_LINES}
        if self._watch:
            request["watch"] = self._watch
        source = self._source
        (found, statistics), status, health, servers = await asyncio.gather(
            source.look(request), source.status(), source.health(), source.servers()
        )
        now = asyncio.get_running_loop().time()
        before, self._before = self._before, (now, statistics)
        # A watch that was forgotten in between begins again, and rates over a pause would be no live ones.
        last = statistics if before is None or found["activity"] is None else before[1]
        seconds = INTERVAL if before is None else now - before[0]
        self._watch = found["watch"]
        self._sequence += 1
        self._last = {
            "version": VERSION,
            "instance": self._instance,
            "sequence": self._sequence,
            "resolver": __version__,
            "time": round(time.time(), 3),
            "activity": found["activity"],
            "health": health,
            "workers": status["workers"],
            "cache": _cache(status["cache"], statistics),
            "policies": _policies(last, statistics, seconds),
            "lists": _lists(statistics),
            "transports": _transports(last, statistics, seconds),
            "servers": _servers(servers),
            "tables": _tables(statistics.get("usage", {})),
        }


def _cache(shared: Mapping[str, int], statistics: Statistics) -> dict[str, Any]:
    """Size, fill, and entries by kind; and the addresses of servers that are known and those that do not answer."""
    counts = statistics.get("cache", {})
    return {
        "used": shared["bytes_used"], "limit": shared["bytes_limit"],
        "entries": {name.removeprefix(ENTRIES): count for name, count in shared.items() if name.startswith(ENTRIES)},
        "hits": {name.removeprefix(HITS): count for name, count in counts.items() if name.startswith(HITS)},
        "addresses": counts.get("servers_addresses", 0), "addresses_dead": counts.get("servers_dead", 0),
    }


def _policies(before: Statistics, after: Statistics, seconds: float) -> list[dict[str, Any]]:
    """What policies did, the busiest first."""
    totals = after.get("policy", {}).get("actions", {})
    found = []
    for labels, rate in rates_by_label(before, after, "policy", "actions", seconds).items():
        point, module, action = split_labels(labels, len(METRICS["policy"]["actions"].labels))
        if totals[labels]:
            found.append({"point": point, "module": module, "action": action, "rate": rate, "total": totals[labels]})
    found.sort(key=lambda one: (-one["rate"], -one["total"], one["module"]))
    return found[:limits.WEB_ROWS]


def _lists(statistics: Statistics) -> list[dict[str, Any]]:
    """Block lists and response policy zones, those that fail first."""
    lists = statistics.get("lists", {})
    found = [
        {"list": name, "entries": entries, "failing": bool(lists["failing"].get(name))}
        for name, entries in lists.get("entries", {}).items()
    ]
    found.sort(key=lambda one: not one["failing"])
    return found[:limits.WEB_ROWS]


def _transports(before: Statistics, after: Statistics, seconds: float) -> list[dict[str, Any]]:
    """Queries to servers by transport, of the transports that are used."""
    old, new = before.get("upstream", {}), after.get("upstream", {})
    found = []
    for transport in TRANSPORTS:
        totals = {state: new.get(f"{transport}_{state}", 0) for state in STATES}
        if totals["sent"]:
            rates = {
                state: round(max(total - old.get(f"{transport}_{state}", 0), 0) / seconds, 3)
                for state, total in totals.items()
            }
            found.append({"transport": transport, "rates": rates, "totals": totals})
    return found


def _servers(workers: Iterable[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The configured servers with what all workers know of them, those that do not answer first."""
    merged: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for known in workers:
        for one in known:
            merged.setdefault((one["zone"], one["server"]), []).append(one)
    found = []
    for (zone, server), parts in merged.items():
        times = [part["seconds"] for part in parts if part["seconds"] is not None]
        found.append({
            "zone": zone, "server": server, "dead": sum(part["dead"] for part in parts), "workers": len(parts),
            "timeouts": max(part["timeouts"] for part in parts),
            "seconds": round(sum(times) / len(times), 6) if times else None,
        })
    found.sort(key=lambda one: (-one["dead"], -one["timeouts"]))
    return found[:limits.WEB_ROWS]


def _tables(usage: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The bounded things that are in use, the fullest first."""
    found: list[dict[str, Any]] = []
    for unit in ("items", "octets"):
        most = usage.get(f"{unit}_limit", {})
        found += [
            {"resource": name, "unit": unit, "used": used, "limit": most[name]}
            for name, used in usage.get(unit, {}).items() if used and most.get(name) and name not in HIDDEN
        ]
    found.sort(key=lambda one: -one["used"] / one["limit"])
    return found[:limits.WEB_ROWS]
