"""The own zones of a worker, and how all workers get the same content.

Only the first worker transfers zones. Each worker reads zone files and the copies on disk at its start. After a change
the first worker tells the others to read the copy again, or sends the content when there is no current copy on disk, or
a worker cannot read it. A worker that has the version already takes only when it was confirmed. A NOTIFY that another
worker has received is passed on to the first one.

Anybody may cause NOTIFY messages with forged addresses, and the queue to the first worker has room for few messages,
which the replies of a reload need. So a worker sends at most one event in `limits.ZONE_NOTIFY_INTERVAL`, with all zones
that are concerned; what does not fit follows with the next one.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.observe.catalogue import Statistics
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.daemon.zone_files import ZoneFiles
    from resolver.daemon.zone_keeper import ZoneKeeper

__all__ = ["ZoneHost", "ZoneSharing"]

logger = logging.getLogger(__name__)

EVENT_ROOM = limits.WORKER_MESSAGE // 2
"""Octets of the names in one event; the rest of a message is more than enough for what surrounds them."""


class ZoneHost(Protocol):
    """What zones need of their worker."""

    @property
    def number(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    @property
    def channels(self) -> "WorkerChannels | None": ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...

    def flush_names(self, name: bytes) -> Coroutine[Any, Any, None]: ...

    def remember(self, statistics: Statistics) -> None: ...

    def apply_list_change(self, asks_servers: bool) -> None: ...


class ZoneSharing:
    """The zones of the configuration in force; `keeper` is None without zones."""

    def __init__(self, host: ZoneHost) -> None:
        self._host = host
        self.keeper: ZoneKeeper | None = None
        self._files: ZoneFiles | None = None
        self._events: dict[tuple[str, bytes], None] = {}
        """What the first worker must be told: kind of event and zone, in the order in which they came."""
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, runtime: "RuntimeConfig") -> None:
        """Make the zones of the first configuration, and read those on disk."""
        self.keeper = self._make(runtime)
        if self.keeper is not None:
            await self.keeper.start()

    def switch(self, runtime: "RuntimeConfig") -> None:
        """Keep the zones of a new configuration. Until they are read again, the content so far serves."""
        before, self.keeper = self.keeper, self._make(runtime)
        if before is not None:
            before.stop()
            if not self._host.number:
                self._host.remember({"zones": before.statistics()})
        if self.keeper is not None:
            if before is not None:
                self.keeper.carry_over(before)
            self._host.start_task(self._read(self.keeper))

    def catch_up(self) -> None:
        """An upgrade has ended: get what only the other process has read or transferred, or had a NOTIFY for."""
        if self.keeper is not None:
            self.keeper.catch_up()

    def stop(self) -> None:
        """Stop refreshing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.keeper is not None:
            self.keeper.stop()

    def _make(self, runtime: "RuntimeConfig") -> "ZoneKeeper | None":
        settings = runtime.settings
        if not settings.own_zones:
            return None
        from resolver.daemon.zone_files import ZoneFiles
        from resolver.daemon.zone_keeper import ZoneKeeper
        from resolver.net.zone_server import ZoneServer

        resolver, host = runtime.resolver, self._host
        if self._files is None:
            self._files = ZoneFiles()
        keeper = ZoneKeeper(
            settings, resolver.zones, resolver.tls_contexts, leads=not host.number, now=resolver.clock.time,
            changed=self._publish, flush=self._flush, directory=settings.zones.directory, files=self._files,
            wanted=lambda origin: self._queue_event("damaged", origin), lists=runtime.lists,
            rules_changed=host.apply_list_change, main=lambda: host.is_main,
        )

        def notified(origin: bytes) -> None:
            if host.number:
                self._queue_event("notify", origin)
            else:
                keeper.take_notify(origin)

        runtime.service.zone_server = ZoneServer(
            settings, resolver.zones, keeper.history_of, resolver.clock.time, notified, runtime.service
        )
        return keeper

    async def _read(self, keeper: "ZoneKeeper") -> None:
        await keeper.start()
        self.ask_for_unwritten()

    # --- between workers ------------------------------------------------------------------------------------------

    def ask_for_unwritten(self) -> None:
        """After the zones on disk were read: ask the first worker for those that are not on disk."""
        if self._host.number and self.keeper is not None and self._host.channels is not None:
            self._host.channels.send_to_first({"zones-read": True})

    def _queue_event(self, kind: str, origin: bytes) -> None:
        """Report an event of a zone to the first worker, now or at the end of the interval."""
        if self._host.channels is not None:
            self._events[kind, origin] = None
            if self._timer is None:
                self._send_events()

    def _send_events(self) -> None:
        """Send what there is, as far as it fits into one message."""
        self._timer = None
        if not self._events or self._host.channels is None:
            return
        event: dict[str, list[str]] = {}
        room = EVENT_ROOM
        for kind, origin in list(self._events):
            name = names.to_text(origin)
            room -= len(json.dumps(name))
            if room < 0:
                break
            del self._events[kind, origin]
            event.setdefault(kind, []).append(name)
        self._host.channels.send_to_first(event)
        interval = limits.ZONE_NOTIFY_INTERVAL / 1000
        self._timer = asyncio.get_running_loop().call_later(interval, self._send_events)

    def on_event(self, event: dict[str, Any]) -> None:
        """In the first worker: another one has received NOTIFY messages, or has read the files of the zones, or cannot
        use some of them."""
        if self.keeper is None:
            return
        for name in event.get("notify", ()):
            self.keeper.take_notify(names.from_text(name))
        for name in event.get("damaged", ()):
            self.keeper.replace_copy(names.from_text(name))
            self._publish(names.from_text(name), always=True)
        if "zones-read" in event:
            for origin in self.keeper.unwritten:
                self._publish(origin)

    def _publish(self, origin: bytes, *, always: bool = False) -> None:
        """Make the other workers read a zone that this one has changed; `always` from memory."""
        if self._host.channels is not None:
            self._host.start_task(self._send(self._host.channels, origin, always=always))

    async def _send(self, channels: "WorkerChannels", origin: bytes, *, always: bool) -> None:
        from resolver.daemon.worker_ipc import WorkerError

        if self.keeper is None:
            return
        name = names.to_text(origin)
        try:
            content = await self.keeper.open_content(origin, always=always)
            if content is None and always:
                return  # the file is what the others cannot use
            request: dict[str, Any] = {"command": "take-zone", "name": name}
            confirmation = self.keeper.confirmation(origin)
            if content is None and confirmation is not None:
                request |= {"serial": confirmation[0], "confirmed": confirmation[1]}
            with content or nullcontext() as file:
                for number in channels.others:
                    try:
                        await channels.ask(number, request, file=file)
                    except WorkerError as error:
                        logger.warning("zone %s: %s; it has the older version until the next change", name, error)
        except OSError as error:
            logger.error("zone %s: other workers cannot get the content: %s; they have the older version until the next"
                         " change", name, error.strerror)

    def _flush(self, origin: bytes) -> None:
        """Flush the cached answers at and below the name of a zone. The first worker does it for all."""
        if not self._host.number:
            self._host.start_task(self._host.flush_names(origin))
