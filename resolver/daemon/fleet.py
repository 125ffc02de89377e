"""Acts on messages of other resolvers that use the same second-level cache: flushes, and negative trust anchors.

The configuration in force receives them (`SecondLevel.on_message`). Every worker gets each message; the first one
flushes the cache, which all workers of the daemon share. It makes one flush after the other. When too many wait, it
flushes everything instead.

Negative trust anchors are run-time changes (`ChangeKeeper`), made one after the other by the first worker in all
workers. Those that came before the start have no effect: the file of the changes has what was in force.

The cache may be older than the process: it outlives the first worker, and a snapshot outlives the daemon. So the cache
has the time up to which flushes were made in it (`Table.fleet_read`). It is set when a poll has read all messages and
their flushes are made, and a process that starts makes those that were sent since.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache import Store
from resolver.cache.fleet_messages import SIGNED_KINDS

if TYPE_CHECKING:
    from resolver.cache.fleet_messages import Message
    from resolver.daemon.change_keeper import ChangeKeeper
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
    def store(self) -> Store: ...

    @property
    def channels(self) -> "WorkerChannels | None": ...

    @property
    def commands(self) -> "WorkerCommands": ...

    @property
    def change_keeper(self) -> "ChangeKeeper | None": ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class Fleet:
    """The messages to one worker."""

    def __init__(self, host: FleetHost) -> None:
        self._host = host
        self._waiting: deque[dict[str, Any]] = deque()
        """Flushes to be made; the first one is being made."""
        self._changes: deque[Message] = deque()
        """Negative trust anchors to be added or removed; the first one is."""
        self._read = 0
        """When the last poll began that has read all messages."""

    def follow(self, current: "RuntimeConfig", before: "RuntimeConfig | None" = None) -> None:
        """Get the messages by `current` instead of `before`."""
        second = current.resolver.second_level
        replaced = None if before is None else before.resolver.second_level
        if replaced is not None:
            replaced.on_message = replaced.on_read = None
            if second is not None:
                second.carry_over(replaced)
        if second is None:
            return
        second.on_message = self._take
        if not self._host.number:
            table = self._host.store.table
            table.fleet_read = second.acts_from = table.fleet_read or second.clock.time()  # empty until now
            second.on_read = self._note_read

    def _take(self, message: "Message") -> None:
        if message.kind in SIGNED_KINDS and not message.own and not self._host.number:
            if len(self._changes) > limits.FLEET_OUTBOX:
                logger.warning("second-level cache: too many changes of other resolvers wait; %s is not made",
                               message.kind)
                return
            self._changes.append(message)
            if len(self._changes) == 1:
                self._host.start_task(self._make_changes())
            return
        if message.kind != "flush" or message.fields.get("caches") is not True or message.own or self._host.number:
            return
        if len(self._waiting) > limits.FLEET_OUTBOX:
            while len(self._waiting) > 1:
                self._waiting.pop()
            message.fields.update(name=None, type=None)
        self._waiting.append(message.fields)
        if len(self._waiting) == 1:
            self._host.start_task(self._flush_waiting())

    def _note_read(self, when: int) -> None:
        """All messages were read that were there at the time `when`."""
        self._read = when
        if not self._waiting:
            self._host.store.table.fleet_read = when

    async def _make_changes(self) -> None:
        while self._changes:
            await self._make_change(self._changes[0])
            self._changes.popleft()

    async def _make_change(self, message: "Message") -> None:
        """Add or remove a negative trust anchor as another resolver was told to."""
        keeper = self._host.change_keeper
        try:
            if keeper is None:
                raise ValueError("the daemon is starting")
            await keeper.perform_for_fleet(message.kind, message.fields)
        except ValueError as error:
            logger.warning("second-level cache: %s of another resolver is not made: %s", message.kind, error)

    async def _flush_waiting(self) -> None:
        while self._waiting:
            await self._flush(self._waiting[0])
            self._waiting.popleft()
        self._note_read(self._read)

    async def _flush(self, fields: dict[str, Any]) -> None:
        """Flush the cache as another resolver was told to."""
        from resolver.daemon.worker_ipc import WorkerError

        request = {key: fields.get(key) for key in ("name", "subtree", "type")}
        channels = self._host.channels
        if channels is not None:
            for number in channels.others:
                try:
                    await channels.ask(number, {**request, "command": "mark-flush"})
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
