"""Acts on messages of other resolvers that use the same second-level cache: flushes.

The configuration in force receives them (`SecondLevel.on_message`). Every worker gets each message; the first one
flushes the cache, which all workers of the daemon share.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from resolver.cache.fleet_messages import Message
    from resolver.daemon.runtime_config import RuntimeConfig
    from resolver.daemon.worker_commands import WorkerCommands
    from resolver.daemon.worker_ipc import WorkerChannels

__all__ = ["Fleet", "FleetHost"]

logger = logging.getLogger(__name__)


class FleetHost(Protocol):
    """What is needed of the worker."""

    @property
    def number(self) -> int: ...

    @property
    def links(self) -> "WorkerChannels | None": ...

    @property
    def commands(self) -> "WorkerCommands": ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class Fleet:
    """The messages to one worker."""

    def __init__(self, host: FleetHost) -> None:
        self._host = host

    def follow(self, current: "RuntimeConfig", before: "RuntimeConfig | None" = None) -> None:
        """Get the messages by `current` instead of `before`."""
        second = current.resolver.second_level
        replaced = None if before is None else before.resolver.second_level
        if replaced is not None:
            replaced.on_message = None
            if second is not None:
                second.carry_over(replaced)
        if second is not None:
            second.on_message = self._take

    def _take(self, message: "Message") -> None:
        if message.kind == "flush" and message.fields.get("caches") is True and not (message.own or self._host.number):
            self._host.start_task(self._flush(message.fields))

    async def _flush(self, fields: dict[str, Any]) -> None:
        """Flush the cache as another resolver was told to."""
        from resolver.daemon.worker_ipc import WorkerError

        request = {key: fields.get(key) for key in ("name", "subtree", "type")}
        links = self._host.links
        if links is not None:
            for number in links.others:
                try:
                    await links.ask(number, {**request, "command": "mark-flush"})
                except WorkerError as error:
                    logger.warning("second-level cache: %s; it learns of the flush by itself", error)
        try:
            entries = 0
            for gone in self._host.commands.flush(request):
                entries += gone
                await asyncio.sleep(0)
        except ValueError as error:
            logger.warning("second-level cache: another resolver asked for a flush that failed: %s", error)
            return
        what = request["name"] or "everything"
        logger.info("second-level cache: flushed %s for the fleet, %d entries", what, entries)
