"""What is known about one zone of which this server has a copy, and what operators are shown of it.

States of a zone (`ZoneStatus.state`):

* loading: nothing was read yet.
* serving: the content is current.
* refreshing: the primary is being queried; the content serves meanwhile.
* failed: the last attempt failed, `error` says why; older content, if any, serves until it expires.
* expired: the content is too old to be used (RFC 1035 section 3.3.13).
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from resolver.daemon.zone_files import ZoneFile
from resolver.net.in_thread import in_thread
from resolver.net.zone_client import origin_of
from resolver.settings import ZoneSettings
from resolver.settings.zones import POLICY
from resolver.wire import name as names
from resolver.zones import Mode, ServedZone
from resolver.zones.outgoing import History
from resolver.zones.tsig import Key
from resolver.zones.zone import Difference, SoaFields

__all__ = ["ZoneStatus"]

logger = logging.getLogger(__name__)


class ZoneStatus:
    """What is known about one zone. Times are seconds of the real-time clock; 0: never."""

    def __init__(self, settings: ZoneSettings, keys: dict[bytes, Key], file: ZoneFile) -> None:
        def key(name: str) -> Key | None:
            return keys[names.lower(names.from_text(name))] if name else None

        self.settings = settings
        self.origin = origin_of(settings.name)
        self.key = key(settings.key)
        self.transfer_key = key(settings.transfer_key)
        self.state = "loading"
        self.error = ""
        self.fault = ""
        """The unexpected exception whose traceback was logged last."""
        self.confirmed = 0
        self.next_refresh = 0.0
        self.failures = 0
        self.file = file
        """The copy of a secondary."""
        self._begun = self._installed = 0
        self.unwritten = ""
        """Why the file does not have what serves; empty when it does."""
        self.write_timer: asyncio.TimerHandle | None = None
        self.history = History()
        self.timer: asyncio.TimerHandle | None = None
        self.timers: SoaFields | None = None
        """Those of the content in force; None without."""
        self.expires = 0
        """When the content in force expires."""
        self.expiry_timer: asyncio.TimerHandle | None = None
        """When the rules of a policy zone are withdrawn."""
        self.task: asyncio.Task[None] | None = None
        self.notifying: dict[str, asyncio.Task[None]] = {}
        """NOTIFY messages that are not answered yet, by secondary as in the settings."""
        self.refreshing = False
        """Whether the task is a refresh, and not the writing of a file."""
        self.again = False
        """Whether to refresh once more when the refresh in progress has ended."""
        self.notified = 0.0
        """When the last refresh began that a NOTIFY asked for (loop time)."""
        self.notify_due = 0.0
        """When the refresh begins that a NOTIFY soon after the last one asked for (loop time); 0: none waits."""

    def begin(self) -> int:
        """The number of a reading of content that begins now."""
        self._begun += 1
        return self._begun

    def is_wanted(self, number: int, *, begun: bool) -> bool:
        """Whether the reading `number` is to continue, or to begin unless it has `begun`. One that waits for a thread
        while a later one is asked for does not begin; one that has begun ends only when a later one was quicker, so
        that frequent requests do not keep all from their end."""
        return number > self._installed if begun else number == self._begun

    def may_install(self, number: int) -> bool:
        """Whether what the reading `number` has found is put in force; False when a later one was quicker."""
        if number <= self._installed:
            return False
        self._installed = number
        return True

    @property
    def secondary(self) -> bool:
        """Whether the zone comes from primaries."""
        return bool(self.settings.primaries)

    @property
    def policy(self) -> bool:
        """Whether it is a response policy zone."""
        return self.settings.mode == POLICY

    async def history_with(self, differences: Sequence[Difference], *, whole: bool) -> History:
        """The history for IXFR to secondaries after `differences`, made in a thread; a policy zone has none. `whole`:
        the zone was replaced. Without a thread or memory it is empty, because the content serves without it, too."""
        if self.policy:
            return self.history
        try:
            return await in_thread(partial(self.history.following, differences, whole=whole))
        except (OSError, MemoryError) as error:
            logger.warning("zone %s: secondaries get all of it, because its differences cannot be kept: %s",
                           names.to_text(self.origin), getattr(error, "strerror", None) or "out of memory")
            return self.history.following((), whole=True)

    # --- what is shown --------------------------------------------------------------------------------------------

    def problems(self, served: ServedZone | None, now: int) -> list[str]:
        """What an operator must act on: zones whose names get SERVFAIL, zone files that cannot be used, copies that
        cannot be written, policy zones without rules. A refresh that fails is none while the content may be used, and a
        zone that is resolved meanwhile is none. `served` is the content in force."""
        name, found = names.to_text(self.origin), []
        unusable = served is not None and served.usable(now) is None and self.state != "loading"
        why = f": {self.error}" if self.error else ""
        if unusable and self.policy:
            what = "has no content yet" if self.timers is None else "has expired"
            found.append(f"response policy zone {name}: it {what}, so none of its rules are in force{why}")
        elif unusable and served is not None and served.mode is Mode.AUTHORITATIVE and not served.fallback:
            found.append(f"zone {name}: it is not served, so its names get SERVFAIL{why}")
        elif self.state == "failed" and not self.secondary:
            found.append(f"zone {name}: {self.error}; the content before it is served")
        if self.unwritten:
            found.append(f"zone {name}: {self.unwritten}; it is served from memory, and after a restart an older"
                         " version or none is (zones.directory)")
        return found

    def describe(self, served: ServedZone | None, now: int) -> dict[str, Any]:
        """The state of the zone, for resolverctl. `served` is the content in force."""
        zone = None if served is None else served.zone
        state = self.state
        if zone is not None and served is not None and served.usable(now) is None:
            state = "expired"
        return {
            "zone": names.to_text(self.origin),
            "role": "secondary" if self.secondary else "primary",
            "mode": self.settings.mode,
            "state": state,
            "error": self.error,
            "serial": None if zone is None else zone.serial,
            "records": 0 if zone is None else zone.records,
            "age": now - self.confirmed if self.confirmed else None,
            "next_refresh": int(max(self.next_refresh - now, 0)) if self.timer is not None else None,
            "expires": served.expires - now if served is not None and served.expires else None,
        }
