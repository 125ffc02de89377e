"""Commands that one worker performs: status, statistics, flush, log level, trust anchors, steps of a reload.

Workers share the cache but not counters and log level, so each command except `flush` is performed in each worker, and
`merge` sums their statistics. Invalid names and types raise ValueError with a sentence for the operator.
"""

import copy
import errno
import logging
import os
import pickle
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from corenet._version import __version__
from resolver.api import to_wire
from resolver.cache import Store
from resolver.daemon.config_reload import describe_error
from resolver.effects import Server
from resolver.log_limit import LineLimit
from resolver.nat64 import ServerNat64
from resolver.observe.catalogue import Statistics, counters_of
from resolver.settings.management import LOG_LEVELS
from resolver.upstream_address import parse_upstream
from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.anchor_keeper import AnchorKeeper
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.watching import Watching
    from resolver.daemon.worker_alignment import WorkerAlignment
    from resolver.daemon.worker_changes import WorkerChanges
    from resolver.daemon.worker_reload import WorkerReloads
    from resolver.daemon.zone_keeper import ZoneKeeper
    from resolver.net.zone_server import ZoneServer
    from resolver.observe.output import Output

__all__ = [
    "WorkerCommands", "WorkerView", "add_counters", "kept_part", "merge", "of_outputs", "of_runtime", "of_shared",
]

logger = logging.getLogger(__name__)

DNS_PORT = 53


class WorkerView(Protocol):
    """What commands need of the worker."""

    @property
    def number(self) -> int: ...

    @property
    def store(self) -> Store: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def past(self) -> Statistics: ...

    @property
    def configurations(self) -> "Iterable[RuntimeConfig]": ...

    @property
    def closing_outputs(self) -> "Iterable[Output]": ...

    @property
    def rollover(self) -> "AnchorUpdater | None": ...

    @property
    def keeper(self) -> "ZoneKeeper | None": ...

    @property
    def anchors(self) -> "AnchorKeeper": ...

    @property
    def watching(self) -> "Watching": ...

    @property
    def reloads(self) -> "WorkerReloads": ...

    @property
    def change_steps(self) -> "WorkerChanges": ...

    @property
    def alignment(self) -> "WorkerAlignment": ...

    def usage(self) -> Statistics: ...

    def keep_counters(self, statistics: Statistics) -> None: ...

    def connections(self) -> Mapping[str, Mapping[str, Any]]: ...

    def certificate_expiry(self) -> Mapping[str, int]: ...

    def staple_expiry(self) -> Mapping[str, int]: ...

    def staples_missing(self) -> Mapping[str, int]: ...


class WorkerCommands:
    """Performs commands in this worker."""

    def __init__(self, host: WorkerView) -> None:
        self._host = host
        self._began = time.monotonic()
        # Steps of a reload. Only the first worker requests them; they are not in `control.GRAMMAR`.
        self._steps: dict[str, Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]]] = {
            "prepare-reload": lambda request: host.reloads.prepare(request["settings"]),
            "commit-reload": lambda request: host.reloads.commit(),
            "abort-reload": lambda request: host.reloads.abort(),
            "prepare-changes": lambda request: host.change_steps.prepare(),
            "commit-changes": lambda request: host.change_steps.commit(),
            "align": self._align,
        }
        self._known = {
            "status": self._status, "statistics": self._statistics, "log": self._log,
            "lists": self._lists, "zones": self._zones, "zone": self._zone, "take-zone": self._take_zone,
            "mark-flush": self._mark_flush, "reopen": self._reopen, "servers": self._servers,
            "watch": lambda request: host.watching.take(request["watch"], request["keep"]),
            "anchors": self._anchors, "take-anchors": self._take_anchors,
        }

    def perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Perform ``request["command"]``.

        Raises:
            ValueError: the request is invalid or fails; the text says why.
        """
        return self._known[request["command"]](request)

    def perform_request(self, request: Mapping[str, Any]) -> dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]:
        """Perform a request of the first worker: a command, or a step of a reload, which takes time.

        Raises:
            ValueError: as `perform`.
        """
        return self._perform_step(request) if request["command"] in self._steps else self.perform(request)

    def __contains__(self, command: object) -> bool:
        return command in self._known

    def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        service = self._host.current.service.statistics()
        fast = self._host.current.fast.statistics()
        log = self._host.current.observation.log
        return {
            "worker": self._host.number,
            "pid": os.getpid(),
            "version": __version__,
            "seconds": int(time.monotonic() - self._began),
            "queries": fast["hits"] + service["queries"],
            "pending": service["pending"],
            "watchers": self._host.watching.watchers,
            **({} if log is None or not (log.failure or log.stalled) else {"query-log": log.failure or log.stalled}),
            **({} if self._host.current.balance is None else {"balance": self._host.current.balance.describe()}),
        }

    def _servers(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Each configured server of forward and stub zones, with what this worker knows of it. Only the first worker
        requests this, for its web page."""
        servers, found = self._host.store.servers, []
        settings = self._host.current.settings
        nat64 = ServerNat64.create(settings.iteration.nat64_prefix)
        for zone in settings.upstream_zones:
            for text in zone.addresses:
                address, port, encryption = parse_upstream(text, DNS_PORT, "addresses")
                reached = address if nat64 is None else nat64.reach(address)
                key = Server(reached, port, encryption=encryption).key
                known = servers.find(key)
                entry = servers.zone_at(key, names.lower(names.from_text(zone.zone)), time.monotonic())
                found.append({
                    "zone": zone.zone, "server": text.partition("#")[0], "dead": entry is not None and entry.dead,
                    "timeouts": 0 if entry is None else entry.timeouts,
                    "seconds": None if known is None else known.srtt,
                })
        return {"servers": found}

    def _statistics(self, request: Mapping[str, Any]) -> dict[str, Any]:
        found = self.collect()
        self._host.keep_counters(found)
        return found

    def collect(self) -> Statistics:
        """The statistics of this worker, with the counters of its predecessors and of configurations replaced."""
        host = self._host
        found = copy.deepcopy(host.past)
        for runtime in host.configurations:
            add_counters(found, of_runtime(runtime))
        add_counters(found, of_shared(host.configurations, ()))
        outputs = [output for runtime in host.configurations for output in runtime.observation.outputs]
        add_counters(found, of_outputs([*outputs, *host.closing_outputs]))
        add_counters(found, host.connections())
        add_counters(found, self._zone_statistics())
        found["cache"] = {**host.store.statistics(), **_summed(found.get("cache", {}), host.store.statistics())}
        found["usage"] = host.usage()["usage"]
        if host.current.balance is not None:
            add_counters(found, {"balance": host.current.balance.statistics()})
        add_counters(found, {"process": {"workers": 1, "starts": 1, "start_failures": 0,
                                          "suppressed": LineLimit.suppressed}})
        if not host.number:
            self._add_shared(found)
        return found

    def _add_shared(self, found: Statistics) -> None:
        """Add what only the first worker reports, because the numbers of all workers are added up."""
        host = self._host
        if host.rollover is not None:
            add_counters(found, {"trust_anchors": host.rollover.statistics()})
        expiry = {
            name: dict(of_file)
            for name, of_file in (
                ("certificate_expiry", host.certificate_expiry()), ("staple_expiry", host.staple_expiry()),
                ("staples_missing", host.staples_missing()),
            )
            if of_file
        }
        if expiry:
            found["tls"] = expiry
        if host.current.lists is not None:
            found["lists"] = host.current.lists.statistics()

    def _zone_statistics(self) -> Statistics:
        """Serial, age and state of each zone, and counters of transfers. Only the first worker reports them."""
        keeper = self._host.keeper
        return {} if keeper is None or self._host.number else {"zones": keeper.statistics()}

    def _zones(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"zones": [] if self._host.keeper is None else self._host.keeper.describe()}

    def _zone(self, request: Mapping[str, Any]) -> dict[str, Any]:
        keeper, name = self._host.keeper, request["name"]
        to_wire(name)
        if keeper is None:
            raise ValueError("no zones are configured")
        if request["action"] == "reload":
            keeper.reload(name)
        elif request["action"] == "refresh":
            keeper.refresh(name)
        else:
            raise ValueError(f"{request['action']!r} is not one of reload, refresh")
        return {}

    def _take_zone(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Read a zone that the first worker has changed, or take that the version here was confirmed. Only the first
        worker requests this.

        Raises:
            ValueError: this worker has no such zone.
        """
        keeper, file = self._host.keeper, request.get("file")
        if file is not None:
            if keeper is None:
                file.close()
            else:
                keeper.take_content(request["name"], file)
        elif keeper is not None and not (
            "serial" in request and keeper.confirm(request["name"], request["serial"], request["confirmed"])
        ):
            keeper.reload(request["name"])
        return {}

    def flush(self, request: Mapping[str, Any]) -> Iterator[int]:
        """Flush a name, one type of it, its subtree, or everything from the shared cache; see `Store.flush`.

        Raises:
            ValueError: the request is invalid or cannot be performed now; the text says why.
        """
        text, kind = request.get("name"), request.get("type")
        name = None if text is None else to_wire(text)
        rtype = None if kind is None else c.type_from_text(kind)
        try:
            yield from self._host.store.flush(name, subtree=bool(request.get("subtree")), rtype=rtype)
        except BlockingIOError as error:
            raise ValueError(str(error)) from None

    def _mark_flush(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Use no entry of the second-level cache that was stored before a flush. Only the first worker requests it."""
        second, text = self._host.current.resolver.second_level, request.get("name")
        if second is not None:
            second.mark(None if text is None else to_wire(text), subtree=bool(request.get("subtree")))
        return {}

    def _lists(self, request: Mapping[str, Any]) -> dict[str, Any]:
        lists = self._host.current.lists
        return {"lists": [] if lists is None else lists.describe()}

    def _anchors(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._host.rollover is None:
            raise ValueError("trust anchors are not updated automatically: dnssec.auto-trust-anchor-file is not set, or"
                             " validation is off")
        return self._host.rollover.describe()

    def _take_anchors(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take the key states of the first worker. Only the first worker requests this."""
        self._host.anchors.take(request["text"])
        return {}

    def _reopen(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open the file of the query log again."""
        self._host.current.observation.reopen()
        return {}

    async def _perform_step(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            await self._steps[request["command"]](request)
        except (ValueError, OSError, MemoryError) as error:
            # The first worker waits for the answer, whatever the reason.
            raise ValueError(describe_error(error)) from None
        return {}

    async def _align(self, request: Mapping[str, Any]) -> None:
        file = request.get("file")
        if file is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        with file:
            settings, changes = pickle.load(file)  # trusted: from a worker of this daemon over our own socket
        await self._host.alignment.use(settings, changes)

    def _log(self, request: Mapping[str, Any]) -> dict[str, Any]:
        level = request["level"]
        if level not in LOG_LEVELS:
            raise ValueError(f"{level!r} is not one of {', '.join(LOG_LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        logger.info("log: level is %s until the next reload", level)
        return {"level": level}


# --- several workers ----------------------------------------------------------------------------------------------

def of_shared(runtimes: "Iterable[RuntimeConfig]", others: "Iterable[RuntimeConfig]") -> Statistics:
    """The statistics of what several configurations may use, because a reload keeps it: each object once, and
    none that one of `others` uses."""
    found: Statistics = {}
    seen = list(others)
    for runtime in runtimes:
        if all(runtime.rates.buckets is not one.rates.buckets for one in seen):
            add_counters(found, {"rate_limit": runtime.rates.statistics()})
        seen.append(runtime)
    return found


def of_outputs(outputs: "Iterable[Output]") -> Statistics:
    """The statistics of outputs of the query log and dnstap, each once."""
    found: Statistics = {}
    for output in dict.fromkeys(outputs):
        add_counters(found, {output.group: output.statistics()})
    return found


def of_runtime(runtime: "RuntimeConfig") -> Statistics:
    """The statistics of the objects that one configuration has of its own."""
    resolver, service = runtime.resolver, runtime.service
    found: Statistics = {
        "clients": service.observed.statistics(),
        "client_latency": {result: one.values() for result, one in service.observed.latency.items()},
        "slow_path": dict(service.statistics()),
        "fast_path": dict(runtime.fast.statistics()),
        "policy": {"actions": resolver.policy.statistics()},
        "resolution": resolver.mesh.statistics(),
        "upstream": dict(resolver.upstream.statistics()),
        "upstream_latency": resolver.mesh.latency.values(),
        "signatures": resolver.crypto.statistics(),
        "fetch_limit": resolver.mesh.fetch_statistics(),
    }
    if resolver.second_level is not None:
        found["second_level"] = resolver.second_level.statistics()
    if resolver.mesh.subnets is not None:
        found["client_subnet"] = resolver.mesh.subnets.statistics()
    if runtime.balance is not None:
        found["balance"] = runtime.balance.counters()
    if runtime.hook_modules is not None:
        found["hooks"] = runtime.hook_modules.statistics()
    add_counters(found, {"clients": runtime.fast.count_clients()})
    add_counters(found, {"client_latency": {"hit": runtime.fast.hit_latency()}})
    zone_server: ZoneServer | None = service.zone_server
    if zone_server is not None:
        found["zones"] = zone_server.statistics()
    return found


# The cache is shared, so its counters are equal in all workers. These are counted by each worker.
OWN_CACHE_COUNTERS = ("hits_", "misses_", "servers_", "denials", "memory_")


def kept_part(statistics: Statistics) -> Statistics:
    """What a worker keeps for its successor: its counters, without those that the shared cache keeps."""
    found = counters_of(statistics)
    found["cache"] = {key: value for key, value in found["cache"].items() if key.startswith(OWN_CACHE_COUNTERS)}
    return found


def _summed(kept: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """The counters of the cache that predecessors have kept, with those of this process."""
    return {key: value + now[key] for key, value in kept.items() if key in now}


def add_counters(total: Statistics, part: Mapping[str, Mapping[str, Any]]) -> None:
    """Add `part`, numbers or numbers by reason in groups, to `total`."""
    for group, counters in part.items():
        into = total.setdefault(group, {})
        for key, value in counters.items():
            if isinstance(value, dict):
                by_reason = into.setdefault(key, {})
                for reason, count in value.items():
                    by_reason[str(reason)] = by_reason.get(str(reason), 0) + count
            else:
                into[key] = into.get(key, 0) + value


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The sum of the statistics of several workers."""
    merged: Statistics = {}
    for position, part in enumerate(parts):
        if position and "cache" in part:
            own = {key: value for key, value in part["cache"].items() if key.startswith(OWN_CACHE_COUNTERS)}
            part = {**part, "cache": own}
        add_counters(merged, part)
    return merged
