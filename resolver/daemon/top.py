"""The command `top` of the control socket: what all workers did since the last call of the same watcher.

The first call of a watcher begins the watch: its reply has the name of the watcher and no activity. Each further call
names the watcher, and covers the interval since its last one. A watcher that makes no call for the time it has named
(``"keep"``, 0 in its last call) is forgotten, here and in each worker (`resolver.daemon.watching`). Its next call
begins a watch again. What is kept of a watcher in this process is the time and the statistics of its last call.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from resolver import limits
from resolver.daemon.watching import KINDS, part_of
from resolver.observe.activity import activity
from resolver.observe.catalogue import Statistics
from resolver.observe.frequent import Frequent, merge

__all__ = ["Top", "TopWatcher"]

NAME_OCTETS = 8


class Top:
    """The watchers."""

    def __init__(self) -> None:
        self._watchers: dict[str, TopWatcher] = {}

    def admit(self, request: Mapping[str, Any]) -> "TopWatcher":
        """The watcher that a request names, or a new one.

        Raises:
            ValueError: there are too many, or a number is out of range.
        """
        keep = limits.TOP_KEEP.check(request.get("keep", limits.TOP_KEEP.default), "keep")
        lines = limits.TOP_LINES.check(request.get("lines", limits.TOP_LINES.default), "lines")
        now = asyncio.get_running_loop().time()
        self._watchers = {name: one for name, one in self._watchers.items() if one.until > now}
        found = self._watchers.get(request.get("watch", ""))
        if found is None:
            if len(self._watchers) >= limits.TOP_WATCHERS:
                raise ValueError(
                    f"{len(self._watchers)} others watch already, which is the limit; one that has ended is forgotten"
                    f" within {max(one.keep for one in self._watchers.values())} seconds"
                )
            found = TopWatcher(secrets.token_hex(NAME_OCTETS))
            self._watchers[found.name] = found
        found.keep, found.lines, found.until = keep, lines, now + keep
        return found


class TopWatcher:
    """One watcher: new, or with the statistics of its last call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keep = limits.TOP_KEEP.default
        self.lines = limits.TOP_LINES.default
        self.until = 0.0
        """When it is taken to have gone away, on the clock of the loop."""
        self._last: tuple[float, Statistics] | None = None

    async def look(self, statistics: Statistics, parts: Sequence[Mapping[str, Any]], workers: int) -> dict[str, Any]:
        """The reply to a call: `parts` are what workers have counted for it since the last one, `workers` is how many
        workers there are."""
        now = asyncio.get_running_loop().time()
        last, self._last = self._last, (now, statistics)
        if last is None or now <= last[0]:
            return {"watch": self.name, "activity": None}
        lists = {}
        for kind in KINDS:
            found = merge((part_of(part["lists"][kind]) for part in parts), self.lines)
            lists[kind] = [_entry(kind, one) for one in found]
            await asyncio.sleep(0)  # each costs a millisecond for some workers, and clients wait
        seconds = now - last[0]
        return {"watch": self.name, "activity": {
            "seconds": round(seconds, 3),
            "workers": {"answered": len(parts), "all": workers},
            **activity(last[1], statistics, seconds),
            "sampling": {
                "replies": sum(part["replies"] for part in parts), "samples": sum(part["samples"] for part in parts),
            },
            "top": lists,
        }}


def _entry(kind: str, one: Frequent) -> dict[str, Any]:
    """One entry of a list in a form for JSON."""
    if kind == "slow":
        return {"zone": one.key, "seconds": round(one.weight, 6), "error": round(one.error, 6), "queries": one.times,
                "unanswered": one.marked}
    counted = {"count": round(one.weight), "error": round(one.error)}
    if kind in ("names", "failed"):
        name, _, rtype = one.key.partition(" ")
        return {"name": name, "type": rtype, **counted}
    return {kind.removesuffix("s"): one.key, **counted}
