"""Commands that one worker performs: status, statistics, flush, log level, trust anchors, steps of a reload.

Workers share the cache but not counters and log level, so each command except `flush` is performed in each worker, and
`merge` sums their statistics. Invalid names and types raise ValueError with a sentence for the operator.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from corenet._version import __version__
from resolver.api import to_wire
from resolver.cache import Store
from resolver.daemon.config_reload import describe_error
from resolver.settings import LOG_LEVELS
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.runtime_config import RuntimeConfig

__all__ = ["Statistics", "WorkerCommands", "WorkerView", "add_counters", "merge"]

logger = logging.getLogger(__name__)

Statistics = dict[str, dict[str, Any]]


class WorkerView(Protocol):
    """What commands need of the worker."""

    @property
    def number(self) -> int: ...

    @property
    def store(self) -> Store: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def rollover(self) -> "AnchorUpdater | None": ...

    def take_anchors(self, text: str) -> None: ...

    def prepare_reload(self) -> None: ...

    def commit_reload(self) -> None: ...

    def abort_reload(self) -> None: ...

    def connections(self) -> Mapping[str, Mapping[str, Any]]: ...

    def certificate_expiry(self) -> Mapping[str, int]: ...

    def staple_expiry(self) -> Mapping[str, int]: ...


class WorkerCommands:
    """Performs commands in this worker."""

    def __init__(self, host: WorkerView) -> None:
        self._host = host
        self._began = time.monotonic()
        # Steps of a reload. Only the first worker requests them; they are not in `control.GRAMMAR`.
        self._steps: dict[str, Callable[[], None]] = {
            "prepare-reload": lambda: host.prepare_reload(),
            "commit-reload": lambda: host.commit_reload(),
            "abort-reload": lambda: host.abort_reload(),
        }
        self._known = {
            "status": self._status, "statistics": self._statistics, "log": self._log,
            "anchors": self._anchors, "take-anchors": self._take_anchors, **dict.fromkeys(self._steps, self._step),
        }

    def perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Perform ``request["command"]``.

        Raises:
            ValueError: the request is invalid or fails; the text says why.
        """
        return self._known[request["command"]](request)

    def __contains__(self, command: object) -> bool:
        return command in self._known

    def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        service = self._host.current.service.statistics()
        fast = self._host.current.fast.statistics()
        return {
            "worker": self._host.number,
            "pid": os.getpid(),
            "version": __version__,
            "seconds": int(time.monotonic() - self._began),
            "queries": fast["hits"] + service["queries"],
            "pending": service["pending"],
        }

    def _statistics(self, request: Mapping[str, Any]) -> dict[str, Any]:
        current = self._host.current
        rollover = self._host.rollover
        anchors = {"trust_anchors": rollover.statistics()} if rollover is not None and not self._host.number else {}
        expiry = {
            name: dict(found)
            for name, found in (
                ("certificate_expiry", self._host.certificate_expiry()), ("staple_expiry", self._host.staple_expiry())
            )
            if found
        }
        # Only the first worker reports it, because the numbers of all workers are added up.
        tls = {"tls": expiry} if expiry and not self._host.number else {}
        return {
            **anchors,
            "slow_path": dict(current.service.statistics()),
            "fast_path": dict(current.fast.statistics()),
            **{group: dict(counters) for group, counters in self._host.connections().items()},
            **tls,
            "resolution": current.resolver.mesh.statistics(),
            "upstream": dict(current.resolver.upstream.statistics()),
            "signatures": current.resolver.crypto.statistics(),
            "cache": self._host.store.statistics(),
        }

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

    def _anchors(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._host.rollover is None:
            raise ValueError("trust anchors are not updated automatically: dnssec.auto-trust-anchor-file is not set, or"
                             " validation is off")
        return self._host.rollover.describe()

    def _take_anchors(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take the key states of the first worker. Only the first worker requests this."""
        self._host.take_anchors(request["text"])
        return {}

    def _step(self, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._steps[request["command"]]()
        except (ValueError, OSError, MemoryError) as error:
            raise ValueError(describe_error(error)) from None
        return {}

    def _log(self, request: Mapping[str, Any]) -> dict[str, Any]:
        level = request["level"]
        if level not in LOG_LEVELS:
            raise ValueError(f"{level!r} is not one of {', '.join(LOG_LEVELS)}")
        logging.getLogger().setLevel(level.upper())
        logger.info("log: level is %s until the next reload", level)
        return {"level": level}


# --- several workers ----------------------------------------------------------------------------------------------

# The cache is shared, so its counters are equal in all workers. These are counted by each worker.
OWN_CACHE_COUNTERS = ("hits_", "misses_", "servers_", "denials", "memory_")


def add_counters(total: Statistics, part: Statistics) -> None:
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
