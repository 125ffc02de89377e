"""The configurations of a worker that were replaced, until their last query is answered, and what they leave behind.

A query is completed by the configuration that has received it. So a replaced one stays until it has no pending query,
or its query timeout has passed (`retire`). Then it is closed, and the cache flushed if its last queries may have stored
outdated answers.

State: `draining` has the replaced configurations that still have queries, and the task that waits for each.
`closing_outputs` has the outputs of the query log and dnstap that were stopped, until their threads have ended.
Counters of both are added to those of the worker when they are taken out, so no sum goes back.
"""

import asyncio
import gc
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache import Store
from resolver.daemon.runtime_config import RuntimeConfig
from resolver.daemon.timers import Timers
from resolver.daemon.worker_commands import of_outputs, of_runtime, of_shared
from resolver.observe.catalogue import Statistics
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.observe.output import Output

__all__ = ["ReplacedConfigs", "ReplacingHost"]

logger = logging.getLogger(__name__)


class ReplacingHost(Protocol):
    """What replaced configurations need of their worker."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def current(self) -> RuntimeConfig: ...

    @property
    def store(self) -> Store: ...

    @property
    def timers(self) -> Timers: ...

    @property
    def stopping(self) -> "asyncio.Future[str]": ...

    def remember(self, statistics: Statistics) -> None: ...

    def try_clear(self) -> None: ...

    def flush_names(self, origin: bytes) -> Coroutine[Any, Any, None]: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class ReplacedConfigs:
    """The replaced configurations of one worker."""

    def __init__(self, host: ReplacingHost) -> None:
        self._host = host
        self.draining: dict[RuntimeConfig, asyncio.Task[None]] = {}
        self.closing_outputs: list[Output] = []

    def add(self, old: RuntimeConfig) -> None:
        """`old` gets no more queries."""
        self.draining[old] = self._host.loop.create_task(self.retire(old))

    async def retire(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration when its last query is answered, or after its query timeout."""
        loop = self._host.loop
        until = loop.time() + old.settings.iteration.query_timeout
        while old.service.waiting and loop.time() < until:
            await asyncio.sleep(limits.DRAIN_POLL / 1000)
        has_modules = old.hook_modules is not None
        self._finish(old)
        del old
        if has_modules:
            # The functions of a module and its variables refer to each other, and the operator's tables may be large.
            # Only the collector knows whether a thread or an exit handler of the module needs them still.
            gc.collect()

    def stop(self) -> None:
        """The worker stops: close all, and the configuration in force, and wait for the threads of their outputs."""
        for old, task in list(self.draining.items()):
            task.cancel()
            self._finish(old)
        self.closing_outputs += self._host.current.close()
        for output in self.closing_outputs:
            output.join()
            output.note_unwritten()

    def collect_ended_outputs(self) -> None:
        """Remember the counters of stopped outputs whose threads have ended, and look again for the others."""
        for output in [one for one in self.closing_outputs if not one.alive]:
            self.closing_outputs.remove(output)
            output.note_unwritten()
            self._host.remember(of_outputs([output]))
        if self.closing_outputs:
            self._host.timers.start("outputs", limits.OBSERVE_STOP / 1000, self.collect_ended_outputs)

    def _finish(self, old: RuntimeConfig) -> None:
        """Close a replaced configuration, and flush the cache if its last queries may have stored outdated answers."""
        host = self._host
        del self.draining[old]
        host.remember(of_runtime(old))
        host.remember(of_shared((old,), (host.current, *self.draining)))
        self.closing_outputs += old.close(host.current)
        self.collect_ended_outputs()
        if old.flush_on_close:
            host.try_clear()
        for name in old.names_on_close:
            if host.stopping.done():
                self._drop(name)  # no task is run any more, and the cache may be saved
            else:
                host.start_task(host.flush_names(name))

    def _drop(self, name: bytes) -> None:
        """Flush what is cached at and below `name`; log when that is impossible."""
        try:
            self._host.store.drop(name, subtree=True)
        except BlockingIOError as error:
            logger.warning("%s: old answers stay cached until their TTL expires: %s", names.to_text(name), error)
