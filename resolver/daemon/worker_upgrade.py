"""Upgrades in the worker that serves the control socket: it does them itself, or asks the supervisor.

While one is running, a reload by SIGHUP waits for its end, and other reloads, run-time changes and flushes are refused:
the new process may have read its files before. A reload that waits is done by whichever process serves afterwards. The
same holds in the new process until it is the main one.

What cannot be refused is caught up with: both processes get NOTIFY messages, and the old one keeps changing files and
the cache. So when the new one is the main process, it reads all state on disk again, queries all primaries, and flushes
its cache if the old one has flushed something meanwhile. When the upgrade fails, the old one does the same.
"""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache import Store
from resolver.daemon.cache_file import snapshot
from resolver.daemon.sockets import Endpoint
from resolver.daemon.successor import STOPS, Successor, pass_on_reload
from resolver.daemon.worker_ipc import WorkerChannels
from resolver.daemon.worker_options import Options
from resolver.log_limit import LimitedWarning
from resolver.settings import Settings

if TYPE_CHECKING:
    from resolver.daemon.runtime_config import RuntimeConfig

__all__ = ["CONFIRMED", "HANDED_OVER", "IN_PROGRESS", "REFUSAL", "WorkerUpgrades"]

logger = logging.getLogger(__name__)

HANDED_OVER = b"u"
"""What the supervisor sends to a worker when a new process serves in its place."""
CONFIRMED = b"m"
"""What the supervisor sends to a worker when its process, which an upgrade has started, is the main one."""
IN_PROGRESS = "an upgrade is in progress"
POLL = limits.UPGRADE_POLL / 1000
REFUSAL = f"{IN_PROGRESS}: try again when it has ended"


class Reloads(Protocol):
    """What an upgrade needs of the worker's reloads."""

    @property
    def lock(self) -> asyncio.Lock: ...

    @property
    def requested(self) -> bool: ...

    def on_signal(self) -> None: ...


class Host(Protocol):
    """What an upgrade needs of the worker."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def options(self) -> Options: ...

    @property
    def channels(self) -> WorkerChannels | None: ...

    @property
    def configured(self) -> Settings: ...

    @property
    def current(self) -> "RuntimeConfig": ...

    @property
    def store(self) -> Store: ...

    @property
    def uses_cache_file(self) -> bool: ...

    @property
    def endpoints(self) -> Sequence[Endpoint]: ...

    @property
    def reloads(self) -> Reloads: ...

    @property
    def stopping(self) -> "asyncio.Future[str]": ...

    def hand_over(self) -> None: ...

    def catch_up(self) -> Coroutine[Any, Any, None]: ...

    def start_task(self, work: Coroutine[Any, Any, Any]) -> None: ...


class WorkerUpgrades:
    """The upgrades of one worker. `running`: one is in progress or has succeeded, so reloads and changes are for the
    new process; `reload_after`: a reload waits for its end. `replaced_by` is the process that serves in place of this
    one after an upgrade, 0 without. `confirmed`: this process is the main one, or has been; one that an upgrade has
    started is not until the old process says so, and `running` until then."""

    def __init__(self, host: Host, *, confirmed: bool = True, running: bool = False) -> None:
        self._host = host
        self._waiting: list[asyncio.Future[int]] = []
        self.confirmed = confirmed
        self.running = running or not confirmed
        self.reload_after = False
        self.replaced_by = 0
        #: without a supervisor: the process of the upgrade in progress, its task, and what wakes that.
        self._successor: Successor | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        # A program that repeats the signal must not fill the disk.
        self._refusals = LimitedWarning(logger, different=limits.LOG_FAILURES)

    async def perform(self) -> int:
        """Do an upgrade and return the number of the process that serves now.

        Raises:
            ValueError: it was refused or has failed; the text says why.
        """
        self._refuse()
        host = self._host
        result: asyncio.Future[int] = host.loop.create_future()
        if host.channels is None:
            self._waiting.append(result)
            self._start()
        else:
            try:
                host.channels.upgrades.request()
            except OSError as error:
                raise ValueError(f"the supervisor does not accept requests: {error.strerror}") from None
            self._waiting.append(result)
        return await result

    def _refuse(self) -> None:
        """Raise ValueError when an upgrade cannot begin now."""
        host = self._host
        if self.running or self._waiting:
            raise ValueError(IN_PROGRESS)
        if host.reloads.lock.locked() or host.reloads.requested:
            raise ValueError("a reload is in progress")

    def on_signal(self) -> None:
        """SIGUSR2 to the single worker."""
        try:
            self._refuse()
        except ValueError as error:
            self._refusals.warn("upgrade: refused: %s", str(error))
            return
        self._start()

    def take_reports(self) -> None:
        """Take what the supervisor has told of its upgrades."""
        assert self._host.channels is not None
        for message in self._host.channels.upgrades.reports():
            if message["running"]:
                self.running = True
            else:
                self._finish(message["pid"], message["error"])

    def confirm(self) -> None:
        """This process was started by an upgrade and is the main one now."""
        self.confirmed = True
        self._end(0)

    # --- without a supervisor -------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.running = True
        self._task = self._host.loop.create_task(self._run())

    @property
    def starting(self) -> bool:
        """Whether a new process starts, or ends after `stop`."""
        return self._successor is not None

    def stop(self) -> None:
        """This process stops. A new process that it has started ends, too; that is waited for while `starting`."""
        if self._successor is not None:
            self._successor.stop(time.monotonic())
            self._heard.set()

    async def _run(self) -> None:
        host = self._host
        pid, error = 0, STOPS
        successor = None
        pieces = snapshot(host.store, host.current.settings) if host.uses_cache_file else None
        try:
            if host.stopping.done():
                raise ValueError(error)
            deadline = time.monotonic() + host.configured.server.upgrade_timeout
            self._successor = successor = Successor(
                [host.endpoints], host.options.management, host.options.manager, pieces, deadline,
                lambda: host.store.table.serial,
            )
            await self._wait_until_confirmed(successor)
            self._successor, pid, error = None, successor.pid, ""
            host.hand_over()
        except ValueError as problem:
            error = str(problem)
            if successor is None:
                self._refusals.warn("upgrade: refused: %s", error)
        finally:
            self._successor = None
            if successor is not None:
                if successor.outcome is None:
                    successor.kill()  # this task was cancelled, because the daemon waits no longer
                self.reload_after = self.reload_after or successor.reload_asked
                successor.close()
                if error:
                    self._reap(successor)
            self._finish(pid, error)

    async def _wait_until_confirmed(self, successor: Successor) -> None:
        """Wait until the new process serves, and make it the main one.

        Raises:
            ValueError: it has failed; the text says why.
        """
        while True:
            await self._wait(successor)
            # Time in which the loop polls: a SIGTERM that has come before "ready" is handled first (`stop`).
            await asyncio.sleep(POLL)
            if successor.outcome:
                raise ValueError(successor.outcome)
            if successor.outcome is not None and successor.confirm(time.monotonic()):
                return

    def _reap(self, successor: Successor) -> None:
        """Read the status of a process that was killed when it has ended. Without a descriptor to wait for that, the
        next upgrade does it (`subprocess`)."""
        if successor.ended():
            return
        loop = self._host.loop
        with suppress(OSError):
            descriptor = os.pidfd_open(successor.pid)

            def on_end() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                successor.ended()

            loop.add_reader(descriptor, on_end)

    async def _wait(self, successor: Successor) -> None:
        """Let it work until it has an outcome."""
        loop, heard = self._host.loop, self._heard
        descriptor = successor.fileno()
        loop.add_reader(descriptor, heard.set)
        try:
            while True:
                heard.clear()
                left = successor.advance(time.monotonic())
                if successor.outcome is not None:
                    return
                if successor.ending:
                    loop.remove_reader(descriptor)
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await heard.wait()
        finally:
            loop.remove_reader(descriptor)

    def _finish(self, pid: int, error: str) -> None:
        """An upgrade has ended: `pid` serves now, or `error` says why this process still does."""
        waiting, self._waiting = self._waiting, []
        for result in waiting:
            if result.done():
                continue
            if error:
                result.set_exception(ValueError(error))
            else:
                result.set_result(pid)
        self._end(pid)

    def _end(self, pid: int) -> None:
        """No upgrade is in progress any more. `pid` serves now; 0: this process."""
        begun, self.running = self.running, bool(pid)
        self.replaced_by = pid
        if begun and not pid:
            self._host.start_task(self._host.catch_up())
        if self.reload_after:
            self.reload_after = False
            if pid:
                pass_on_reload(pid)
            else:
                self._host.reloads.on_signal()

    def postpone_reload(self) -> None:
        """SIGHUP while `running`: whichever process serves afterwards reloads."""
        if self.replaced_by:
            pass_on_reload(self.replaced_by)
        else:
            self.reload_after = True
