"""The own zones of a worker, and how all workers get the same content.

Only the first worker transfers zones. Each worker reads zone files and the copies on disk at its start. After a change
the first worker tells the others to read the copy again, or sends the content when there is no current copy on disk. A
NOTIFY that another worker has received is passed on to the first one.
"""

import logging
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from resolver.observe.catalogue import Statistics
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.daemon.zone_keeper import ZoneKeeper

__all__ = ["ZoneHost", "ZoneSharing"]

logger = logging.getLogger(__name__)


class ZoneHost(Protocol):
    """What zones need of their worker."""

    @property
    def number(self) -> int: ...

    @property
    def links(self) -> "WorkerChannels | None": ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...

    def flush_names(self, name: bytes) -> Coroutine[Any, Any, None]: ...

    def remember(self, statistics: Statistics) -> None: ...


class ZoneSharing:
    """The zones of the configuration in force; `keeper` is None without zones."""

    def __init__(self, host: ZoneHost) -> None:
        self._host = host
        self.keeper: ZoneKeeper | None = None

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

    def stop(self) -> None:
        """Stop refreshing."""
        if self.keeper is not None:
            self.keeper.stop()

    def _make(self, runtime: "RuntimeConfig") -> "ZoneKeeper | None":
        settings = runtime.settings
        if not settings.own_zones:
            return None
        from resolver.daemon.zone_keeper import ZoneKeeper
        from resolver.net.zone_server import ZoneServer

        resolver, host = runtime.resolver, self._host
        keeper = ZoneKeeper(
            settings, resolver.zones, resolver.tls_contexts, leads=not host.number, now=resolver.clock.time,
            changed=self._publish, flush=self._flush, directory=settings.zones.directory,
        )

        def notified(origin: bytes) -> None:
            if not host.number:
                keeper.take_notify(origin)
            elif host.links is not None:
                host.links.tell_first({"notify": names.to_text(origin)})

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
        if self._host.number and self.keeper is not None and self._host.links is not None:
            self._host.links.tell_first({"zones-read": True})

    def on_event(self, event: dict[str, Any]) -> None:
        """In the first worker: another one has received a NOTIFY, or has read the files of the zones."""
        if self.keeper is None:
            return
        if "notify" in event:
            self.keeper.take_notify(names.from_text(event["notify"]))
        if "zones-read" in event:
            for origin in self.keeper.unwritten:
                self._publish(origin)

    def _publish(self, origin: bytes) -> None:
        """Make the other workers read a zone that this one has changed."""
        if self._host.links is not None:
            self._host.start_task(self._send(self._host.links, origin))

    async def _send(self, links: "WorkerChannels", origin: bytes) -> None:
        from resolver.daemon.worker_ipc import WorkerError

        if self.keeper is None:
            return
        name = names.to_text(origin)
        try:
            with await self.keeper.open_content(origin) or nullcontext() as file:
                for number in links.others:
                    try:
                        await links.ask(number, {"command": "take-zone", "name": name}, file=file)
                    except WorkerError as error:
                        logger.warning("zone %s: %s; it has the older version until the next change", name, error)
        except OSError as error:
            logger.error("zone %s: other workers cannot get the content: %s; they have the older version until the next"
                         " change", name, error.strerror)

    def _flush(self, origin: bytes) -> None:
        """Flush the cached answers at and below the name of a zone. The first worker does it for all."""
        if not self._host.number:
            self._host.start_task(self._host.flush_names(origin))
