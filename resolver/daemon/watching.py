"""What one worker observes for those who watch the resolver with `resolverctl top`.

Each watcher has sketches of its own (`resolver.observe.frequent`), which a call empties and returns, so watchers do not
disturb one another. A watcher is known by an identifier that the first worker has given, in all workers. States of this
object: idle, and, from the first call of a watcher until the last watcher has made none for the time it has named,
watching. Only then are samples of replies taken, by the fast paths and lanes (`FastPath.start_samples`) and by the
service, and the mesh tells how long queries to servers took. So an idle worker has no cost.

Every `limits.TOP_TICK` the samples are counted. The rate of each source is chosen so that the worker counts at most
`limits.TOP_SAMPLES` a second. The samples of a source share the weight of all its replies in that time.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache.bounded import Held
from resolver.observe.frequent import Frequent, FrequentKeys, Part
from resolver.observe.samples import Samples
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.timers import Timers
    from resolver.net.fastpath import FastPath

__all__ = ["KINDS", "WatchHost", "Watching", "part_of"]

KINDS = ("names", "clients", "zones", "slow", "failed")
"""The lists of a watcher."""

TICK = limits.TOP_TICK / 1000
SHORTEST = 0.001  # seconds between two counts, for the rate
TIMER = "watching"
TYPE_OCTETS = 2


class WatchHost(Protocol):
    """What is needed of the worker."""

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def timers(self) -> "Timers": ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


class _Watcher:
    """What was counted for one watcher since its last call."""

    def __init__(self) -> None:
        self.until = 0.0
        """When it is taken to have gone away, on the clock of the loop."""
        self.reset()

    def reset(self) -> None:
        self.lists = {kind: FrequentKeys(limits.TOP_KEYS) for kind in KINDS}
        self.replies = 0
        self.samples = 0


class Watching:
    """Idle until the first `take`."""

    def __init__(self, host: WatchHost) -> None:
        self._host = host
        self._watchers: dict[str, _Watcher] = {}
        self._sources: list[Samples] = []
        self._counted_at = 0.0
        """When samples were counted last, on the clock of the loop."""
        self._watched: RuntimeConfig | None = None
        """The configuration of which samples are taken."""

    @property
    def watchers(self) -> int:
        """How many watch. Without any, no samples are taken."""
        return len(self._watchers)

    def memory(self) -> Iterator[Held]:
        """The lists of those who watch."""
        keys = sum(len(found) for watcher in self._watchers.values() for found in watcher.lists.values())
        size = limits.TOP_KEY_OCTETS
        yield Held("top_keys", keys * size, limits.TOP_WATCHERS * len(KINDS) * limits.TOP_KEYS * size)

    def take(self, watch: str, keep: int) -> dict[str, Any]:
        """What was counted for the watcher `watch` since its last call, in a form for JSON; it then counts from 0. It
        is known from now on, for `keep` seconds without another call; 0: this is its last one.

        Raises:
            ValueError: `keep` is out of range, or memory is short.
        """
        limits.TOP_KEEP.check(keep, "keep")
        self._count()  # for those who watch already
        watcher = self._watchers.setdefault(watch, _Watcher())
        watcher.until = self._host.loop.time() + keep
        if self._watched is None:
            self.follow()
            if not self._watchers:
                raise ValueError("memory is short, so no samples are taken")
        self._host.timers.start(TIMER, TICK, self._tick)
        taken = {
            "replies": watcher.replies, "samples": watcher.samples,
            "lists": {kind: _described(kind, keys) for kind, keys in watcher.lists.items()},
        }
        watcher.reset()
        if not keep:
            self._forget()
        return taken

    def follow(self) -> None:
        """Take samples of the configuration in force, with its lanes, if there are watchers, and of no other. When
        memory is short, all watchers are removed; it does not fail, because a reload calls it."""
        self._stop()
        if not self._watchers:
            return
        runtime = self._watched = self._host.current
        self._counted_at = self._host.loop.time()
        try:
            self._sources = [ring for fast in _fast_paths(runtime) for ring in fast.start_samples(secrets.randbits(63))]
            runtime.service.samples = Samples(secrets.randbits(63))
            self._sources.append(runtime.service.samples)
            runtime.resolver.mesh.watch(self._note_query_end)
        except MemoryError:
            self._watchers.clear()
            self._stop()

    def _stop(self) -> None:
        runtime, self._watched = self._watched, None
        self._sources = []
        if runtime is not None:
            for fast in _fast_paths(runtime):
                fast.stop_samples()
            runtime.service.samples = None
            runtime.resolver.mesh.watch(None)

    def _tick(self) -> None:
        """Count samples, and repeat it while there are watchers."""
        self._forget()
        if self._watchers:
            self._count()
            self._host.timers.start(TIMER, TICK, self._tick)

    def _forget(self) -> None:
        """Forget watchers that have gone away. Without any, no samples are taken."""
        now = self._host.loop.time()
        self._watchers = {key: one for key, one in self._watchers.items() if one.until > now}
        if not self._watchers:
            self._stop()

    def _note_query_end(self, zone: bytes, seconds: float, replied: bool) -> None:
        for watcher in self._watchers.values():
            watcher.lists["slow"].add(zone, max(seconds, 1e-6), not replied)

    def _count(self) -> None:
        """Count the samples that were taken since the last call."""
        runtime = self._watched
        if runtime is None:
            return
        masked = _masking(runtime.settings.query_log.client_prefix_v4, runtime.settings.query_log.client_prefix_v6)
        zones: dict[tuple[bytes, int], bytes] = {}
        now = self._host.loop.time()
        passed, self._counted_at = now - self._counted_at, now
        most = limits.TOP_SAMPLES * max(passed, SHORTEST) / len(self._sources)
        for source in self._sources:
            replies, found = source.take()
            if not replies:
                continue
            every = 1
            while replies > most * every:
                every *= 2
            source.every = every
            for watcher in self._watchers.values():
                watcher.replies += replies
                watcher.samples += len(found)
            weight = replies / max(len(found), 1)
            for address, name, qtype, rcode, view in found:
                client = masked(address)
                key = zone = b""
                if name:
                    name = names.lower(name)
                    key = name + qtype.to_bytes(TYPE_OCTETS, "big")
                    known = zones.get((name, view))
                    if known is None:
                        known = zones[name, view] = runtime.resolver.mesh.zone_of(name, view)
                    zone = known
                for watcher in self._watchers.values():
                    lists = watcher.lists
                    if client:
                        lists["clients"].add(client, weight)
                    if name:
                        lists["names"].add(key, weight)
                        lists["zones"].add(zone, weight)
                        if rcode == c.SERVFAIL:
                            lists["failed"].add(key, weight)


def _fast_paths(runtime: "RuntimeConfig") -> "list[FastPath]":
    """Those of the listeners, each once. The lanes of all belong to the first, which has their counters."""
    return list(dict.fromkeys((runtime.fast, *(one.fast for one in runtime.listeners.values()))))


@lru_cache(1)
def _masking(bits_v4: int, bits_v6: int) -> Callable[[bytes], bytes]:
    """A function that returns an address without its last bits, with one octet that has the number of those kept."""
    masks = {4: (bits_v4, _mask(bits_v4, 32)), 16: (bits_v6, _mask(bits_v6, 128))}

    def masked(address: bytes) -> bytes:
        if address.startswith(c.IPV4_MAPPED):
            address = address[len(c.IPV4_MAPPED):]
        if len(address) not in masks:
            return b""
        bits, mask = masks[len(address)]
        kept = int.from_bytes(address, "big") & mask
        return kept.to_bytes(len(address), "big") + bytes((bits,))

    return masked


def _mask(bits: int, size: int) -> int:
    return (1 << size) - (1 << size - bits)


def _described(kind: str, keys: FrequentKeys) -> dict[str, Any]:
    """A sketch in a form for JSON, which `part_of` reads."""
    write = {"names": _question_text, "failed": _question_text, "clients": _client_text}.get(kind, names.to_text)
    return {"floor": keys.floor, "keys": [(write(key), *values) for key, *values in keys.counted()]}


def part_of(described: Mapping[str, Any]) -> Part:
    """The sketch that `_described` has written."""
    return Part(described["floor"], [Frequent(*values) for values in described["keys"]])


def _question_text(key: bytes) -> str:
    """Name and type, with a space between them. The name has no space: it is written as in zone files."""
    return f"{names.to_text(key[:-TYPE_OCTETS])} {c.type_to_text(int.from_bytes(key[-TYPE_OCTETS:], 'big'))}"


def _client_text(key: bytes) -> str:
    """The address, with the length of the prefix when that is not all of it."""
    address, bits = ip_address(key[:-1]), key[-1]
    return str(address) if bits == address.max_prefixlen else f"{address}/{bits}"
