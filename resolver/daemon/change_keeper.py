"""Performs the commands for run-time changes, in the first worker, and ends negative trust anchors.

`RuntimeChanges` says what a change is; `WorkerChanges` puts it into force in all workers, or in none. One change is
made at a time, and none during a reload (the lock of `WorkerReloads`), or during an upgrade, in which the other process
may have read the file already.

A negative trust anchor ends at its time, or before it when its zone validates again (RFC 7646 section 3). The latter is
found out by a second resolver without the anchor and with a cache of its own, because the one that serves clients does
not validate below an anchor. Validators honour no anchor past its end (`resolver.validate.anchors`); the timer here
removes it and flushes what was cached below it.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from resolver import limits
from resolver.api import Resolver
from resolver.daemon.config import parse_duration
from resolver.daemon.runtime_changes import (
    FORWARD,
    KINDS,
    LOCAL_DATA,
    NTA,
    SETTING,
    Change,
    RuntimeChanges,
    make_change,
)
from resolver.daemon.worker_upgrade import REFUSAL
from resolver.errors import ResolveError
from resolver.settings import replace
from resolver.verdict import Verdict
from resolver.wire import consts as c

if TYPE_CHECKING:
    from resolver.daemon.autotrust import AnchorUpdater
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.worker_changes import WorkerChanges
    from resolver.daemon.worker_reload import WorkerReloads
    from resolver.daemon.worker_upgrade import WorkerUpgrades

__all__ = ["ACTIONS", "ChangeHost", "ChangeKeeper", "FleetChange", "lifetime_of"]

logger = logging.getLogger(__name__)

ACTIONS = ("add", "list", "remove")
VALID = frozenset({Verdict.SECURE, Verdict.INSECURE})


class FleetChange(NamedTuple):
    """A message to the fleet: its kind, and what it says as JSON values."""

    kind: str
    fields: dict[str, Any]


class ChangeHost(Protocol):
    """What the keeper needs of the first worker."""

    @property
    def changes(self) -> RuntimeChanges: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def rollover(self) -> "AnchorUpdater | None": ...

    @property
    def reloads(self) -> "WorkerReloads": ...

    @property
    def change_steps(self) -> "WorkerChanges": ...

    @property
    def upgrades(self) -> "WorkerUpgrades": ...

    def flush_names(self, origin: bytes) -> Coroutine[Any, Any, None]: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class ChangeKeeper:
    """The changes of one daemon. `schedule` starts its timer, and starts it again after each change."""

    def __init__(self, host: ChangeHost) -> None:
        self._host = host
        self._timer: asyncio.TimerHandle | None = None
        self._checked: dict[Change, int] = {}

    async def perform(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Perform the command ``change``.

        Raises:
            ValueError: it is wrong or cannot be performed; the text says why.
        """
        kind, action = request["kind"], request["action"]
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
        if action == "list":
            return self._list(kind)
        async with self._host.reloads.lock:
            if self._host.upgrades.running:
                raise ValueError(REFUSAL)
            before = self._host.changes
            if before.path is None:
                raise ValueError(f"{SETTING} is not set, so there is no file to keep run-time changes")
            if before.trouble:
                raise ValueError(before.trouble)
            if action == "add":
                change = self._change(kind, request)
                missing = await self._apply(before.add(change), f"{change} added")
            elif action == "remove":
                gone = before.find(kind, request.get("name", ""), request.get("type", ""))
                missing = await self._apply(before.remove(gone), f"{', '.join(map(str, gone))} removed")
            else:
                raise ValueError(f"{action!r} is not one of {', '.join(ACTIONS)}")
            if missing:
                raise ValueError(f"the change is in force, but not in all workers: {missing}")
            return self._list(kind)

    def fleet_message(self, request: Mapping[str, Any]) -> FleetChange:
        """What tells the fleet of `request`.

        Raises:
            ValueError: such a change is not for the fleet, or it is wrong.
        """
        action = request["action"]
        if request["kind"] != NTA or action not in ("add", "remove"):
            raise ValueError("only negative trust anchors that are added or removed can be told to the fleet")
        if action == "remove":
            return FleetChange("nta-remove", {"name": request.get("name", "")})
        change = self._change(NTA, request)
        return FleetChange("nta-add", {"name": change.name, "until": change.until, "reason": change.reason,
                                       "force": not change.check})

    async def perform_for_fleet(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Make the change that another resolver was told to make.

        Raises:
            ValueError: it is wrong or cannot be performed; the text says why.
        """
        name, reason, until = fields.get("name"), fields.get("reason", ""), fields.get("until", 0)
        if not (isinstance(name, str) and isinstance(reason, str) and type(until) is int):
            raise ValueError(f"the message {kind} is malformed")
        request: dict[str, Any] = {"kind": NTA, "action": kind.removeprefix("nta-"), "name": name}
        if kind == "nta-add":
            if until <= self._now:
                raise ValueError(f"nta: the time of {name!r} is over")
            # `until` is compared with the clock here, which may differ by SECOND_LEVEL_CLOCK_SKEW.
            request |= {"lifetime": f"{until - self._now}s", "reason": reason, "force": fields.get("force") is True}
        await self.perform(request)

    def _change(self, kind: str, request: Mapping[str, Any]) -> Change:
        until = 0
        if kind == NTA:
            until = self._now + lifetime_of(request.get("lifetime"))
        values = request.get("values", [])
        if not all(isinstance(value, str) for value in values):
            raise ValueError("'values' must be a list of texts")
        return make_change(
            kind, request.get("name", ""), values, until=until, reason=request.get("reason", ""),
            check=kind == NTA and not request.get("force", False), first=request.get("first", False),
        )

    async def _apply(self, new: RuntimeChanges, what: str) -> str:
        missing = await self._host.change_steps.apply(new)
        logger.info("run-time changes: %s", what)
        return missing

    def _list(self, kind: str) -> dict[str, Any]:
        changes = self._host.changes
        now = self._now
        shown = [
            {"name": one.name, "values": list(one.values), "reason": one.reason, "check": one.check, "first": one.first,
             "left": max(one.until - now, 0) if kind == NTA else None}
            for one in changes.entries if one.kind == kind
        ]
        return {"kind": kind, "changes": shown, "configured": self._configured(kind), "error": changes.trouble}

    def _configured(self, kind: str) -> list[str]:
        """What the configuration file has of this kind."""
        settings, entries = self._host.current.settings, self._host.changes.entries
        own = [one for one in entries if one.kind == kind]
        if kind == NTA:
            found = settings.dnssec.negative_trust_anchors
        elif kind == LOCAL_DATA:
            found = settings.policy.local_data
        else:
            zones = settings.forward if kind == FORWARD else settings.stub
            found = tuple(" ".join((zone.zone, *zone.addresses)) for zone in zones)
        return list(found[: len(found) - len(own)])  # run-time changes are last

    @property
    def _now(self) -> int:
        return self._host.current.resolver.clock.time()

    # --- negative trust anchors end ---------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Look after the negative trust anchors when the next one is due."""
        self.stop()
        anchors = [one for one in self._host.changes.entries if one.kind == NTA]
        now = self._now
        # A clock that was set back must not delay the next check until it has caught up.
        self._checked = {one: min(self._checked.get(one, now), now) for one in anchors}
        due = [one.until for one in anchors]
        due += [self._checked[one] + limits.NTA_CHECK for one in anchors if one.check]
        if due:
            left = min(max(min(due) - self._now, 0), limits.NTA_CHECK)  # the clock may be set in between
            self._timer = asyncio.get_running_loop().call_later(left, self._start)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        # First, because the task may end by an error, for example without memory. `schedule` replaces this timer.
        self._timer = asyncio.get_running_loop().call_later(limits.NTA_CHECK, self._start)
        self._host.start_task(self.end_anchors())

    async def end_anchors(self) -> None:
        """Remove negative trust anchors whose time is over, and those whose zone validates again."""
        now = self._now
        anchors = [one for one in self._host.changes.entries if one.kind == NTA]
        ended = await self._end([one for one in anchors if one.until <= now], "its time is over")
        for one in anchors:
            if one.check and one.until > now and now - self._checked.get(one, now) >= limits.NTA_CHECK:
                self._checked[one] = now
                if await self.validates(one):
                    ended = await self._end([one], "its zone validates again") and ended
        if ended:
            self.schedule()

    async def _end(self, gone: list[Change], why: str) -> bool:
        """Remove `gone`; whether that was possible."""
        if not gone:
            return True
        async with self._host.reloads.lock:
            if self._host.upgrades.running:
                return False  # whichever process is the main one then calls `schedule`
            try:
                await self._apply(self._host.changes.remove(gone), f"{', '.join(map(str, gone))} ended, because {why}")
                return True
            except ValueError as error:
                logger.error("run-time changes: negative trust anchors cannot end: %s; next try in %d seconds",
                             error, limits.NTA_CHECK)
        for one in gone:
            if one.until <= self._now:  # it is not honoured any more, so nothing below it may stay cached
                await self._host.flush_names(one.origin)
        return False

    async def validates(self, anchor: Change) -> bool:
        """Whether the zone of a negative trust anchor validates without it."""
        current = self._host.current.settings
        kept = tuple(one for one in current.dnssec.negative_trust_anchors if one != anchor.negative_anchor)
        settings = replace(
            current, dnssec=replace(current.dnssec, negative_trust_anchors=kept),
            cache=replace(current.cache, size=limits.CACHE_SIZE.minimum, snapshot_file=""), zone=(),
        )
        try:
            async with Resolver(settings) as resolver:
                validation = resolver.mesh.validation
                if self._host.rollover is not None and validation is not None:
                    self._host.rollover.apply(validation.anchors)
                answer = await resolver.resolve(anchor.name, "SOA")
        except (ResolveError, OSError, ValueError) as error:
            logger.debug("run-time changes: %s does not validate yet: %s", anchor.name, error)
            return False
        return answer.verdict in VALID and answer.rcode in (c.NOERROR, c.NXDOMAIN)


def lifetime_of(text: str | None) -> int:
    """How long a negative trust anchor lasts, in seconds; the default for None.

    Raises:
        ValueError: `text` is no time, or too short or long.
    """
    lifetime = limits.NTA_LIFETIME
    seconds = lifetime.default if text is None else parse_duration(text)
    if not lifetime.minimum <= seconds <= lifetime.maximum:
        raise ValueError(f"nta: {text!r} is not between {lifetime.minimum} and {lifetime.maximum} seconds")
    return int(seconds)
