"""Reloads in one worker: alone, as the first of several, which leads, or as one that follows it.

A reload is all or nothing. Each step that can fail is done before the switch and undone when a later one fails
(`SwitchPreparation`); the switch itself cannot fail. Several workers reload together, by the protocol of
`config_reload`: the first one does it in `reload_all`, and its requests to the others end in `prepare`, `commit` and
`abort` there.

State: `lock` is held by every change of the configuration (reloads, run-time changes, alignment), so each waits for its
turn. `requested`: a reload by SIGHUP was requested and has not begun, so another signal adds none. `problem` is why the
last reload was refused, "" when it was not. During an upgrade no reload begins: one by SIGHUP is left to whichever
process serves afterwards (`WorkerUpgrades.postpone_reload`), others are refused.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from resolver.cache import Store
from resolver.daemon.config_reload import (
    RefusedError,
    abort_workers,
    commit_workers,
    describe_error,
    log_reload_error,
    prepare_workers,
    report_to_supervisor,
)
from resolver.daemon.runtime_config import RuntimeConfig
from resolver.daemon.service_manager import ServiceManager
from resolver.daemon.switch_preparation import Prepared, SwitchPreparation
from resolver.daemon.worker_ipc import NO_RELOAD, RELOAD_BEGINS
from resolver.daemon.worker_upgrade import REFUSAL
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.worker_ipc import WorkerChannels
    from resolver.daemon.worker_options import Options
    from resolver.daemon.worker_upgrade import WorkerUpgrades

__all__ = ["ReloadHost", "WorkerReloads"]

logger = logging.getLogger(__name__)


class ReloadHost(Protocol):
    """What reloads need of their worker."""

    @property
    def number(self) -> int: ...

    @property
    def options(self) -> "Options": ...

    @property
    def multi_worker(self) -> bool: ...

    @property
    def channels(self) -> "WorkerChannels | None": ...

    @property
    def upgrades(self) -> "WorkerUpgrades": ...

    @property
    def preparation(self) -> SwitchPreparation: ...

    @property
    def configured(self) -> Settings: ...

    @property
    def current(self) -> RuntimeConfig: ...

    @property
    def store(self) -> Store: ...

    @property
    def stopping(self) -> "asyncio.Future[str]": ...

    def describe_service(self) -> str: ...

    def switch(self, new: Prepared) -> None: ...

    def try_clear(self) -> None: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class WorkerReloads:
    """The reloads of one worker."""

    def __init__(self, host: ReloadHost) -> None:
        self._host = host
        self.lock = asyncio.Lock()
        self.requested = False
        self.problem = ""

    # --- the single worker, and the first of several --------------------------------------------------------------

    def on_signal(self) -> None:
        """SIGHUP: start a reload, unless one is already waiting to start."""
        host = self._host
        if host.number:
            logger.info("reload: worker %d ignores SIGHUP; send it to the supervisor", host.number)
        elif host.upgrades.running:
            host.upgrades.postpone_reload()
        elif not self.requested and not host.stopping.done():
            self.requested = True
            host.start_task(self.reload_in_turn())

    async def reload_in_turn(self) -> None:
        """The reload of a signal."""
        async with self.lock:
            self.requested = False
            if self._host.upgrades.running:
                self._host.upgrades.postpone_reload()
            else:
                await self.run()

    async def perform(self) -> str:
        """Reload the configuration. Return "" when it is in force, else the reason why the old one was kept."""
        async with self.lock:
            return REFUSAL if self._host.upgrades.running else await self.run()

    async def run(self) -> str:
        """One reload, of which the service manager is notified unless there is a supervisor that does it."""
        host = self._host
        manager = ServiceManager() if host.multi_worker else host.options.manager
        manager.reloading()
        try:
            self.problem = await self.reload_all()
        except Exception as error:
            self.problem = describe_error(error)  # what was there before is not why
            raise
        finally:
            refused = self.problem
            manager.ready(f"the last reload was refused: {refused}" if refused else host.describe_service())
        return self.problem

    async def reload_all(self) -> str:
        """One reload; the first of several workers reloads the others too."""
        host = self._host
        asked = host.channels.reloads.last_request() if host.channels is not None else 0
        if host.channels is not None and not asked:
            report_to_supervisor(host.channels, RELOAD_BEGINS, None)
        try:
            new = await host.preparation.prepare_leading()
            with new.undo:
                if host.channels is not None:
                    await prepare_workers(host.channels, new.configured)
                if new.runtime.rules != host.current.rules:
                    host.store.clear()  # last, so that a failed reload does not flush the cache
                new.undo.pop_all()
        except (ValueError, OSError, MemoryError, RefusedError) as error:
            # Whatever the reason, the other workers must discard what they have prepared.
            if host.channels is not None:
                await abort_workers(host.channels)
                report_to_supervisor(host.channels, asked, None)
            return log_reload_error(error)
        host.switch(new)
        if host.channels is None:
            return ""
        self.report_settings(asked)
        missing = await commit_workers(host.channels)
        return f"the new configuration is in force, but not in all workers: {missing}" if missing else ""

    def report_settings(self, asked: int = NO_RELOAD) -> None:
        """Tell the supervisor which settings are in force. `asked` is the number of the reload that it requested."""
        host = self._host
        assert host.channels is not None
        report_to_supervisor(host.channels, asked, (host.configured, host.current.settings))

    # --- the other workers, which run these steps in the order of the requests ------------------------------------

    async def prepare(self, expected: str = "") -> None:
        """Prepare a switch that the first worker will commit or abort. `expected` is the digest of its settings.

        Raises:
            ValueError: the configuration is invalid; the text says where and why.
            OSError: an address or a descriptor is not available.
        """
        async with self.lock:
            await self._host.preparation.hold_file(expected)

    async def abort(self) -> None:
        """Discard what an earlier request prepares or has prepared."""
        async with self.lock:
            self._host.preparation.discard()

    async def commit(self) -> None:
        """Switch after the first worker.

        Raises:
            ValueError, OSError: this worker was started after the preparation and cannot prepare now.
        """
        preparation = self._host.preparation
        async with self.lock:
            if preparation.held is None:
                await preparation.hold_file()
            self.switch_to(preparation.take_held())

    def switch_to(self, new: Prepared) -> None:
        """Switch in a worker that does not lead, which cannot refuse because the cache is not flushed."""
        host = self._host
        new.undo.pop_all()
        if new.runtime.rules != host.current.rules:
            host.try_clear()
        host.switch(new)
